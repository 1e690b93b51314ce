"""Streams of server-sent events: what each open page is told of its run, and of the list of runs, as it happens.

What has changed is looked for once for all pages of a run, ten times a second at the most, and goes into a short queue
for each: who does not read it is dropped, and holds up nobody. Format: https://html.spec.whatwg.org/#server-sent-events
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import msgspec

from fedmq.dashboard.page_model import Values
from fedmq.dashboard.run_catalog import Cursor, RunCatalog

TICK_S = 0.1
LIST_S = 1.0
KEEP_ALIVE_S = 5.0
STREAMS_MAX = 64
QUEUE_MAX = 64  # events that a reader may be behind
RETRY = b"retry: 1000\n\n"
KEEP_ALIVE = b": \n\n"
_EVENT_ID = re.compile(r"(\d{1,16})-(\d{1,16})")


class TooManyStreams(Exception):
    """No other page can be told anything now."""


@dataclass(eq=False)
class Reader:
    """One open page."""

    knows: tuple[int, int] | None  # term and event, of the stream that it had before
    queue: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(QUEUE_MAX))
    gone: bool = False
    told_absent: bool = False

    def tell(self, chunk: bytes) -> None:
        """For it to read next; who is too far behind is dropped."""
        try:
            self.queue.put_nowait(chunk)
        except asyncio.QueueFull:
            self.gone = True

    def leave(self) -> None:
        """It is closed."""
        self.gone = True
        with suppress(asyncio.QueueFull):
            self.queue.put_nowait(None)

    async def chunks(self) -> AsyncIterator[bytes]:
        """What it is to be sent, until it is dropped."""
        yield RETRY
        while not self.gone:
            try:
                chunk = await asyncio.wait_for(self.queue.get(), KEEP_ALIVE_S)
            except TimeoutError:
                chunk = KEEP_ALIVE
            if chunk is None:
                return
            yield chunk


@dataclass
class Channel:
    """The pages of one run."""

    readers: list[Reader] = field(default_factory=list)
    joining: list[Reader] = field(default_factory=list)
    cursor: Cursor | None = None


class Streams:
    """All open pages, by run; "" is that of none. `run` is to go on beside them."""

    def __init__(self, gallery: RunCatalog) -> None:
        self.opened = 0  # in all
        self._gallery = gallery
        self._channels: dict[str, Channel] = {}
        self._list: Values = {}
        self._list_at = 0.0

    @property
    def open(self) -> int:
        """How many there are."""
        return sum(len(one.readers) + len(one.joining) for one in self._channels.values())

    @asynccontextmanager
    async def reader(self, run: str, last_event_id: str) -> AsyncIterator[Reader]:
        """A page of that run opens its stream; `last_event_id` is what it says that it has read.

        Raises:
            TooManyStreams: there are STREAMS_MAX.
        """
        if self.open >= STREAMS_MAX:
            raise TooManyStreams
        match = _EVENT_ID.fullmatch(last_event_id)
        self.opened += 1
        reader = Reader((int(match[1]), int(match[2])) if match else None)
        channel = self._channels.setdefault(run, Channel())
        channel.joining.append(reader)
        if self._list:
            reader.tell(event("runs", msgspec.json.encode(self._list)))
        try:
            yield reader
        finally:
            for readers in (channel.joining, channel.readers):
                with suppress(ValueError):
                    readers.remove(reader)
            if not channel.joining and not channel.readers and self._channels.get(run) is channel:
                del self._channels[run]

    async def run(self) -> None:
        """Tell them all, for as long as this is not cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            started = clock()
            await self._tell_list(started)
            for run, channel in list(self._channels.items()):
                if run:
                    await self._tell(run, channel)
            await asyncio.sleep(max(0.0, started + TICK_S - clock()))

    async def _tell_list(self, now: float) -> None:
        if not self._channels or now < self._list_at:
            return
        self._list_at = now + LIST_S
        listed = await asyncio.to_thread(self._gallery.runs)
        if {**listed, "now": 0} != {**self._list, "now": 0}:
            for channel in self._channels.values():
                for reader in (*channel.readers, *channel.joining):
                    reader.tell(event("runs", msgspec.json.encode(listed)))
        self._list = listed

    async def _tell(self, run: str, channel: Channel) -> None:
        joining, channel.joining = channel.joining, []
        if channel.cursor is None:  # the run was not known: who waits for it joins now
            joining, channel.readers = [*channel.readers, *joining], []
        following = list(channel.readers)
        channel.readers += joining
        news = await asyncio.to_thread(self._gallery.news, run, channel.cursor, [one.knows for one in joining])
        if news is None:
            for reader in [one for one in channel.readers if not one.told_absent]:
                reader.told_absent = True
                reader.tell(event("absent", b"{}"))
            channel.cursor = None
            return
        channel.cursor = news.cursor
        chunks = {told: event(*told, news.cursor) for told in set(news.joining)}  # a large one is there once
        for reader, told in zip(joining, news.joining, strict=True):
            reader.knows, reader.told_absent = None, False
            reader.tell(chunks[told])
        if news.patch is not None:
            chunk = event(*news.patch, news.cursor)
            for reader in following:
                reader.tell(chunk)


def event(kind: str, data: bytes, cursor: Cursor | None = None) -> bytes:
    """One event of a stream; with a cursor one from which a reader that comes again can go on."""
    number = b"" if cursor is None else b"id: %d-%d\n" % (cursor.term, cursor.seq)
    return b"event: %s\n%sdata: %s\n\n" % (kind.encode(), number, data)
