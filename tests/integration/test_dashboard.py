"""`fedmq dashboard` as a process with a real run and HTTP client: its content, and requests that it rejects."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from pages import Page
from services import WAIT_S, Services, closed, until

from fedmq.observe import events
from fedmq.testing import run_started

ENDLESS = """
from fedmq import Linear, Task
task = Task(name="endless", model=Linear(2), loss="squared-error", metric="loss", target=0.0, rounds=1000000)
"""
LONG_ROUNDS = 4000  # about a megabyte of values


@dataclass
class Scene:
    """An endless run of bob and alice, and the page."""

    services: Services
    page: Page
    run: str

    @property
    def folder(self) -> Path:
        return self.services.folder / "runs" / "endless"


def write_long_run(folder: Path) -> None:
    """Write a finished run of LONG_ROUNDS rounds."""
    folder.mkdir(parents=True)
    best = events.Best(value=0.5, coverage=1.0, fitness=-0.5, fitness_mean=-1.0, fitness_worst=-2.0, diversity=0.1)
    story: list[events.AnyEvent] = [
        run_started(run="long", term=1, round=1, task="xor", algorithm="evolution", seed=1, rounds_max=9000)
    ]
    for number in range(1, LONG_ROUNDS + 1):
        story.append(events.RoundPublished(round=number, invited=2))
        story.append(events.RoundClosed(round=number, why="complete", results=2, round_s=0.01, present=2, best=best))
    story.append(events.RunFinished(solved=False, rounds=LONG_ROUNDS, value=0.5))
    lines = (msgspec.json.encode({"at": 1e9 + at, **msgspec.to_builtins(one)}) for at, one in enumerate(story))
    (folder / "events.jsonl").write_bytes(b"\n".join(lines) + b"\n")


def is_live(page: Page) -> bool:
    first = page.get("/api/runs")["runs"][0]
    return bool(
        (first["run"], first["source"], first["condition"]) == ("endless", "live", "running") and first["round"] > 1
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with Services(tmp_path_factory.mktemp("dashboard")) as services:
        (services.folder / "endless.py").write_text(ENDLESS)
        write_long_run(services.folder / "runs" / "long")
        services.start_broker()
        aggregator = ("--task", "endless.py", "--min-trainers", "2", "--run", "endless", "--out", "runs/endless")
        services.start("aggregator", "aggregator", *aggregator)
        for name in ("bob", "alice"):
            services.start_trainer(name, f"linear:{name}")
        services.start("dashboard", "dashboard", "--control", "--port", "0")
        until(lambda: "dashboard on" in services.out("dashboard"), "the dashboard to listen")
        url = re.findall(r"^dashboard on (\S+)$", services.out("dashboard"), flags=re.MULTILINE)[0]
        port = urlsplit(url).port
        assert port is not None
        page = Page(port, parse_qs(urlsplit(url).query)["token"][0])
        until(lambda: closed(services.folder / "runs" / "endless") > 1, "rounds")
        until(lambda: is_live(page), "the state from the broker")
        yield Scene(services, page, "endless")


# Content


def test_runs_of_broker_and_folder_are_in_one_list(scene: Scene) -> None:
    listed = scene.page.get("/api/runs")
    assert listed["broker"] == {"address": scene.services.address, "connected": True}
    first, second = listed["runs"]
    assert (first["run"], first["source"], first["condition"]) == ("endless", "live", "running")
    assert first["connected"]
    assert (second["run"], second["source"], second["state"]) == ("long", "folder", "finished")
    assert (second["round"], second["value"]) == (LONG_ROUNDS, 0.5)


def test_page_opened_during_a_run_receives_all_rounds(scene: Scene) -> None:
    with scene.page.stream("/api/runs/endless/stream") as stream:
        assert stream.next()[0] == "runs"
        _, values = stream.next("full")
        rounds = values["rounds"]["round"]
        assert rounds == list(range(1, len(rounds) + 1))
        assert values["head"]["round"] == rounds[-1]
        assert sorted(values["trainers"]["name"]) == ["alice", "bob"]
        later = stream.until(lambda patch: "rounds" in patch and patch["rounds"]["round"][-1] > rounds[-1])
        assert later["rounds"]["round"][0] <= rounds[-1] + 1, "no round is missing"
        last_id = stream.last_id
    with scene.page.stream("/api/runs/endless/stream", Last_Event_ID=last_id) as stream:
        kind, values = stream.next("full", "patch")
        assert kind == "patch", "a reconnected page receives a patch"
        assert values["head"]["run"] == "endless"
        if "rounds" not in values:  # no round closed since then
            values = stream.until(lambda patch: "rounds" in patch)
        assert values["rounds"]["round"][0] >= rounds[-1]
    with scene.page.stream("/api/runs/endless/stream", Last_Event_ID="9-1") as stream:
        assert stream.next("full", "patch")[0] == "full"


def test_unknown_run_is_absent_until_it_starts(scene: Scene) -> None:
    with scene.page.stream("/api/runs/later/stream") as stream:
        assert stream.next("absent", "full")[0] == "absent"
        folder = scene.services.folder / "runs" / "later"
        folder.mkdir()
        started = run_started(run="later", term=1, round=1, task="xor", algorithm="evolution", seed=1)
        line = msgspec.json.encode({"at": 1e9, **msgspec.to_builtins(started)})
        (folder / "events.jsonl").write_bytes(line + b"\n")
        _, values = stream.next("full")
        assert (values["head"]["run"], values["head"]["state"]) == ("later", "interrupted")


def test_surfaces_of_past_rounds_and_exports_are_served(scene: Scene) -> None:
    first = scene.page.get("/api/runs/endless/surface?round=1")
    newest = scene.page.get("/api/runs/endless/surface")
    assert first["round"] == 1 < newest["round"]
    assert (first["what"], len(first["values"])) == ("value", first["size"] ** 2)
    assert first["values"] != newest["values"]
    for wrong, status in (("round=0", 404), ("round=x", 400), ("round=-1", 400)):
        assert scene.page.ask("GET", f"/api/runs/endless/surface?{wrong}")[0] == status
    assert scene.page.ask("GET", "/api/runs/long/surface")[0] == 404
    lines = scene.page.get("/api/runs/long/export.csv")["text"].splitlines()
    assert len(lines) == LONG_ROUNDS + 1
    assert lines[0].startswith("round,")
    assert scene.page.get("/api/runs/long/export.json")["head"]["finished"]["rounds"] == LONG_ROUNDS
    assert scene.page.ask("GET", "/api/runs/none/export.csv")[0] == 404


def test_control_request_is_acknowledged(scene: Scene) -> None:
    csrf = scene.page.get("/api/session")["csrf"]
    origin = {"Origin": f"http://{scene.page.host}", "X_CSRF_Token": csrf, "Content_Type": "application/json"}

    def say(action: str, **more: str) -> tuple[int, dict[str, Any]]:
        status, _, answer = scene.page.ask("POST", "/api/runs/endless/control", {"action": action, **more}, **origin)
        return status, answer

    with scene.page.stream("/api/runs/endless/stream") as stream:
        stream.next("full")
        assert say("pause") == (200, {"done": "endless: paused: the open round is closed, and no other opens"})
        stream.until(lambda values: values["head"].get("state") == "paused")
        assert say("ban", trainer="bob")[0] == 200
        stream.until(lambda values: "banned" in values.get("trainers", {}).get("barred", []))
        assert say("readmit", trainer="bob")[0] == 200
        assert say("resume")[0] == 200
        stream.until(lambda values: values["head"].get("state") == "running")
    assert say("ban")[0] == 400
    assert say("pause", trainer="bob")[0] == 400
    assert say("explode")[0] == 400


# Rejections


def no_token(page: Page) -> int:
    return page.ask("GET", "/api/runs", Cookie="")[0]


def wrong_token(page: Page) -> int:
    return page.ask("GET", f"/?token={page.token[:-1]}x", Cookie="")[0]


def foreign_origin(page: Page) -> int:
    return page.ask("GET", "/api/runs/endless/stream", Origin="http://evil.example")[0]


def rebinding_host(page: Page) -> int:
    return page.ask("GET", "/api/runs", Host=f"evil.example:{page.port}")[0]


def csrf_missing(page: Page) -> int:
    headers = {"Origin": f"http://{page.host}", "Content_Type": "application/json"}
    return page.ask("POST", "/api/runs/endless/control", {"action": "stop"}, **headers)[0]


def path_traversal(page: Page) -> int:
    found = {
        page.ask("GET", path)[0]
        for path in (
            "/static/../../setup.cfg",
            "/static/%2e%2e/%2e%2e/setup.cfg",
            "/static/..%2f..%2fsetup.cfg",
            "/static//etc/passwd",
            "/api/runs/..%2f..%2fruns/export.json",
            "/api/runs/%2e%2e/export.json",
        )
    }
    (status,) = found
    return status


def giant_query(page: Page) -> int:
    return page.ask("GET", "/api/runs?" + "q" * 10_000)[0]


@pytest.mark.parametrize(
    ("attack", "status"),
    [
        (no_token, 401),
        (wrong_token, 401),
        (foreign_origin, 403),
        (rebinding_host, 403),
        (csrf_missing, 403),
        (path_traversal, 404),
        (giant_query, 414),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_unauthorized_request_is_rejected(scene: Scene, attack: Callable[[Page], int], status: int) -> None:
    assert attack(scene.page) == status


def lazy(page: Page, request: str) -> socket.socket:
    """Open a connection that sends a request, and then neither sends nor reads."""
    peer = socket.socket()
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    peer.settimeout(WAIT_S)
    peer.connect(("127.0.0.1", page.port))
    peer.sendall(request.encode())
    return peer


def is_cut(peer: socket.socket) -> bool:
    """Read what arrived; return whether the server closed the connection, without waiting."""
    try:
        while peer.recv(1 << 16):
            pass
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False
    return True


def test_slow_clients_are_cut_off(scene: Scene) -> None:
    asked = f"GET /api/runs/long/stream HTTP/1.1\r\nHost: {scene.page.host}\r\nCookie: {scene.page.cookie}\r\n"
    start = time.monotonic()
    reader, sender = lazy(scene.page, asked + "\r\n"), lazy(scene.page, asked)
    silent = lazy(scene.page, "")
    try:
        err = scene.services.err("dashboard")
        with scene.page.stream("/api/runs/endless/stream") as stream:  # another stream stays open
            while time.monotonic() < start + 6.0:
                stream.next("full", "patch")
        assert is_cut(sender)
        assert is_cut(silent)
        assert is_cut(reader)
        assert scene.services.err("dashboard") == err
    finally:
        for peer in (reader, sender, silent):
            peer.close()


def test_streams_over_the_limit_are_rejected(scene: Scene) -> None:
    streams = []
    try:
        with scene.page.stream("/api/stream") as one:
            for _ in range(80):
                peer = lazy(
                    scene.page,
                    f"GET /api/stream HTTP/1.1\r\nHost: {scene.page.host}\r\nCookie: {scene.page.cookie}\r\n\r\n",
                )
                streams.append(peer)
            answers = [peer.recv(12).decode() for peer in streams]
            assert {"HTTP/1.1 200", "HTTP/1.1 503"} == set(answers)
            assert one.next("runs")[1]["runs"]
    finally:
        for peer in streams:
            peer.close()


def test_run_continues_while_the_page_is_attacked(scene: Scene) -> None:
    page, stopping, refused = scene.page, threading.Event(), [0]
    attacks = (no_token, wrong_token, foreign_origin, rebinding_host, csrf_missing, path_traversal, giant_query)
    asked = f"GET /api/runs/long/stream HTTP/1.1\r\nHost: {page.host}\r\nCookie: {page.cookie}\r\n\r\n"

    def attack() -> None:
        while not stopping.is_set():
            for one in attacks:
                assert one(page) >= 400
                refused[0] += 1

    readers = [lazy(page, asked) for _ in range(8)]
    threads = [threading.Thread(target=attack) for _ in range(2)]
    before = closed(scene.folder)
    for thread in threads:
        thread.start()
    try:
        until(lambda: closed(scene.folder) >= before + 50, "fifty rounds", timeout_s=WAIT_S)
    finally:
        stopping.set()
        for thread in threads:
            thread.join(WAIT_S)
        for peer in readers:
            peer.close()
    assert refused[0] >= len(attacks)
    assert page.get("/api/runs")["runs"][0]["condition"] == "running"


def test_page_behind_a_proxy_has_a_token(scene: Scene) -> None:
    services = scene.services
    services.start("proxied", "dashboard", "--allowed-hosts", "fl.example.org", "--port", "0")
    until(lambda: re.search(r"dashboard on \S+/\?token=\S{20}", services.out("proxied")) is not None, "a token")
    services.terminate("proxied")


# Restarts; last, because the broker is killed


def test_page_shows_a_killed_trainer_and_a_restarted_broker(scene: Scene) -> None:
    services = scene.services
    with scene.page.stream("/api/runs/endless/stream") as stream:
        stream.next("full")
        services.kill("bob")
        stream.until(lambda values: "gone" in values.get("trainers", {}).get("presence", []))
        services.kill("broker")
        services.start_broker()
        services.start_trainer("bob", "linear:bob")
        before = closed(scene.folder)
        stream.until(lambda values: values.get("rounds", {}).get("round", [0])[-1] > before + 3)
    assert "token" not in services.err("dashboard")
    services.terminate("dashboard")
    assert services.wait("dashboard") == 0
    assert scene.page.token not in services.err("dashboard")
    assert services.err("dashboard") == ""
