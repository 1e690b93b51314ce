"""The metrics server: its three paths, its limits, and the option --metrics."""

from __future__ import annotations

import http.client
import select
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import click
import pytest
from click.testing import CliRunner

from fedmq.cli.options import metrics_option, optional_metrics
from fedmq.deploy.processes import free_port
from fedmq.errors import BadConfiguration
from fedmq.observe.metrics import Metrics
from fedmq.observe.metrics_server import CONNECTIONS_MAX, MetricsServer, metrics_routes
from fedmq.runtime.loop import HANGS_S, Pulse
from fedmq.simulation.clock import VirtualClock

DEADLINE_S = 60.0


@contextmanager
def serving(pulse: Pulse, ready: str = "", host: str = "127.0.0.1") -> Iterator[tuple[str, int]]:
    server = MetricsServer(host, 0, metrics_routes(Metrics(), pulse, lambda: ready))
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


def responds(at: tuple[str, int]) -> bool:
    try:
        return ask(at, "/healthz")[0] == 200
    except ConnectionError:
        return False


def test_healthz_is_200_while_the_loop_runs_and_503_when_it_hangs() -> None:
    clock = VirtualClock()
    pulse = Pulse(clock.now)
    with serving(pulse) as at:
        assert ask(at, "/healthz") == (200, "ok\n")
        clock.move_to(HANGS_S + 1)
        assert ask(at, "/healthz") == (503, "the service has not moved for 11 s\n")
        assert ask(at, "/readyz")[0] == 503
        pulse.beat()
        assert ask(at, "/healthz") == (200, "ok\n")


def test_readyz_names_what_is_missing() -> None:
    with serving(Pulse(), "no connection to the broker") as at:
        assert ask(at, "/readyz") == (503, "no connection to the broker\n")
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
def test_other_paths_and_methods_are_rejected(method: str, path: str, status: int) -> None:
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
def test_foreign_host_header_is_rejected_on_loopback(bound: str, host: str, status: int) -> None:
    with serving(Pulse(), host=bound) as at:
        assert [ask(at, path, host=host)[0] for path in ("/metrics", "/healthz")] == [status] * 2


def test_request_without_host_header_is_served() -> None:
    with serving(Pulse()) as at, socket.create_connection(at, DEADLINE_S) as probe:
        probe.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert b" 200 " in probe.recv(1000)


def test_idle_connections_are_cut_off_after_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmq.observe.metrics_server.REQUEST_S", 3600.0)
    with serving(Pulse()) as at:
        silent = [socket.create_connection(at, DEADLINE_S) for _ in range(CONNECTIONS_MAX)]
        silent[0].sendall(b"GET /metrics HTTP/1.1\r\nX: ")
        with socket.create_connection(at, DEADLINE_S) as one_too_many:
            assert one_too_many.recv(1000) == b""
        assert select.select(silent, [], [], 0)[0] == [], "the other connections stay open"
        monkeypatch.setattr("fedmq.observe.metrics_server.REQUEST_S", 0.0)
        for one in silent:  # each is cut off
            while one.recv(1000):
                continue
            one.close()
        monkeypatch.undo()
        stop_by = time.monotonic() + DEADLINE_S  # their threads close them one by one
        while not responds(at):
            assert time.monotonic() < stop_by, "expected room for a client once the idle ones are cut off"


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
def test_metrics_option_takes_a_port_or_a_host_and_port(given: str, expected: str) -> None:
    @click.command()
    @metrics_option
    def command(metrics: tuple[str, int] | None) -> None:
        click.echo(metrics)

    assert expected in CliRunner().invoke(command, [f"--metrics={given}"]).output


def test_port_in_use_is_reported_in_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(BadConfiguration, match=rf"cannot listen on 127\.0\.0\.1:{port} \(Address already in use\)"),
            optional_metrics(("127.0.0.1", port), lambda _: None, lambda: ""),
        ):
            pass


def test_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmq.cli.options.find_spec", lambda _: None)
    with (
        pytest.raises(BadConfiguration, match=r"pip install 'fedmq\[metrics\]'"),
        optional_metrics(("127.0.0.1", free_port()), lambda _: None, lambda: ""),
    ):
        pass


def test_without_address_nothing_is_loaded() -> None:
    code = (
        "import sys, fedmq.cli.options as options\n"
        "with options.optional_metrics(None, lambda _: None, lambda: '') as pulse: assert pulse is None\n"
        "assert not {'http.server', 'prometheus_client'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
