"""The HTTP server of the dashboard, in a thread next to the one that steps the run catalog."""

import asyncio
import ipaddress
import logging
import socket
import threading
from collections.abc import Callable, Collection
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from fedmq.dashboard.controls import Controls
from fedmq.dashboard.run_catalog import RunCatalog
from fedmq.dashboard.security_middleware import SecurityMiddleware, ServerSecrets
from fedmq.dashboard.server_sent_events import PageStreams
from fedmq.dashboard.web import WebApp
from fedmq.observe.host_header import names_of_host

CONNECTIONS_MAX = 256
SEND_BYTES_MAX = 128 << 10  # in the kernel's buffer of a connection
HEADERS_BYTES_MAX = 16 << 10
KEEP_ALIVE_S = 5
END_S = 3.0
LAST_PAGE_S = 4.0  # after the last page closed; longer than a reload takes
NO_PAGE_S = 60.0  # after the end of the run, if no page was ever open
LOOK_S = 0.5
REQUEST_S = 5.0  # from the connection, or the first byte of a request, to the end of its headers
READ_S = 5.0  # without any progress; a response is sent in pieces, so that a slow line makes progress

log = logging.getLogger(__name__)


class DashboardServer:
    """Serves a run catalog on `listener`; stops the catalog when it ends, also after a failure.

    `allowed` are further host names, as of a proxy. Without a `token`, every request may read. `wake` ends a wait of
    the thread that steps the live runs.
    """

    def __init__(
        self,
        catalog: RunCatalog,
        listener: socket.socket,
        *,
        host: str,
        allowed: Collection[str],
        token: str,
        controls: Controls | None,
        until_over: str | None,
        wake: Callable[[], None],
    ) -> None:
        self._catalog, self._listener, self._until_over, self._wake = catalog, listener, until_over, wake
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BYTES_MAX)  # of each connection
        address, port = listener.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        any_address = ipaddress.ip_address(address).is_unspecified
        shown = socket.gethostname() if any_address else shown
        self.url = f"http://{shown}:{port}/" + (f"?token={token}" if token else "")
        self._streams = PageStreams(catalog)
        secrets = ServerSecrets(token)
        app = WebApp(catalog, self._streams, secrets, controls).app()
        names = names_of_host(host, address) | set(allowed)
        checked = SecurityMiddleware(app, secrets, names=names, any_address=any_address, port=port)
        self._uvicorn = uvicorn.Server(_config(checked))
        self._thread = threading.Thread(target=self._serve, name="http", daemon=True)
        self._failed: BaseException | None = None

    def check(self) -> None:
        """Raise the failure that ended the server, if one did."""
        if self._failed is not None:
            raise self._failed

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the server and wait for its thread, at most END_S."""
        self._end()
        if self._thread.is_alive():
            self._thread.join(END_S)
        self._listener.close()

    def _serve(self) -> None:
        try:
            asyncio.run(self._main())
        except BaseException as error:  # noqa: BLE001  # `check` raises it in the main thread
            self._failed = error
        finally:
            self._catalog.stop()
            self._wake()

    async def _main(self) -> None:
        """Serve until a background task ends."""
        tasks = [asyncio.create_task(self._streams.run())]
        if self._until_over is not None:
            tasks.append(asyncio.create_task(self._wait_until_over(self._until_over)))
        for task in tasks:
            task.add_done_callback(self._end)
        await self._uvicorn.serve(sockets=[self._listener])
        for task in tasks:
            if task.done():
                task.result()

    def _end(self, _task: object = None) -> None:
        self._uvicorn.should_exit = True

    async def _wait_until_over(self, run: str) -> None:
        """Wait until the run is over and no page is open."""
        clock = asyncio.get_running_loop().time
        over_at: float | None = None
        left_at, opened = clock(), 0
        while True:
            await asyncio.sleep(LOOK_S)
            now = clock()
            if self._streams.open or self._streams.opened > opened:
                left_at, opened = now, self._streams.opened
            if over_at is None and await asyncio.to_thread(self._catalog.is_over, run):
                over_at = now
            if over_at is not None and now - max(over_at, left_at) >= (LAST_PAGE_S if opened else NO_PAGE_S):
                return


def _config(app: Any) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=TimedProtocol,
        ws="none",
        lifespan="off",
        loop="asyncio",
        log_config=None,
        access_log=False,  # a URL may hold a token
        server_header=False,
        proxy_headers=False,
        limit_concurrency=CONNECTIONS_MAX,
        h11_max_incomplete_event_size=HEADERS_BYTES_MAX,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=1,
    )


class TimedProtocol(H11Protocol):
    """One connection, aborted if the client takes too long to send its request or to read the response."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._abort_after("request", REQUEST_S)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._timers.values():
            timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._is_responding():
            self._abort_after("request", REQUEST_S)
        super().data_received(data)
        if self._is_responding():
            self._cancel("request")

    def on_response_complete(self) -> None:
        self._cancel("request")
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._abort_after("read", READ_S)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._cancel("read")
        super().resume_writing()

    def _is_responding(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn declares it without None
        return cycle is not None and not cycle.response_complete

    def _abort_after(self, what: str, seconds: float) -> None:
        if what not in self._timers:  # further bytes do not restart the timer
            self._timers[what] = self.loop.call_later(seconds, self.transport.abort)

    def _cancel(self, what: str) -> None:
        if what in self._timers:
            self._timers.pop(what).cancel()
