"""Where a service tells how it is: three pages over HTTP, for a few clients at once, and what they say when."""

from __future__ import annotations

import http.client
import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
import pytest
from click.testing import CliRunner

from fedmq.cli.options import metrics_option
from fedmq.deploy.processes import free_port
from fedmq.errors import BadConfiguration
from fedmq.observe.metrics import Metrics
from fedmq.observe.metrics_http import CONNECTIONS_MAX, Server, answers
from fedmq.observe.metrics_server import exposed
from fedmq.runtime.loop import HANGS_S, Pulse
from fedmq.simulation.clock import VirtualClock

DEADLINE_S = 10.0


@contextmanager
def serving(pulse: Pulse, ready: str = "", host: str = "127.0.0.1") -> Iterator[tuple[str, int]]:
    server = Server(host, 0, answers(Metrics(), pulse, lambda: ready))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield ("127.0.0.1", server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(at: tuple[str, int], path: str, method: str = "GET", host: str | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*at, timeout=DEADLINE_S)
    try:
        connection.request(method, path, headers={} if host is None else {"Host": host})
        response = connection.getresponse()
        return response.status, response.read().decode()
    finally:
        connection.close()


def is_answered(at: tuple[str, int]) -> bool:
    try:
        return ask(at, "/healthz")[0] == 200
    except ConnectionError:
        return False


def test_healthz_is_well_while_the_loop_passes_and_503_when_it_hangs() -> None:
    clock = VirtualClock()
    pulse = Pulse(clock.now)
    with serving(pulse) as at:
        assert ask(at, "/healthz") == (200, "ok\n")
        clock.move_to(HANGS_S + 1)
        assert ask(at, "/healthz") == (503, "the service has not moved for 11 s\n")
        assert ask(at, "/readyz")[0] == 503
        pulse.beat()
        assert ask(at, "/healthz") == (200, "ok\n")


def test_readyz_says_what_is_missing() -> None:
    with serving(Pulse(), "the broker is not there") as at:
        assert ask(at, "/readyz") == (503, "the broker is not there\n")
        assert ask(at, "/healthz") == (200, "ok\n")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/metrics?name=x", 200),
        ("GET", "/", 404),
        ("GET", "/metrics/", 404),
        ("GET", "/../etc/passwd", 404),
        ("GET", "/" + "a" * 70_000, 414),
        ("POST", "/metrics", 501),
        ("HEAD", "/metrics", 501),
        ("DELETE", "/healthz", 501),
    ],
)
def test_there_is_nothing_but_three_pages_to_get(method: str, path: str, status: int) -> None:
    with serving(Pulse()) as at:
        assert ask(at, path, method)[0] == status


@pytest.mark.parametrize(
    ("bound", "host", "status"),
    [
        ("127.0.0.1", "localhost:1", 200),
        ("127.0.0.1", "evil.example", 403),
        ("127.0.0.1", "10.0.0.1", 403),
        ("", "north.example:9102", 200),
    ],
)
def test_on_loopback_no_site_gets_in_by_a_name_of_its_own(bound: str, host: str, status: int) -> None:
    with serving(Pulse(), host=bound) as at:
        assert [ask(at, path, host=host)[0] for path in ("/metrics", "/healthz")] == [status] * 2


def test_who_says_no_host_is_no_browser() -> None:
    with serving(Pulse()) as at, socket.create_connection(at, DEADLINE_S) as probe:
        probe.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert b" 200 " in probe.recv(1000)


def test_who_holds_connections_keeps_nobody_out_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmq.observe.metrics_http.REQUEST_S", 3600.0)
    with serving(Pulse()) as at:
        silent = [socket.create_connection(at, DEADLINE_S) for _ in range(CONNECTIONS_MAX)]
        silent[0].sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        with socket.create_connection(at, DEADLINE_S) as one_too_many:
            assert one_too_many.recv(1000) == b""
        assert select.select(silent, [], [], 0)[0] == [], "the others are not cut for it"
        monkeypatch.setattr("fedmq.observe.metrics_http.REQUEST_S", 0.0)
        for one in silent:  # each is cut
            while one.recv(1000):
                continue
            one.close()
        monkeypatch.undo()
        stop_by = time.monotonic() + DEADLINE_S  # their threads close them, each in its time
        while not is_answered(at):
            assert time.monotonic() < stop_by, "expected room for a client once the silent ones are cut"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("9100", "('127.0.0.1', 9100)"),
        ("0.0.0.0:9100", "('0.0.0.0', 9100)"),
        ("[::1]:9100", "('::1', 9100)"),
        ("", "expected PORT or HOST:PORT"),
        ("0", "expected PORT or HOST:PORT"),
        ("65536", "expected PORT or HOST:PORT"),
        ("host", "expected PORT or HOST:PORT"),
        ("9100:", "expected PORT or HOST:PORT"),
        ("-1", "expected PORT or HOST:PORT"),
    ],
)
def test_where_to_listen_is_a_port_or_a_host_and_a_port(given: str, expected: str) -> None:
    @click.command()
    @metrics_option
    def command(metrics: tuple[str, int] | None) -> None:
        click.echo(metrics)

    assert expected in CliRunner().invoke(command, [f"--metrics={given}"]).output


def test_a_port_that_is_taken_is_said_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(BadConfiguration, match=rf"cannot listen on 127\.0\.0\.1:{port} \(Address already in use\)"),
            exposed(("127.0.0.1", port), lambda _: None, lambda: ""),
        ):
            pass


def test_without_the_extra_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmq.observe.metrics_server.find_spec", lambda _: None)
    with (
        pytest.raises(BadConfiguration, match=r"pip install 'fedmq\[metrics\]'"),
        exposed(("127.0.0.1", free_port()), lambda _: None, lambda: ""),
    ):
        pass
