"""The dashboard's server as a thread: what ends it is seen by the one that watches."""

from __future__ import annotations

import socket
import threading
from typing import cast

import pytest

from dashboard.gallery import Gallery
from dashboard.server import Server
from dashboard.streams import Streams


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
