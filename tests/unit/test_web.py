"""The routes of the page, without a server: how many words are under way at once, how many pictures are kept."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any, cast

import pytest
from starlette.types import ASGIApp, Message

from fedmq.dashboard import web
from fedmq.dashboard.controls import Controls, Word
from fedmq.dashboard.run_catalog import BestModel, RunCatalog
from fedmq.dashboard.security_middleware import Secrets
from fedmq.dashboard.server_sent_events import Streams
from fedmq.dashboard.web import WORDS_MAX, Web
from fedmq.models.networks import Linear


async def ask(app: ASGIApp, method: str, path: str, query: str = "", body: bytes = b"") -> int:
    """The status of an answer."""
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
    """Runs that heed when they are let."""

    def __init__(self) -> None:
        self.asked, self.let = threading.Semaphore(0), threading.Event()

    def say(self, run: str, word: Word) -> str:
        self.asked.release()
        assert self.let.wait(10.0)
        return f"{run}: {word.action}"


def app(gallery: object = None, controls: object = None) -> ASGIApp:
    return Web(cast(RunCatalog, gallery), cast(Streams, None), Secrets(""), cast(Controls, controls)).app()


def test_of_more_words_than_may_be_under_way_each_is_told_to_try_again() -> None:
    controls = SlowControls()
    pages = app(controls=controls)
    word = json.dumps({"action": "pause"}).encode()

    async def words() -> list[int]:
        first = [asyncio.create_task(ask(pages, "POST", "/api/runs/r/control", body=word)) for _ in range(WORDS_MAX)]
        for _ in first:
            assert await asyncio.to_thread(controls.asked.acquire, timeout=10.0)
        refused = asyncio.create_task(ask(pages, "POST", "/api/runs/r/control", body=word))
        await asyncio.wait([refused], timeout=5.0)
        controls.let.set()
        acked_request = [await one for one in first]
        return [await refused, *acked_request, await ask(pages, "POST", "/api/runs/r/control", body=word)]

    assert asyncio.run(words()) == [429, *[200] * WORDS_MAX, 200]


class Bests:
    """A run whose best model is another one in every round."""

    def best(self, _run: str, number: int) -> BestModel:
        return BestModel(Linear(2), "linear", number, bytes(24))


def test_so_many_surfaces_are_kept_and_those_that_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def draw(best: BestModel) -> bytes:
        drawn.append(best.round)
        return b"{}"

    monkeypatch.setattr(web, "_drawn", draw)
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
