"""The dashboard server: failures, limits, and the URL with its token."""

from __future__ import annotations

import http.client
import os
import socket
import threading
from pathlib import Path
from typing import Any, cast
from unittest.mock import Mock

import pytest
from click.testing import CliRunner
from uvicorn.server import ServerState

from fedmq.dashboard import cli
from fedmq.dashboard.cli import dashboard
from fedmq.dashboard.controls import Controls
from fedmq.dashboard.run_catalog import RunCatalog
from fedmq.dashboard.server import CONNECTIONS_MAX, REQUEST_S, DashboardServer, TimedProtocol, _config
from fedmq.dashboard.server_sent_events import PageStreams
from fedmq.errors import BadConfiguration
from fedmq.security import membership


class StoppedCatalog:
    """A catalog without runs; `stopped` is set when it stops."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def stop(self) -> None:
        self.stopped.set()


def test_failure_of_the_page_streams_ends_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_self: PageStreams) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(PageStreams, "run", fail)
    catalog, listener = StoppedCatalog(), socket.create_server(("127.0.0.1", 0))
    server = DashboardServer(
        cast(RunCatalog, catalog),
        listener,
        host="127.0.0.1",
        allowed=(),
        token="",
        controls=None,
        until_over=None,
        wake=lambda: None,
    )
    server.start()
    try:
        assert catalog.stopped.wait(60.0)
        with pytest.raises(ZeroDivisionError):
            server.check()
    finally:
        server.close()


@pytest.mark.parametrize(("host", "status"), [("fl.example.org", 200), ("localhost", 200), ("evil.example", 403)])
def test_allowed_host_is_served_behind_a_proxy(host: str, status: int) -> None:
    catalog, listener = StoppedCatalog(), socket.create_server(("127.0.0.1", 0))
    server = DashboardServer(
        cast(RunCatalog, catalog),
        listener,
        host="127.0.0.1",
        allowed=("fl.example.org",),
        token="the-token",  # noqa: S106
        controls=None,
        until_over=None,
        wake=lambda: None,
    )
    server.start()
    connection = http.client.HTTPConnection(*listener.getsockname(), timeout=60.0)
    try:
        connection.request("GET", "/", headers={"Host": host, "Authorization": "Bearer the-token"})
        assert connection.getresponse().status == status
    finally:
        connection.close()
        server.close()


@pytest.mark.parametrize("names", ["https://fl.example.org", "fl.example.org:443", "fl.example.org, x", ",", "*"])
def test_invalid_host_name_is_a_usage_error(names: str) -> None:
    done = CliRunner().invoke(dashboard, ["--allowed-hosts", names])
    assert done.exit_code == 2
    assert "expected host names separated by commas" in done.output


def test_control_needs_the_key_of_the_aggregator(tmp_path: Path) -> None:
    membership.make_federation(tmp_path / "keys", "tcp://127.0.0.1:5550")
    membership.add_observer(tmp_path / "keys", "wall", tmp_path / "wall")
    with pytest.raises(BadConfiguration, match=r"--control: .*expected aggregator\.key"):
        Controls(None, tmp_path / "wall")


class Hands:
    """The parts of an event loop that the time limits of a connection need, with a clock set by the test."""

    def __init__(self) -> None:
        self.time, self._timers = 0.0, list[tuple[float, Any, Mock]]()

    def call_later(self, seconds: float, call: Any) -> Mock:
        timer = Mock(cancelled=False)
        self._timers.append((self.time + seconds, call, timer))
        return timer

    def move_to(self, time: float) -> None:
        self.time = time
        for due, call, timer in self._timers:
            if due <= time and not timer.cancel.called:
                call()


def test_slow_request_is_aborted_despite_further_bytes() -> None:
    hands, transport = Hands(), Mock()
    transport.get_extra_info.return_value = None
    connection = TimedProtocol(_config(Mock()), ServerState(), {}, _loop=cast(Any, hands))
    connection.connection_made(transport)
    for second, byte in enumerate(b"GET "):
        hands.move_to(float(second + 1))
        connection.data_received(bytes([byte]))
    assert not transport.abort.called
    hands.move_to(REQUEST_S)
    assert transport.abort.called


def test_number_of_connections_is_bounded() -> None:
    assert _config(Mock()).limit_concurrency == CONNECTIONS_MAX


def test_url_with_a_token_is_readable_by_its_owner_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    status = os.fstat(1)
    monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    cli._announce("http://127.0.0.1:8550/?token=secret")
    assert "secret" not in capfd.readouterr().out
    assert (tmp_path / "url").read_text() == "http://127.0.0.1:8550/?token=secret\n"
    assert (tmp_path / "url").stat().st_mode & 0o777 == 0o600
