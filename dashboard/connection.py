"""A connection to the page's server that costs little, whatever its other end does or leaves undone.

Adds to uvicorn's what it lacks: a request has to come within a while, and what is sent has to be read within a while;
else the connection is cut, without waiting for the other end. Knows nothing of what is asked for or answered.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

REQUEST_S = 5.0  # from the connection, or the first byte of a request, to the end of its headers
READ_S = 5.0  # while what was sent is not taken; a piece at a time is, so a slow line has time enough


class TimedProtocol(H11Protocol):
    """uvicorn's protocol of one connection, with these deadlines."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._cut: dict[str, asyncio.TimerHandle] = {}
        self._cut_after("request", REQUEST_S)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._cut.values():
            timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._is_answering():
            self._cut_after("request", REQUEST_S)
        super().data_received(data)
        if self._is_answering():
            self._spare("request")

    def on_response_complete(self) -> None:
        """See uvicorn: the connection may be used again, or idle until it is closed."""
        self._spare("request")
        super().on_response_complete()

    def pause_writing(self) -> None:
        """See `asyncio.Protocol`: what was sent piles up here."""
        self._cut_after("read", READ_S)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._spare("read")
        super().resume_writing()

    def _is_answering(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn says that it is never None
        return cycle is not None and not cycle.response_complete

    def _cut_after(self, what: str, seconds: float) -> None:
        if what not in self._cut:  # a byte now and then does not put it off
            self._cut[what] = self.loop.call_later(seconds, self.transport.abort)

    def _spare(self, what: str) -> None:
        if what in self._cut:
            self._cut.pop(what).cancel()
