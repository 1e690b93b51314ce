"""ASGI middleware that checks every request and adds the security headers of every response.

It rejects a request unless all of these are valid:
    Host      a name or address of the server, or an allowed one; prevents DNS rebinding
    Origin    the page's own, if the browser sends one; required for requests that change something
    token     if the server has one: first in the URL, then in a cookie, or as a bearer token
    CSRF      for requests that change something: a number that only the page can read
"""

import hmac
import secrets
from collections import defaultdict
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from fedmq.observe.host_header import is_allowed_host

AsgiMessage = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[AsgiMessage]]
Send = Callable[[AsgiMessage], Awaitable[None]]
Headers = defaultdict[str, str]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

TARGET_BYTES_MAX = 2048  # path and query
BODY_BYTES_MAX = 4096
COOKIE_S = 30 * 24 * 3600
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; font-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = (
    (b"content-security-policy", POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


@dataclass(frozen=True)
class ServerSecrets:
    """The secrets of one run of the server. With an empty `token`, every request may read."""

    token: str
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32))


class RequestRejected(Exception):
    """A request is rejected, with an HTTP status and a reason."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class SecurityMiddleware:
    """Wraps `app`. Requests may name the server by `names`, and by any IP address with `any_address`."""

    def __init__(self, app: App, secrets: ServerSecrets, *, names: set[str], any_address: bool, port: int) -> None:
        self._app, self._secrets, self._names, self._any_address = app, secrets, names, any_address
        self._cookie = f"fedmq-{port}"  # a host's ports share its cookies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = _headers(scope)
        try:
            self._check(scope, headers)
            if self._has_token(scope):
                value = f"{self._cookie}={self._secrets.cookie}"
                cookie = f"{value}; Path=/; Max-Age={COOKIE_S}; HttpOnly; SameSite=Lax"
                await _answer(send, 303, b"", (b"location", b"/"), (b"set-cookie", cookie.encode()))
                return
            self._check_token(headers)
            if scope["method"] not in ("GET", "HEAD"):
                self._check_change(headers)
        except RequestRejected as rejected:
            kind, body = b"application/json", error_body(rejected.reason)
            if "text/html" in headers["accept"]:  # for people
                kind, body = b"text/plain; charset=utf-8", f"{rejected.reason}\n".encode()
            await _answer(send, rejected.status, body, (b"content-type", kind))
            return
        await self._app(scope, receive, _with_headers(send))

    # --- the checks, in this order --------------------------------------------------------------------------------

    def _check(self, scope: Scope, headers: Headers) -> None:
        size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if size > TARGET_BYTES_MAX:
            raise RequestRejected(414, f"expected a path and a query of at most {TARGET_BYTES_MAX} bytes, got {size}")
        if scope["method"] not in ("GET", "HEAD", "POST"):
            raise RequestRejected(405, "expected GET or POST")
        host = headers["host"]
        if not is_allowed_host(host, self._names, any_address=self._any_address):
            raise RequestRejected(403, "expected the Host of this server, or one of --allowed-hosts, got another")
        origin = headers["origin"]
        if origin and origin not in (f"http://{host}", f"https://{host}"):
            raise RequestRejected(403, "expected this page's own Origin, got another site's")
        if scope["path"].startswith("/api/") and headers["sec-fetch-site"] in ("cross-site", "same-site"):
            raise RequestRejected(403, "expected a request of this page, got another site's")

    def _has_token(self, scope: Scope) -> bool:
        """Return whether the token is in the URL of the page, the only URL that may hold it."""
        if scope["path"] != "/" or not self._secrets.token or b"token=" not in scope["query_string"]:
            return False
        query: dict[str, str] = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        if not _same(query.get("token", ""), self._secrets.token):
            raise RequestRejected(401, "expected the token that fedmq dashboard printed at its start, got another")
        return True

    def _check_token(self, headers: Headers) -> None:
        if not self._secrets.token:
            return
        bearer = headers["authorization"].removeprefix("Bearer ")
        if _same(bearer, self._secrets.token) or _same(_cookie(headers, self._cookie), self._secrets.cookie):
            return
        raise RequestRejected(401, "expected a token: open the URL that fedmq dashboard printed")

    def _check_change(self, headers: Headers) -> None:
        if not headers["origin"]:
            raise RequestRejected(403, "expected an Origin header: only the page may change anything")
        if not _same(headers["x-csrf-token"], self._secrets.csrf):
            raise RequestRejected(403, "expected the X-CSRF-Token of this session: load the page again")
        length = headers["content-length"]
        if not length.isdecimal() or headers["transfer-encoding"]:
            raise RequestRejected(411, "expected a Content-Length")
        if int(length) > BODY_BYTES_MAX:
            raise RequestRejected(413, f"expected a body of at most {BODY_BYTES_MAX} bytes, got {length}")
        if headers["content-type"].partition(";")[0].strip().lower() != "application/json":
            raise RequestRejected(415, "expected Content-Type: application/json")


def _headers(scope: Scope) -> Headers:
    """Return the headers by name, "" for a missing one, and an invalid value for one that occurs twice."""
    found: Headers = defaultdict(str)
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        found[key] = "\0" if key in found else value.decode("latin-1")
    return found


def _cookie(headers: Headers, name: str) -> str:
    try:
        morsel = SimpleCookie(headers["cookie"]).get(name)
    except CookieError:
        return ""
    return "" if morsel is None else morsel.value


def error_body(why: str) -> bytes:
    """Return the body of an error response."""
    return msgspec.json.encode({"error": why}) + b"\n"


def _same(given: str, expected: str) -> bool:
    return bool(expected) and hmac.compare_digest(given.encode(), expected.encode())


async def _answer(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", str(len(body)).encode())
    closing = ((b"connection", b"close"),) if status >= 400 else ()  # the rest of the request is not read
    await _with_headers(send)(
        {"type": "http.response.start", "status": status, "headers": [length, *headers, *closing]}
    )
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send) -> Send:
    async def send_message(message: AsgiMessage) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            if not any(name.lower() == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*headers, *HEADERS]}
        await send(message)

    return send_message
