"""The HTTP server of a service's health: `/metrics` for Prometheus, `/healthz` and `/readyz`.

It runs on a few threads of its own and cuts off slow clients, so the service never waits for a client. Only a service
with --metrics imports this module.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any, NamedTuple

from fedmq.errors import BadConfiguration
from fedmq.observe.host_header import is_allowed_host, names_of_host
from fedmq.observe.metrics import Metrics
from fedmq.runtime.loop import Pulse

CONNECTIONS_MAX = 8
REQUEST_S = 5.0  # from the connection to the last byte of the response
CHECK_S = 0.5  # between two checks for connections over REQUEST_S

log = logging.getLogger(__name__)


class MetricsResponse(NamedTuple):
    """Status, body and content type of a response."""

    status: int
    text: bytes
    content_type: str = "text/plain; charset=utf-8"


Respond = Callable[[str, str], MetricsResponse]  # from the path and the Accept header


class MetricsHandler(BaseHTTPRequestHandler):
    """Handles one GET request; other methods are not implemented."""

    server: MetricsServer
    server_version, sys_version = "fedmq", ""

    def do_GET(self) -> None:
        """Respond, unless the `Host` header names another site (DNS rebinding): every browser sends that header."""
        host, names = self.headers.get("Host"), self.server.names
        if host is not None and names and not is_allowed_host(host, names, any_address=False):
            status, text, content_type = MetricsResponse(403, b"expected a Host of this machine, such as localhost\n")
        else:
            status, text, content_type = self.server.respond(self.path, self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: Any) -> None:
        """Log at the level debug, because each request would log a line."""
        log.debug(*arguments)


class MetricsServer(ThreadingMixIn, HTTPServer):
    """Serves at most CONNECTIONS_MAX connections, each for at most REQUEST_S."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, host: str, port: int, respond: Respond) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.respond = respond
        self.names: set[str] = set()  # allowed in the Host header; empty beyond loopback, where DNS names vary
        self._since: dict[socket.socket, float] = {}  # start of each connection
        self._lock = threading.Lock()
        super().__init__((host, port), MetricsHandler)

    def server_bind(self) -> None:
        """Bind without the DNS lookup of `HTTPServer`."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = self.socket.getsockname()[:2]
        if ipaddress.ip_address(self.server_name).is_loopback:
            self.names = names_of_host(str(self.server_address[0]), self.server_name)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Handle the request on a thread, or close it if there are too many."""
        with self._lock:
            full = len(self._since) >= CONNECTIONS_MAX
            if not full:
                self._since[request] = time.monotonic()
        if full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Cut off slow clients; `BaseServer` calls this every CHECK_S."""
        too_old = time.monotonic() - REQUEST_S
        with self._lock:
            for connection in [one for one, since in self._since.items() if since < too_old]:
                with suppress(OSError):  # its thread wakes up and closes it
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Log a failure, at the level debug if the client disconnected; `BaseServer` calls this in `except`."""
        failure = sys.exception()
        log.log(logging.DEBUG if isinstance(failure, OSError) else logging.ERROR, "a request failed: %r", failure)


def metrics_routes(metrics: Metrics, pulse: Pulse, ready: Callable[[], str]) -> Respond:
    """Return the function that responds to each path; `ready` returns what is missing, "" if nothing is."""

    def respond(path: str, accept: str) -> MetricsResponse:
        path = path.partition("?")[0]
        if path == "/metrics":
            return MetricsResponse(200, *metrics.text(accept))
        if path not in ("/healthz", "/readyz"):
            return MetricsResponse(404, b"expected /metrics, /healthz or /readyz\n")
        missing = pulse.problem or (ready() if path == "/readyz" else "")
        return MetricsResponse(503, missing.encode() + b"\n") if missing else MetricsResponse(200, b"ok\n")

    return respond


@contextmanager
def serve_metrics(at: tuple[str, int], measure: Callable[[Metrics], None], ready: Callable[[], str]) -> Iterator[Pulse]:
    """Serve the metrics that `measure` adds, at this host and port; the service's loop must beat the pulse."""
    metrics, pulse = Metrics(), Pulse()
    measure(metrics)
    try:
        server = MetricsServer(*at, metrics_routes(metrics, pulse, ready))
    except OSError as error:
        raise BadConfiguration(
            f"--metrics: cannot listen on {at[0]}:{at[1]} ({error.strerror}); choose another port"
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(CHECK_S,), name="metrics", daemon=True)
    thread.start()
    try:
        yield pulse
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
