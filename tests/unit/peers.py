"""Peers of other protocol versions: the frozen messages of version 2, and those of a made-up later version.

A node of a simulation speaks another version through a link that translates: each header that it sends or receives is
decoded and encoded again by that version's structs alone. `VERSION_2` must never change: it is what an old host reads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from fedmq.protocol.codec import Frames
from fedmq.protocol.messages import PROTOCOL_VERSION, PROTOCOL_VERSION_MIN
from fedmq.transport.link import Delivered, Link, LinkEvent

# --- version 2, as it was released ------------------------------------------------------------------------------


class Header2(msgspec.Struct, frozen=True, kw_only=True, tag_field="t"):
    v: int = 2
    arrays: tuple[Any, ...] = ()


class RunHeader2(Header2, frozen=True, kw_only=True):
    run: str
    term: int


class Round2(RunHeader2, frozen=True, kw_only=True, tag="round"):
    round: int
    seed: int
    deadline_s: float
    task: dict[str, Any]
    query: dict[str, Any]
    acknowledged: bytes = b""


class Beacon2(RunHeader2, frozen=True, kw_only=True, tag="beacon"):
    round: int
    open: bool
    paused: bool = False
    waiting: bool = False
    spread_s: float = 0.0
    acknowledged: bytes = b""
    acked_request: int = 0
    at: float = 0.0


class Finished2(RunHeader2, frozen=True, kw_only=True, tag="finished"):
    rounds: int
    solved: bool


class Welcome2(RunHeader2, frozen=True, kw_only=True, tag="welcome"):
    trainer: str
    index: int


class Accepted2(RunHeader2, frozen=True, kw_only=True, tag="accepted"):
    trainer: str
    round: int


class Refused2(RunHeader2, frozen=True, kw_only=True, tag="refused"):
    trainer: str
    round: int
    reason: str
    detail: str


class Hello2(RunHeader2, frozen=True, kw_only=True, tag="hello"):
    trainer: str
    num_examples: int
    round: int
    version: str
    labels: tuple[str, ...] = ()
    versions: tuple[int, int] = (2, 2)


class Result2(RunHeader2, frozen=True, kw_only=True, tag="result"):
    trainer: str
    round: int
    num_examples: int
    attempt: int
    train_s: float
    model_digest: bytes
    fraction_bits: int
    cpu_s: float = 0.0
    memory: int = 0


class Goodbye2(RunHeader2, frozen=True, kw_only=True, tag="goodbye"):
    trainer: str


class Presence2(Header2, frozen=True, kw_only=True, tag="presence"):
    trainer: str
    present: bool


VERSION_2 = Round2 | Beacon2 | Finished2 | Welcome2 | Accepted2 | Refused2 | Hello2 | Result2 | Goodbye2 | Presence2


class Version2:
    """What a peer of version 2 makes of a header: what it does not know is gone."""

    def __init__(self) -> None:
        self._decoder = msgspec.msgpack.Decoder(VERSION_2)
        self.unknown: set[str] = set()  # fields that it has received and ignored

    def translate(self, header: bytes) -> bytes:
        message = self._decoder.decode(header)
        assert message.v == 2, "it would be rejected"
        fields = {field.encode_name for field in msgspec.structs.fields(message)} | {"t"}
        self.unknown |= msgspec.msgpack.decode(header).keys() - fields
        return msgspec.msgpack.encode(message)


class LaterVersion:
    """What a peer of a later version makes of a header: every message has an optional field more, of three types."""

    def __init__(self, versions: tuple[int, int] = (PROTOCOL_VERSION_MIN, PROTOCOL_VERSION + 1)) -> None:
        self.versions = versions

    def translate(self, header: bytes) -> bytes:
        fields = msgspec.msgpack.decode(header)
        fields |= {"priority": 7, "trace": {"id": b"\x01", "parents": [1, 2]}, "note": "new in a later version"}
        if fields["t"] == "hello":
            fields["versions"] = self.versions
        return msgspec.msgpack.encode(fields)


Version = Version2 | LaterVersion


class TranslatingLink:
    """A link of a peer that speaks `version`."""

    def __init__(self, link: Link, version: Version) -> None:
        self._link, self._version = link, version

    def receive(self) -> Iterator[LinkEvent]:
        for event in self._link.receive():
            yield Delivered(self._translated(event.frames)) if isinstance(event, Delivered) else event

    def send(self, frames: Frames) -> bool:
        return self._link.send(self._translated(frames))

    def _translated(self, frames: Frames) -> Frames:
        return [frames[0], self._version.translate(frames[1]), *frames[2:]]
