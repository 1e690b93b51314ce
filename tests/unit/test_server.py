"""The dashboard's server: what ends its thread is seen by the one that watches; who may not change anything is told."""

from __future__ import annotations

import http.client
import socket
import threading
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner

from dashboard.cli import dashboard
from dashboard.controls import Controls
from dashboard.gallery import Gallery
from dashboard.server import Server
from dashboard.streams import Streams
from deploy import roll
from fedmq.errors import BadConfiguration


class StoppedGallery:
    """Of no runs; says when it was stopped."""

    def __init__(self) -> None:
        self.stopped = threading.Event()

    def stop(self) -> None:
        self.stopped.set()


def test_a_failure_of_what_tells_the_pages_is_not_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(_self: Streams) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Streams, "run", fail)
    gallery, listener = StoppedGallery(), socket.create_server(("127.0.0.1", 0))
    server = Server(
        cast(Gallery, gallery),
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
        assert gallery.stopped.wait(10.0)
        with pytest.raises(ZeroDivisionError):
            server.check()
    finally:
        server.close()


@pytest.mark.parametrize(("host", "status"), [("fl.example.org", 200), ("localhost", 200), ("evil.example", 403)])
def test_a_name_that_is_allowed_is_ours_behind_a_proxy(host: str, status: int) -> None:
    gallery, listener = StoppedGallery(), socket.create_server(("127.0.0.1", 0))
    server = Server(
        cast(Gallery, gallery),
        listener,
        host="127.0.0.1",
        allowed=("fl.example.org",),
        token="the-token",  # noqa: S106
        controls=None,
        until_over=None,
        wake=lambda: None,
    )
    server.start()
    connection = http.client.HTTPConnection(*listener.getsockname(), timeout=10.0)
    try:
        connection.request("GET", "/", headers={"Host": host, "Authorization": "Bearer the-token"})
        assert connection.getresponse().status == status
    finally:
        connection.close()
        server.close()


@pytest.mark.parametrize("names", ["https://fl.example.org", "fl.example.org:443", "fl.example.org, x", ",", "*"])
def test_what_is_no_name_of_a_host_is_wrong_use(names: str) -> None:
    done = CliRunner().invoke(dashboard, ["--allowed-hosts", names])
    assert done.exit_code == 2
    assert "expected names of hosts, such as fl.example.org" in done.output


def test_with_an_observers_key_nothing_can_be_changed(tmp_path: Path) -> None:
    roll.make_federation(tmp_path / "keys", "tcp://127.0.0.1:5550")
    roll.add_observer(tmp_path / "keys", "wall", tmp_path / "wall")
    with pytest.raises(BadConfiguration, match=r"--control: .*expected aggregator\.key"):
        Controls(None, tmp_path / "wall")
