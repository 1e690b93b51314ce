"""A TCP proxy that injects network faults: delay, low bandwidth, cuts in one or both directions, resets.

A cut holds data back, as TCP does, and delivers it once healed. The end of a connection is held back, too, so that the
other side keeps a half-open connection.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import Literal

CHUNK_BYTES = 65_536
QUEUED_CHUNKS_MAX = 64

Direction = Literal["up", "down"]
Chunk = tuple[float, bytes]  # due time and data; b"": the end


class Proxy:
    """Forwards `ports` consecutive ports between one edge and the broker.

    `delay_s` is added in each direction. `bytes_per_s` limits each direction of a connection, None: no limit. Both may
    be changed at any time.
    """

    def __init__(self, port: int, broker_port: int, ports: int) -> None:
        self.port, self.delay_s = port, 0.0
        self.bytes_per_s: float | None = None
        self._broker_port, self._ports = broker_port, ports
        self._open: dict[Direction, asyncio.Event] = {"up": asyncio.Event(), "down": asyncio.Event()}
        self._cuts = Counter[Direction]()
        self._servers: list[asyncio.Server] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        for access in self._open.values():
            access.set()

    async def start(self) -> None:
        """Start to listen."""
        for offset in range(self._ports):
            target = self._broker_port + offset

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int = target) -> None:
                task = asyncio.create_task(self._connection(reader, writer, target))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

            self._servers.append(await asyncio.start_server(accept, "127.0.0.1", self.port + offset, backlog=256))

    async def stop(self) -> None:
        """Close all ports and connections."""
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.drop()

    def cut(self, *directions: Direction) -> None:
        """Block these directions and all new connections."""
        for direction in directions:
            self._cuts[direction] += 1
            self._open[direction].clear()

    def heal(self, *directions: Direction) -> None:
        """Undo one cut in each of these directions; a direction is open when all are undone."""
        for direction in directions:
            self._cuts[direction] -= 1
            if not self._cuts[direction]:
                self._open[direction].set()

    def drop(self) -> int:
        """Reset every connection and return the number of sockets."""
        count = len(self._writers)
        for writer in list(self._writers):
            writer.transport.abort()
        return count

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: int) -> None:
        self._writers.add(writer)
        broker_writer: asyncio.StreamWriter | None = None
        try:
            for access in self._open.values():  # a handshake needs both directions
                await access.wait()
            broker_reader, broker_writer = await asyncio.open_connection("127.0.0.1", target)
            self._writers.add(broker_writer)
            await self._both_ways((reader, writer), (broker_reader, broker_writer))
        except OSError:
            pass  # no broker, or a reset connection: the edge's end is closed below
        finally:
            for end in (writer, broker_writer):
                if end is not None:
                    end.close()
                    self._writers.discard(end)

    async def _both_ways(
        self,
        edge: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        broker: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Forward until one end is closed and the other has received the end."""
        tasks: list[asyncio.Task[None]] = []
        ends: list[asyncio.Task[None]] = []
        flows: tuple[tuple[Direction, asyncio.StreamReader, asyncio.StreamWriter], ...] = (
            ("up", edge[0], broker[1]),
            ("down", broker[0], edge[1]),
        )
        for direction, reader, writer in flows:
            queue: asyncio.Queue[Chunk] = asyncio.Queue(QUEUED_CHUNKS_MAX)
            tasks.append(asyncio.create_task(self._read_from(reader, queue)))
            ends.append(asyncio.create_task(self._write_to(direction, queue, writer)))
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (*tasks, *ends):
                task.cancel()
            await asyncio.gather(*tasks, *ends, return_exceptions=True)

    async def _read_from(self, reader: asyncio.StreamReader, queue: asyncio.Queue[Chunk]) -> None:
        clock = asyncio.get_running_loop().time
        chunk = b"more"
        while chunk:
            chunk = b""
            with suppress(OSError):
                chunk = await reader.read(CHUNK_BYTES)
            await queue.put((clock() + self.delay_s, chunk))

    async def _write_to(self, direction: Direction, queue: asyncio.Queue[Chunk], writer: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due, chunk = await queue.get()
            if (early_s := due - clock()) > 0:
                await asyncio.sleep(early_s)
            await self._open[direction].wait()
            if not chunk:
                return
            if self.bytes_per_s is not None:
                await asyncio.sleep(len(chunk) / self.bytes_per_s)
            writer.write(chunk)
            await writer.drain()
