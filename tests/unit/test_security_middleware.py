"""Each check of the security middleware alone, on requests with one invalid part."""

from __future__ import annotations

import asyncio
import json

import pytest

from fedmq.dashboard.security_middleware import (
    BODY_BYTES_MAX,
    TARGET_BYTES_MAX,
    AsgiMessage,
    Receive,
    Scope,
    SecurityMiddleware,
    Send,
    ServerSecrets,
)

KNOWN = ServerSecrets("the-token", cookie="the-cookie", csrf="the-csrf")
FREE = ServerSecrets("", cookie="the-cookie", csrf="the-csrf")
HOST = {"host": "127.0.0.1:8550"}
READER = {**HOST, "cookie": "fedmq-8550=the-cookie"}
WRITER = {
    **READER,
    "origin": "http://127.0.0.1:8550",
    "x-csrf-token": "the-csrf",
    "content-type": "application/json",
    "content-length": "20",
}


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


def ask(
    headers: dict[str, str] | list[tuple[str, str]],
    *,
    method: str = "GET",
    path: str = "/api/runs",
    query: str = "",
    known: ServerSecrets = KNOWN,
    any_address: bool = False,
) -> tuple[int, dict[str, str], bytes]:
    """Return the response of the middleware, or of the app behind it."""
    guard = SecurityMiddleware(hello, known, names={"127.0.0.1", "localhost"}, any_address=any_address, port=8550)
    pairs = headers.items() if isinstance(headers, dict) else headers
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in pairs],
    }
    sent: list[AsgiMessage] = []

    async def receive() -> AsgiMessage:
        raise AssertionError("the guard reads no body")

    async def send(message: AsgiMessage) -> None:
        sent.append(message)

    asyncio.run(guard(scope, receive, send))
    came = {name.decode().lower(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], came, b"".join(one.get("body", b"") for one in sent[1:])


def without(headers: dict[str, str], name: str) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key != name}


def test_valid_request_passes() -> None:
    assert ask(READER)[::2] == (200, b"hello")
    assert ask(WRITER, method="POST")[::2] == (200, b"hello")
    assert ask(HOST, known=FREE)[0] == 200, "without a token, every request may read"
    assert ask({**HOST, "authorization": "Bearer the-token"})[0] == 200
    assert ask({**READER, "host": "localhost:8550"})[0] == 200
    assert ask({**READER, "host": "LOCALHOST:1234"})[0] == 200, "through a tunnel"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (HOST, 401),
        ({**HOST, "cookie": "fedmq-8550=another"}, 401),
        ({**HOST, "cookie": "fedmq-8551=the-cookie"}, 401),
        ({**HOST, "cookie": "fedmq-8550=the-token"}, 401),
        ({**HOST, "authorization": "Bearer the-toke"}, 401),
        ({**HOST, "authorization": "Bearer "}, 401),
        ({**HOST, "authorization": "Bearer é"}, 401),
        ({**READER, "host": "evil.example"}, 403),
        ({**READER, "host": "evil.example:8550"}, 403),
        ({**READER, "host": "127.0.0.1.evil.example"}, 403),
        ({**READER, "host": "10.0.0.1"}, 403),
        ({**READER, "host": ""}, 403),
        (without(READER, "host"), 403),
        ([*READER.items(), ("host", "evil.example")], 403),
        ({**READER, "origin": "http://evil.example"}, 403),
        ({**READER, "origin": "null"}, 403),
        ({**READER, "origin": "http://127.0.0.1:8551"}, 403),
        ({**READER, "sec-fetch-site": "cross-site"}, 403),
        ({**READER, "sec-fetch-site": "same-site"}, 403),
    ],
    ids=str,
)
def test_read_request_with_one_invalid_part_is_rejected(headers: dict[str, str], status: int) -> None:
    got, came, body = ask(headers)
    assert got == status
    assert came["content-type"] == "application/json"
    assert list(json.loads(body)) == ["error"]
    assert body.count(b"\n") == 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (without(WRITER, "origin"), 403),
        ({**WRITER, "origin": "http://evil.example"}, 403),
        (without(WRITER, "x-csrf-token"), 403),
        ({**WRITER, "x-csrf-token": "the-cookie"}, 403),
        ({**WRITER, "x-csrf-token": ""}, 403),
        (without(WRITER, "cookie"), 401),
        ({**WRITER, "content-type": "text/plain"}, 415),
        ({**WRITER, "content-type": "application/x-www-form-urlencoded"}, 415),
        (without(WRITER, "content-length"), 411),
        ({**WRITER, "content-length": "-1"}, 411),
        ({**WRITER, "transfer-encoding": "chunked"}, 411),
        ({**WRITER, "content-length": str(BODY_BYTES_MAX + 1)}, 413),
    ],
    ids=str,
)
def test_change_request_with_one_invalid_part_is_rejected(headers: dict[str, str], status: int) -> None:
    assert ask(headers, method="POST")[0] == status


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"])
def test_other_methods_are_rejected(method: str) -> None:
    assert ask(WRITER, method=method)[0] == 405


def test_long_request_target_is_rejected() -> None:
    assert ask(READER, query="q" * (TARGET_BYTES_MAX - len("/api/runs")))[0] == 200
    assert ask(READER, query="q" * (TARGET_BYTES_MAX - len("/api/runs") + 1))[0] == 414
    assert ask(READER, path="/" + "p" * TARGET_BYTES_MAX)[0] == 414


def test_token_in_the_url_becomes_a_cookie() -> None:
    status, headers, body = ask(HOST, path="/", query="token=the-token")
    assert (status, headers["location"], body) == (303, "/", b"")
    cookie = headers["set-cookie"]
    assert cookie.startswith("fedmq-8550=the-cookie; ")
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= set(cookie.split("; "))
    assert "the-token" not in str(headers)
    assert ask(HOST, path="/", query="token=wrong")[0] == 401
    assert ask(HOST, path="/", query="token=")[0] == 401
    assert ask(HOST, path="/api/runs", query="token=the-token")[0] == 401, "only at the page"


def test_rejection_is_text_for_a_browser_and_json_for_a_script() -> None:
    _, headers, body = ask({**HOST, "accept": "text/html,*/*;q=0.8"}, path="/")
    assert (headers["content-type"], body.decode()) == (
        "text/plain; charset=utf-8",
        "expected a token: open the URL that fedmq dashboard printed\n",
    )
    _, headers, body = ask({**HOST, "accept": "*/*"}, path="/")
    assert (headers["content-type"], body[:1]) == ("application/json", b"{")


def test_any_address_is_allowed_on_all_interfaces_but_no_foreign_name() -> None:
    assert ask({**READER, "host": "192.0.2.7:8550"}, any_address=True)[0] == 200
    assert ask({**READER, "host": "[2001:db8::1]:8550"}, any_address=True)[0] == 200
    assert ask({**READER, "host": "evil.example"}, any_address=True)[0] == 403


@pytest.mark.parametrize(("headers", "status"), [(READER, 200), (HOST, 401), ({"host": "evil.example"}, 403)])
def test_every_response_has_the_security_headers(headers: dict[str, str], status: int) -> None:
    got, came, _ = ask(headers)
    assert got == status
    policy = came["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert (came["x-content-type-options"], came["referrer-policy"]) == ("nosniff", "no-referrer")
    assert came["cache-control"] == "no-store"
