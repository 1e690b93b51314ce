"""Parties with real keys, and what can be done to their genuine messages by name. Knows no rule.

Each kind takes a good message and another good one, the parties and a seeded generator, and makes a bad one.
"""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import numpy as np

from fedmq.protocol.codec import HEADER_BYTES_MAX, Frames, encode
from fedmq.protocol.fixed_point import FRACTION_BITS
from fedmq.protocol.messages import Message, Result
from fedmq.security.keyring import MEMBERS, Credentials, FederationInfo, Members, write_public
from fedmq.security.keys import Identity
from fedmq.security.signing import PURPOSE, TrainerSigning
from fedmq.testing import VirtualClock
from fedmq.transport.link import LinkEvent, LinkUp

EPOCH = int(1000 * VirtualClock().wall())  # when an aggregator starts

Bad = list[bytes]


class Wire:
    """A link in memory: it delivers what the test adds, and records what is sent."""

    def __init__(self) -> None:
        self.news: deque[LinkEvent] = deque([LinkUp()])
        self.sent: list[Frames] = []

    def receive(self) -> Iterator[LinkEvent]:
        while self.news:
            yield self.news.popleft()

    def send(self, frames: Frames) -> bool:
        self.sent.append(frames)
        return True


class Parties:
    """A federation of alice and bob, another federation, an observer's key, and an unknown key."""

    def __init__(self, folder: Path) -> None:
        self.broker, self.aggregator = Identity.new("broker", "broker"), Identity.new("aggregator", "aggregator")
        self.federation = FederationInfo(
            os.urandom(16), "tcp://h:1", self.broker.public.transport, self.aggregator.public
        )
        self.other = msgspec.structs.replace(self.federation, id=os.urandom(16))
        self.of = {name: Identity.new("trainer", name) for name in ("alice", "bob", "mallory")}
        self.of["olga"] = Identity.new("observer", "olga")
        self.of |= {"aggregator": self.aggregator, "broker": self.broker}
        for name in ("alice", "bob", "olga"):
            write_public(folder, MEMBERS, self.of[name].public)
        self.members = Members(folder)

    def sign(self, name: str, header: bytes, *, federation: FederationInfo | None = None) -> bytes:
        return TrainerSigning(Credentials(federation or self.federation, self.of[name])).sign(header)

    def signed(
        self, topic: str, message: Message, signer: str, arrays: dict[str, np.ndarray] | None = None
    ) -> list[bytes]:
        return encode(topic, message, arrays, sign=lambda header: self.sign(signer, header))


def result_of(parties: Parties, name: str, round: int, number: float, **other: Any) -> list[bytes]:
    fields = {
        "run": "run",
        "term": EPOCH,
        "trainer": name,
        "round": round,
        "num_examples": 2,
        "attempt": 1,
        "train_s": 0.1,
    }
    fields |= {"model_digest": bytes(32), "fraction_bits": FRACTION_BITS}
    arrays = {"model": np.array([number]), "losses": np.array([1 << FRACTION_BITS])}
    return parties.signed(f"up/run/{name}", Result(**{**fields, **other}), name, arrays)


def reheaded(frames: Bad, parties: Parties, signer: str | None = None, **other: Any) -> Bad:
    """Return the frames with changed header fields, signed again by `signer` or not at all."""
    header = msgspec.msgpack.encode({**msgspec.msgpack.decode(frames[1]), **other})
    return [frames[0], header, frames[2] if signer is None else parties.sign(signer, header), *frames[3:]]


def with_array(frames: Bad, blob: bytes, *, fixed: bool) -> Bad:
    """Replace the first array, with or without its description."""
    header = msgspec.msgpack.decode(frames[1])
    if fixed:
        header["arrays"][0] |= {
            "sha256": hashlib.sha256(blob).digest(),
            "nbytes": len(blob),
            "shape": [len(blob) // 8],
        }
    return [frames[0], msgspec.msgpack.encode(header), frames[2], blob, *frames[4:]]


def flipped(frames: Bad, at: int, draws: Random) -> Bad:
    content = bytearray(frames[at])
    content[draws.randrange(len(content))] ^= 1 << draws.randrange(8)
    return [*frames[:at], bytes(content), *frames[at + 1 :]]


def cut_short(frames: Bad, at: int, draws: Random) -> Bad:
    return [*frames[:at], frames[at][: draws.randrange(len(frames[at]))], *frames[at + 1 :]]


def longer(frames: Bad, at: int, draws: Random) -> Bad:
    return [*frames[:at], frames[at] + draws.randbytes(draws.randrange(1, 9)), *frames[at + 1 :]]


Kind = Callable[[Bad, Bad, Parties, Random], Bad]  # of a good message and another good one

ANYWHERE: dict[str, Kind] = {
    "a bit of the header": lambda good, other, parties, draws: flipped(good, 1, draws),
    "a bit of the signature": lambda good, other, parties, draws: flipped(good, 2, draws),
    "a bit of the first array": lambda good, other, parties, draws: flipped(good, 3, draws),
    "a header that is cut short": lambda good, other, parties, draws: cut_short(good, 1, draws),
    "a signature that is cut short": lambda good, other, parties, draws: cut_short(good, 2, draws),
    "an array that is cut short": lambda good, other, parties, draws: cut_short(good, 3, draws),
    "a longer header": lambda good, other, parties, draws: longer(good, 1, draws),
    "a longer signature": lambda good, other, parties, draws: longer(good, 2, draws),
    "a longer array": lambda good, other, parties, draws: longer(good, 3, draws),
    "no signature": lambda good, other, parties, draws: [*good[:2], b"", *good[3:]],
    "a signature of zeros": lambda good, other, parties, draws: [*good[:2], bytes(64), *good[3:]],
    "a random signature": lambda good, other, parties, draws: [*good[:2], draws.randbytes(64), *good[3:]],
    "another message's signature": lambda good, other, parties, draws: [*good[:2], other[2], *good[3:]],
    "another message's header": lambda good, other, parties, draws: [good[0], other[1], *good[2:]],
    "another message's array": lambda good, other, parties, draws: with_array(good, other[3], fixed=False),
    "another message's array, described": lambda good, other, parties, draws: with_array(good, other[3], fixed=True),
    "other numbers, described": lambda good, other, parties, draws: with_array(
        good, np.array([draws.random()]).tobytes(), fixed=True
    ),
    "NaN": lambda good, other, parties, draws: with_array(good, np.array([np.nan]).tobytes(), fixed=True),
    "a frame is missing": lambda good, other, parties, draws: good[:-1],
    "a frame too many": lambda good, other, parties, draws: [*good, draws.randbytes(8)],
    "twenty frames": lambda good, other, parties, draws: [*good, *[b""] * 20],
    "two frames": lambda good, other, parties, draws: good[:2],
    "nothing": lambda good, other, parties, draws: [],
    "header and signature swapped": lambda good, other, parties, draws: [good[0], good[2], good[1], *good[3:]],
    "a header over the limit": lambda good, other, parties, draws: [
        good[0],
        good[1] + bytes(HEADER_BYTES_MAX),
        *good[2:],
    ],
    "a topic over the limit": lambda good, other, parties, draws: [good[0] + b"x" * 200, *good[1:]],
    "a topic that is no text": lambda good, other, parties, draws: [b"\xff\xfe", *good[1:]],
    "version 0": lambda good, other, parties, draws: reheaded(good, parties, v=0),
    "version 1": lambda good, other, parties, draws: reheaded(good, parties, v=1),
    "version 3": lambda good, other, parties, draws: reheaded(good, parties, v=3),
    "an unknown field": lambda good, other, parties, draws: reheaded(good, parties, admin=True),
    "an unknown kind": lambda good, other, parties, draws: reheaded(good, parties, t="root"),
    "another run": lambda good, other, parties, draws: reheaded(good, parties, run="other"),
    "a higher term": lambda good, other, parties, draws: reheaded(good, parties, term=draws.randrange(2, 99)),
    "a lower term": lambda good, other, parties, draws: reheaded(good, parties, term=0),
    "another round": lambda good, other, parties, draws: reheaded(good, parties, round=draws.randrange(1000, 9999)),
    "a later round": lambda good, other, parties, draws: reheaded(good, parties, round=2**53),
    "a negative round": lambda good, other, parties, draws: reheaded(good, parties, round=-1),
    "the same header, packed again": lambda good, other, parties, draws: repacked(good),
    "signed by an unknown key": lambda good, other, parties, draws: signed_by(good, parties, "mallory"),
    "signed by the broker": lambda good, other, parties, draws: signed_by(good, parties, "broker"),
    "signed by an observer": lambda good, other, parties, draws: signed_by(good, parties, "olga"),
    "signed without the purpose": lambda good, other, parties, draws: [
        *good[:2],
        parties.of["alice"].sign(good[1]),
        *good[3:],
    ],
    "signed for another purpose": lambda good, other, parties, draws: [
        *good[:2],
        parties.of["bob"].sign(PURPOSE.replace(b"1", b"2") + parties.federation.id + good[1]),
        *good[3:],
    ],
}


def repacked(good: Bad) -> Bad:
    """Return the header in another encoding: the same values, other bytes."""
    header = dict(reversed(msgspec.msgpack.decode(good[1]).items()))
    return [good[0], msgspec.msgpack.encode(header), *good[2:]]


def signed_by(good: Bad, parties: Parties, name: str, federation: FederationInfo | None = None) -> Bad:
    return [*good[:2], parties.sign(name, good[1], federation=federation), *good[3:]]
