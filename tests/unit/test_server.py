"""The dashboard's server: what ends its thread is seen by the one that watches; who may not change anything is told."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import cast

import pytest

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


def test_with_an_observers_key_nothing_can_be_changed(tmp_path: Path) -> None:
    roll.make_federation(tmp_path / "keys", "tcp://127.0.0.1:5550")
    roll.add_observer(tmp_path / "keys", "wall", tmp_path / "wall")
    with pytest.raises(BadConfiguration, match=r"--control: .*expected aggregator\.key"):
        Controls(None, tmp_path / "wall")
