"""Server-sent events for open pages: the list of runs, and the changes of one run.

Changes are collected once for all pages of a run, at most ten times a second, and put into a short queue for each page.
A page that does not read its queue is dropped. Format: https://html.spec.whatwg.org/#server-sent-events
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import msgspec

from fedmq.dashboard.page_model import Values
from fedmq.dashboard.run_catalog import PageCursor, RunCatalog

TICK_S = 0.1
LIST_S = 1.0
KEEP_ALIVE_S = 5.0
STREAMS_MAX = 64
QUEUE_MAX = 64  # events that a page may be behind
RETRY = b"retry: 1000\n\n"
KEEP_ALIVE = b": \n\n"
_EVENT_ID = re.compile(r"(\d{1,16})-(\d{1,16})")


class TooManyStreams(Exception):
    """STREAMS_MAX pages are open."""


@dataclass(eq=False)
class PageStream:
    """The stream of one open page."""

    known: tuple[int, int] | None  # term and seq of the last event on its previous connection
    queue: asyncio.Queue[bytes | None] = field(default_factory=lambda: asyncio.Queue(QUEUE_MAX))
    closed: bool = False
    sent_absent: bool = False

    def send(self, chunk: bytes) -> None:
        """Put a chunk into the queue; close the stream if the queue is full."""
        try:
            self.queue.put_nowait(chunk)
        except asyncio.QueueFull:
            self.closed = True

    def close(self) -> None:
        self.closed = True
        with suppress(asyncio.QueueFull):
            self.queue.put_nowait(None)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the chunks to send until the stream is closed."""
        yield RETRY
        while not self.closed:
            try:
                chunk = await asyncio.wait_for(self.queue.get(), KEEP_ALIVE_S)
            except TimeoutError:
                chunk = KEEP_ALIVE
            if chunk is None:
                return
            yield chunk


@dataclass
class RunChannel:
    """The streams of one run."""

    streams: list[PageStream] = field(default_factory=list)
    joining: list[PageStream] = field(default_factory=list)
    cursor: PageCursor | None = None


class PageStreams:
    """The streams of all open pages, by run ("" for none); `run` serves them."""

    def __init__(self, catalog: RunCatalog) -> None:
        self.opened = 0  # total
        self._catalog = catalog
        self._channels: dict[str, RunChannel] = {}
        self._list: Values = {}
        self._list_at = 0.0

    @property
    def open(self) -> int:
        return sum(len(one.streams) + len(one.joining) for one in self._channels.values())

    @asynccontextmanager
    async def stream(self, run: str, last_event_id: str) -> AsyncIterator[PageStream]:
        """Open the stream of a page; `last_event_id` is the last event that it received before.

        Raises:
            TooManyStreams: STREAMS_MAX streams are open.
        """
        if self.open >= STREAMS_MAX:
            raise TooManyStreams
        match = _EVENT_ID.fullmatch(last_event_id)
        self.opened += 1
        stream = PageStream((int(match[1]), int(match[2])) if match else None)
        channel = self._channels.setdefault(run, RunChannel())
        channel.joining.append(stream)
        if self._list:
            stream.send(format_event("runs", msgspec.json.encode(self._list)))
        try:
            yield stream
        finally:
            for streams in (channel.joining, channel.streams):
                with suppress(ValueError):
                    streams.remove(stream)
            if not channel.joining and not channel.streams and self._channels.get(run) is channel:
                del self._channels[run]

    async def run(self) -> None:
        """Send updates to all streams until canceled."""
        clock = asyncio.get_running_loop().time
        while True:
            started = clock()
            await self._send_list(started)
            for run, channel in list(self._channels.items()):
                if run:
                    await self._send_update(run, channel)
            await asyncio.sleep(max(0.0, started + TICK_S - clock()))

    async def _send_list(self, now: float) -> None:
        if not self._channels or now < self._list_at:
            return
        self._list_at = now + LIST_S
        listed = await asyncio.to_thread(self._catalog.runs)
        if {**listed, "now": 0} != {**self._list, "now": 0}:
            chunk = format_event("runs", msgspec.json.encode(listed))
            for channel in self._channels.values():
                for stream in (*channel.streams, *channel.joining):
                    stream.send(chunk)
        self._list = listed

    async def _send_update(self, run: str, channel: RunChannel) -> None:
        joining, channel.joining = channel.joining, []
        if channel.cursor is None:  # the run was unknown: all its streams join now
            joining, channel.streams = [*channel.streams, *joining], []
        following = list(channel.streams)
        channel.streams += joining
        update = await asyncio.to_thread(self._catalog.update, run, channel.cursor, [one.known for one in joining])
        if update is None:
            for stream in [one for one in channel.streams if not one.sent_absent]:
                stream.sent_absent = True
                stream.send(format_event("absent", b"{}"))
            channel.cursor = None
            return
        channel.cursor = update.cursor
        chunks = {message: format_event(*message, update.cursor) for message in set(update.joining)}  # each only once
        for stream, message in zip(joining, update.joining, strict=True):
            stream.known, stream.sent_absent = None, False
            stream.send(chunks[message])
        if update.patch is not None:
            chunk = format_event(*update.patch, update.cursor)
            for stream in following:
                stream.send(chunk)


def format_event(kind: str, data: bytes, cursor: PageCursor | None = None) -> bytes:
    """Return one event of a stream; a cursor becomes its id, from which a page can continue after a reconnect."""
    number = b"" if cursor is None else b"id: %d-%d\n" % (cursor.term, cursor.seq)
    return b"event: %s\n%sdata: %s\n\n" % (kind.encode(), number, data)
