"""The HTTP server of the dashboard, in a thread beside the one that watches.

Knows how the two begin and end together; see `guard`, `web` and `gallery` for what is between.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Collection
from typing import Any

import uvicorn

from fedmq.dashboard.connection import TimedProtocol
from fedmq.dashboard.controls import Controls
from fedmq.dashboard.run_catalog import RunCatalog
from fedmq.dashboard.security_middleware import Secrets, SecurityMiddleware
from fedmq.dashboard.server_sent_events import Streams
from fedmq.dashboard.web import Web
from fedmq.observe.host_header import names_of_host

CONNECTIONS_MAX = 256
SEND_BYTES_MAX = 128 << 10  # that wait in the kernel for a reader
HEADERS_BYTES_MAX = 16 << 10
KEEP_ALIVE_S = 5
END_S = 3.0
GONE_S = 4.0  # without any open page, the reader has gone: a page that is loaded again is quicker
NOBODY_S = 60.0
LOOK_S = 0.5

log = logging.getLogger(__name__)


class Server:
    """Serves a gallery on `listener`; when it ends, of itself or by a failure, it stops the gallery.

    `allowed` are names that it has elsewhere, as at a proxy. `token` "": who gets here may read. `wake` ends a wait of
    the thread that steps the gallery.
    """

    def __init__(
        self,
        gallery: RunCatalog,
        listener: socket.socket,
        *,
        host: str,
        allowed: Collection[str],
        token: str,
        controls: Controls | None,
        until_over: str | None,
        wake: Callable[[], None],
    ) -> None:
        self._gallery, self._listener, self._until_over, self._wake = gallery, listener, until_over, wake
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES_MAX)  # of each connection
        address, port = listener.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        any_address = ipaddress.ip_address(address).is_unspecified
        shown = socket.gethostname() if any_address else shown
        self.url = f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
        self._streams = Streams(gallery)
        known = Secrets(token)
        web = Web(gallery, self._streams, known, controls).app()
        guard = SecurityMiddleware(
            web, known, names=names_of_host(host, address) | set(allowed), any_address=any_address, port=port
        )
        self._uvicorn = uvicorn.Server(_config(guard))
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)
        self._failed: BaseException | None = None

    def check(self) -> None:
        """Nothing, if it ended because it was to.

        Raises:
            BaseException: what ended it.
        """
        if self._failed is not None:
            raise self._failed

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """End, and wait for the end for a while."""
        self._end()
        if self._thread.is_alive():
            self._thread.join(END_S)
        self._listener.close()

    def _serve(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001  # `check` raises it where it is seen
            self._failed = error
        finally:
            self._gallery.stop()
            self._wake()

    async def _main(self) -> None:
        """Answer, until one of those that go on beside it ends."""
        beside = [asyncio.create_task(self._streams.run())]
        if self._until_over is not None:
            beside.append(asyncio.create_task(self._end_when_over(self._until_over)))
        for task in beside:
            task.add_done_callback(self._end)
        await self._uvicorn.serve(sockets=[self._listener])
        for task in beside:
            if task.done():
                task.result()

    def _end(self, _task: object = None) -> None:
        self._uvicorn.should_exit = True

    async def _end_when_over(self, run: str) -> None:
        """Until that run is over and nobody looks any more."""
        clock = asyncio.get_running_loop().time
        over_at: float | None = None
        left_at, opened = clock(), 0
        while True:
            await asyncio.sleep(LOOK_S)
            now = clock()
            if self._streams.open or self._streams.opened > opened:
                left_at, opened = now, self._streams.opened
            if over_at is None and await asyncio.to_thread(self._gallery.is_over, run):
                over_at = now
            if over_at is not None and now - max(over_at, left_at) >= (GONE_S if opened else NOBODY_S):
                return


def _config(app: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=TimedProtocol,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,  # a URL may have a token in it
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        h11_max_incomplete_event_size=HEADERS_BYTES_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
    )
