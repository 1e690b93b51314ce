"""The routes of the page without a server: limits and the cache of surfaces."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any, cast

import pytest
from starlette.types import ASGIApp, Message

from fedmq.dashboard import web
from fedmq.dashboard.controls import ControlRequest, Controls
from fedmq.dashboard.run_catalog import BestModel, RunCatalog
from fedmq.dashboard.security_middleware import ServerSecrets
from fedmq.dashboard.server_sent_events import PageStreams
from fedmq.dashboard.web import CONTROLS_MAX, WebApp
from fedmq.models.networks import Linear


async def ask(app: ASGIApp, method: str, path: str, query: str = "", body: bytes = b"") -> int:
    """Return the status of a response."""
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": []}
    statuses = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    await app({**scope, "raw_path": path.encode()}, receive, send)
    (status,) = statuses
    return int(status)


class SlowControls:
    """Controls that block until `finish` is set."""

    def __init__(self) -> None:
        self.started, self.finish = threading.Semaphore(0), threading.Event()

    def send(self, run: str, request: ControlRequest) -> str:
        self.started.release()
        assert self.finish.wait(60.0)
        return f"{run}: {request.action}"


def app(catalog: object = None, controls: object = None) -> ASGIApp:
    return WebApp(cast(RunCatalog, catalog), cast(PageStreams, None), ServerSecrets(""), cast(Controls, controls)).app()


def test_control_requests_over_the_limit_are_rejected() -> None:
    controls = SlowControls()
    pages = app(controls=controls)
    body = json.dumps({"action": "pause"}).encode()

    async def statuses() -> list[int]:
        first = [asyncio.create_task(ask(pages, "POST", "/api/runs/r/control", body=body)) for _ in range(CONTROLS_MAX)]
        for _ in first:
            assert await asyncio.to_thread(controls.started.acquire, timeout=60.0)
        rejected = asyncio.create_task(ask(pages, "POST", "/api/runs/r/control", body=body))
        await asyncio.wait([rejected], timeout=60.0)
        controls.finish.set()
        done = [await one for one in first]
        return [await rejected, *done, await ask(pages, "POST", "/api/runs/r/control", body=body)]

    assert asyncio.run(statuses()) == [429, *[200] * CONTROLS_MAX, 200]


class Bests:
    """A run with another best model in every round."""

    def best(self, _run: str, number: int) -> BestModel:
        return BestModel(Linear(2), "linear", number, bytes(24))


def test_recent_surfaces_are_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def draw(best: BestModel) -> bytes:
        drawn.append(best.round)
        return b"{}"

    monkeypatch.setattr(web, "_surface_json", draw)
    monkeypatch.setattr(web, "SURFACES_KEPT_MAX", 3)
    pages = app(Bests())

    async def look(*rounds: int) -> list[int]:
        drawn.clear()
        for number in rounds:
            assert await ask(pages, "GET", "/api/runs/r/surface", f"round={number}") == 200
        return list(drawn)

    async def all_looks() -> Any:
        return await look(1, 2, 3, 1, 4), await look(4, 3, 1), await look(2)

    assert asyncio.run(all_looks()) == ([1, 2, 3, 4], [], [2])
