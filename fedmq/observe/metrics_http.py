"""The HTTP server that shows how a service is: `/metrics` for Prometheus, `/healthz`, `/readyz`, and nothing else.

Knows nothing of what is measured. It runs on threads of its own, a few and no more; a client that is slow or asks too
often is cut off, and the service never waits for any.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any, NamedTuple

from fedmq.observe.host_header import is_ours, names_of
from fedmq.runtime.loop import Pulse

if TYPE_CHECKING:
    from fedmq.observe.metrics import Metrics

CONNECTIONS_MAX = 8
REQUEST_S = 5.0  # from the connection to the last byte of the answer
LOOK_S = 0.5  # between two looks at who takes too long

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What is answered."""

    status: int
    text: bytes
    content_type: str = "text/plain; charset=utf-8"


Ask = Callable[[str, str], Answer]  # the path, and what the client accepts


class Handler(BaseHTTPRequestHandler):
    """One request; GET is all that there is."""

    server: Server
    server_version, sys_version = "fedmq", ""

    def do_GET(self) -> None:
        """Answer, unless a page of another site asks by a name of its own: every browser says which in `Host`."""
        host, names = self.headers.get("Host"), self.server.names
        if host is not None and names and not is_ours(host, names, any_address=False):
            status, text, content_type = Answer(403, b"expected a Host of this machine, such as localhost\n")
        else:
            status, text, content_type = self.server.ask(self.path, self.headers.get("Accept", ""))
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(text)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *arguments: Any) -> None:
        """See `BaseHTTPRequestHandler`: a line for each request would fill the log, but at the level `debug`."""
        log.debug(*arguments)


class Server(ThreadingMixIn, HTTPServer):
    """At most CONNECTIONS_MAX connections, each for REQUEST_S at the most."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, host: str, port: int, ask: Ask) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.ask = ask
        self.names: set[str] = set()  # that it may be asked for by; beyond loopback any, a DNS has many
        self._since: dict[socket.socket, float] = {}  # the connections, and when they began
        self._lock = threading.Lock()
        super().__init__((host, port), Handler)

    def server_bind(self) -> None:
        """See `TCPServer`; without asking the DNS for the name of this machine."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_name, self.server_port = self.socket.getsockname()[:2]
        if ipaddress.ip_address(self.server_name).is_loopback:
            self.names = names_of(str(self.server_address[0]), self.server_name)

    def process_request(self, request: Any, client_address: Any) -> None:
        """See `BaseServer`: on a thread, if there are not too many."""
        with self._lock:
            full = len(self._since) >= CONNECTIONS_MAX
            if not full:
                self._since[request] = time.monotonic()
        if full:
            self.shutdown_request(request)
        else:
            super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """See `BaseServer`."""
        with self._lock:
            self._since.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """See `BaseServer`, that calls it every LOOK_S: cut off who takes too long."""
        too_old = time.monotonic() - REQUEST_S
        with self._lock:
            late = [one for one, since in self._since.items() if since < too_old]
            for one in late:
                with suppress(OSError):  # its thread closes it, which that wakes
                    one.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """See `BaseServer`, that calls it while an exception is handled: that a client is gone is no news."""
        failure = sys.exception()
        log.log(logging.DEBUG if isinstance(failure, OSError) else logging.ERROR, "a request has failed: %r", failure)


def answers(metrics: Metrics, pulse: Pulse, ready: Callable[[], str]) -> Ask:
    """What each path is answered; `ready` says what is missing, "" when nothing is."""

    def ask(path: str, accept: str) -> Answer:
        path = path.partition("?")[0]
        if path == "/metrics":
            return Answer(200, *metrics.text(accept))
        if path not in ("/healthz", "/readyz"):
            return Answer(404, b"expected /metrics, /healthz or /readyz\n")
        lacks = pulse.problem or (ready() if path == "/readyz" else "")
        return Answer(503, lacks.encode() + b"\n") if lacks else Answer(200, b"ok\n")

    return ask
