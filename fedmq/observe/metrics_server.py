"""Whether a service tells how it is: where that was asked for `exposition` does; else its server is not even loaded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

from fedmq.errors import BadConfiguration
from fedmq.runtime.loop import Pulse

if TYPE_CHECKING:
    from fedmq.observe.metrics import Metrics


@contextmanager
def exposed(
    at: tuple[str, int] | None, measure: Callable[[Metrics], None], ready: Callable[[], str]
) -> Iterator[Pulse | None]:
    """Serve at this address (None: do not) what `measure` gives; the loop has to beat the pulse.

    Raises:
        BadConfiguration: the port is in use, or the extra is not installed.
    """
    if at is None:
        yield None
        return
    if find_spec("prometheus_client") is None:
        raise BadConfiguration("--metrics: expected prometheus-client to be installed; pip install 'fedmq[metrics]'")
    from fedmq.observe.metrics import Metrics
    from fedmq.observe.metrics_http import LOOK_S, Server, answers

    metrics, pulse = Metrics(), Pulse()
    measure(metrics)
    try:
        server = Server(*at, answers(metrics, pulse, ready))
    except OSError as error:
        raise BadConfiguration(
            f"--metrics: cannot listen on {at[0]}:{at[1]} ({error.strerror}); choose another port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(LOOK_S,), name="metrics", daemon=True)
    thread.start()
    try:
        yield pulse
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
