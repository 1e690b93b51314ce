"""What stands before every request: who may ask, from where, and how much; and the headers that every answer has.

An ASGI middleware that is closed by default. Knows nothing of what is asked for.
    Host      a name or address that the server is bound to, or was told to allow, so that no page of another site gets
              here by a name of its own (DNS rebinding)
    Origin    the page's own, wherever a browser says one; and always for what changes anything
    token     where one is needed: once in the URL, then in a cookie; or as a bearer
    CSRF      for what changes anything: a number that only the page could read
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from fedmq.observe.host_header import is_allowed_host

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
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
class Secrets:
    """Of one life of the server. `token` "": none is needed to read."""

    token: str
    cookie: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    csrf: str = field(default_factory=lambda: secrets.token_urlsafe(32))


class Refused(Exception):
    """A request is not answered; says with which status, and why."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


class SecurityMiddleware:
    """Before `app`. `names` are the host names and addresses that are ours, `any_address`: all addresses are."""

    def __init__(self, app: App, known: Secrets, *, names: set[str], any_address: bool, port: int) -> None:
        self._app, self._secrets, self._names, self._any_address = app, known, names, any_address
        self._cookie = f"fedmq-{port}"  # cookies are of a host, whatever the port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = _Headers(scope)
        try:
            self._check(scope, headers)
            if self._has_token(scope):
                await _answer(send, 303, b"", (b"location", b"/"), (b"set-cookie", self._set_cookie()))
                return
            self._check_token(headers)
            if scope["method"] not in ("GET", "HEAD"):
                self._check_change(headers)
        except Refused as refused:
            kind, body = b"application/json", error_body(refused.why)
            if "text/html" in headers.one("accept"):  # a person reads it
                kind, body = b"text/plain; charset=utf-8", f"{refused.why}\n".encode()
            await _answer(send, refused.status, body, (b"content-type", kind))
            return
        await self._app(scope, receive, _with_headers(send))

    # --- the checks, in this order --------------------------------------------------------------------------------

    def _check(self, scope: Scope, headers: _Headers) -> None:
        size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
        if size > TARGET_BYTES_MAX:
            raise Refused(414, f"expected a path and a query of at most {TARGET_BYTES_MAX} bytes, got {size}")
        if scope["method"] not in ("GET", "HEAD", "POST"):
            raise Refused(405, "expected GET or POST")
        host = headers.one("host")
        if not is_allowed_host(host, self._names, any_address=self._any_address):
            raise Refused(403, "expected a Host that this server is bound to, or one of --allowed-hosts, got another")
        origin = headers.one("origin")
        if origin and origin not in (f"http://{host}", f"https://{host}"):
            raise Refused(403, "expected this page's own Origin, got another site's")
        if scope["path"].startswith("/api/") and headers.one("sec-fetch-site") in ("cross-site", "same-site"):
            raise Refused(403, "expected a request of this page, got another site's")

    def _has_token(self, scope: Scope) -> bool:
        """Whether the token is in the URL of the page, the one place where it may be."""
        if scope["path"] != "/" or not self._secrets.token or b"token=" not in scope["query_string"]:
            return False
        query: dict[str, str] = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        if not _same(query.get("token", ""), self._secrets.token):
            raise Refused(401, "expected the token of this life of the server, got another: fedmq dashboard printed it")
        return True

    def _check_token(self, headers: _Headers) -> None:
        if not self._secrets.token:
            return
        bearer = headers.one("authorization").removeprefix("Bearer ")
        if _same(bearer, self._secrets.token) or _same(headers.cookie(self._cookie), self._secrets.cookie):
            return
        raise Refused(401, "expected a token: open the URL that fedmq dashboard printed")

    def _check_change(self, headers: _Headers) -> None:
        if not headers.one("origin"):
            raise Refused(403, "expected an Origin: only the page changes anything")
        if not _same(headers.one("x-csrf-token"), self._secrets.csrf):
            raise Refused(403, "expected the X-CSRF-Token of this session, got none or another: load the page again")
        length = headers.one("content-length")
        if not length.isdecimal() or headers.one("transfer-encoding"):
            raise Refused(411, "expected a Content-Length")
        if int(length) > BODY_BYTES_MAX:
            raise Refused(413, f"expected a body of at most {BODY_BYTES_MAX} bytes, got {length}")
        if headers.one("content-type").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "expected Content-Type: application/json")

    def _set_cookie(self) -> bytes:
        return f"{self._cookie}={self._secrets.cookie}; Path=/; Max-Age={COOKIE_S}; HttpOnly; SameSite=Lax".encode()


class _Headers:
    """A request's; one that is there twice is as good as wrong."""

    def __init__(self, scope: Scope) -> None:
        self._found: dict[str, str] = {}
        for name, value in scope["headers"]:
            key = name.decode("latin-1").lower()
            self._found[key] = "\0" if key in self._found else value.decode("latin-1")

    def one(self, name: str) -> str:
        return self._found.get(name, "")

    def cookie(self, name: str) -> str:
        try:
            morsel = SimpleCookie(self.one("cookie")).get(name)
        except CookieError:
            return ""
        return "" if morsel is None else morsel.value


def error_body(why: str) -> bytes:
    """What is answered to who is refused."""
    return msgspec.json.encode({"error": why}) + b"\n"


def _same(given: str, expected: str) -> bool:
    return bool(expected) and hmac.compare_digest(given.encode(), expected.encode())


async def _answer(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", str(len(body)).encode())
    closing = ((b"connection", b"close"),) if status >= 400 else ()  # what may still come of it is not read
    await _with_headers(send)(
        {"type": "http.response.start", "status": status, "headers": [length, *headers, *closing]}
    )
    await send({"type": "http.response.body", "body": body})


def _with_headers(send: Send) -> Send:
    async def told(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = list(message.get("headers", []))
            if not any(name.lower() == b"cache-control" for name, _ in headers):
                headers.append((b"cache-control", b"no-store"))
            message = {**message, "headers": [*headers, *HEADERS]}
        await send(message)

    return told
