"""An HTTP connection with time limits, which uvicorn has not.

A client must send its request, and read the response, within a time limit. Otherwise the connection is aborted.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

REQUEST_S = 5.0  # from the connection, or the first byte of a request, to the end of its headers
READ_S = 5.0  # without any progress; a response is sent in pieces, so that a slow line makes progress


class TimedProtocol(H11Protocol):
    """The uvicorn protocol of one connection, with these time limits."""

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._abort_after("request", REQUEST_S)

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in self._timers.values():
            timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._is_responding():
            self._abort_after("request", REQUEST_S)
        super().data_received(data)
        if self._is_responding():
            self._cancel("request")

    def on_response_complete(self) -> None:
        self._cancel("request")
        super().on_response_complete()

    def pause_writing(self) -> None:
        self._abort_after("read", READ_S)
        super().pause_writing()

    def resume_writing(self) -> None:
        self._cancel("read")
        super().resume_writing()

    def _is_responding(self) -> bool:
        cycle: RequestResponseCycle | None = self.cycle  # uvicorn declares it without None
        return cycle is not None and not cycle.response_complete

    def _abort_after(self, what: str, seconds: float) -> None:
        if what not in self._timers:  # further bytes do not restart the timer
            self._timers[what] = self.loop.call_later(seconds, self.transport.abort)

    def _cancel(self, what: str) -> None:
        if what in self._timers:
            self._timers.pop(what).cancel()
