"""A browser for tests of the dashboard: requests with a cookie, and event streams."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from services import WAIT_S


@dataclass
class Page:
    """The address of the server, and the cookie that replaces the token."""

    port: int
    token: str
    host: str = field(init=False)
    cookie: str = ""

    def __post_init__(self) -> None:
        self.host = f"127.0.0.1:{self.port}"
        status, headers, _ = self.ask("GET", f"/?token={self.token}")
        assert status == 303
        self.cookie = headers["set-cookie"].partition(";")[0]

    def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Return the status, headers and JSON of a response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            data = None if body is None else json.dumps(body).encode()
            connection.request(method, path, data, self.headers(**headers))
            answer = connection.getresponse()
            text = answer.read()
            came = {name.lower(): value for name, value in answer.getheaders()}
            is_json = came.get("content-type") == "application/json"
            return answer.status, came, json.loads(text) if is_json else {"text": text.decode()}
        finally:
            connection.close()

    def headers(self, **more: str) -> dict[str, str]:
        named = {name.replace("_", "-"): value for name, value in more.items()}
        return {key: value for key, value in {"Host": self.host, "Cookie": self.cookie, **named}.items() if value}

    def get(self, path: str) -> dict[str, Any]:
        status, _, answer = self.ask("GET", path)
        assert status == 200, answer
        return answer

    def stream(self, path: str, **headers: str) -> Stream:
        return Stream(self, path, headers)


class Stream:
    """An open event stream."""

    def __init__(self, page: Page, path: str, headers: dict[str, str]) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=WAIT_S)
        self._connection.request("GET", path, headers=page.headers(**headers))
        self._answer = self._connection.getresponse()
        assert self._answer.status == 200
        assert self._answer.headers["content-type"].startswith("text/event-stream")
        self.last_id = ""

    def next(self, *kinds: str) -> tuple[str, dict[str, Any]]:
        """Return the next event of these kinds, or of any kind."""
        kind = ""
        give_up_at = time.monotonic() + WAIT_S
        while time.monotonic() < give_up_at:
            name, _, value = self._answer.readline().decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = value
            elif name == "id":
                self.last_id = value
            elif name == "data" and (not kinds or kind in kinds):
                return kind, json.loads(value)
        raise AssertionError(f"no {kinds} came")

    def until(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Return the first values that fulfill a condition."""
        give_up_at = time.monotonic() + WAIT_S
        while time.monotonic() < give_up_at:
            _, values = self.next("full", "patch")
            if condition(values):
                return values
        raise AssertionError("no such event arrived")

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
