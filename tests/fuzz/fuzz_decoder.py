"""The decoder as a target: frames of every message, mutated in their bytes and in the values of their headers.

What is accepted must be whole: encoded again it is the same message.
"""

from __future__ import annotations

import hashlib
from random import Random
from typing import Any

import msgspec
import numpy as np
from mutation import changed, changed_value

from fedmq.algorithms.averaging.query import EvolutionLearner, GradientLearner, Train
from fedmq.algorithms.base import encode_query
from fedmq.algorithms.evolution.query import Evolve
from fedmq.errors import ProtocolError, Rejected
from fedmq.protocol import messages
from fedmq.protocol.codec import Array, decode, encode
from fedmq.tasks.task_file import find_task

NAME = "decoder"
RUN: dict[str, Any] = {"run": "run-1", "term": 3}


def _seeds() -> list[list[bytes]]:
    """Return one of each message, with rounds and results of each query."""
    pool: dict[str, Array] = {"ids": np.arange(4), "pool": np.linspace(-1, 1, 4 * 22).reshape(4, 22)}
    scores: dict[str, Array] = {
        "losses": np.arange(4) << 16,
        "correct": np.arange(4),
        "elites": np.zeros((2, 22)),
    }
    model: dict[str, Array] = {"model": np.array([1.5, 0.5, -0.25])}
    trained: dict[str, Array] = {**model, "losses": np.array([1 << 14]), "correct": np.array([3])}
    rounds: dict[str, Any] = {**RUN, "round": 4, "seed": 7, "deadline_s": 10.0}
    result: dict[str, Any] = {**RUN, "trainer": "bob", "round": 4, "num_examples": 2, "attempt": 1, "train_s": 0.1}
    result |= {"model_digest": bytes(range(32)), "fraction_bits": 16}
    told: list[tuple[messages.Message, dict[str, Array]]] = [
        (messages.Round(**rounds, task=find_task("xor"), query=encode_query(Evolve(elites=2))), pool),
        (
            messages.Round(
                **rounds, task=find_task("linear"), query=encode_query(Train(GradientLearner())), acknowledged=b"\x03"
            ),
            model,
        ),
        (messages.Round(**rounds, task=find_task("parity4"), query=encode_query(Train(EvolutionLearner()))), model),
        (messages.Beacon(**RUN, round=4, open=True, acknowledged=b"\xff\x01"), {}),
        (messages.Finished(**RUN, rounds=9, solved=True), {}),
        (messages.Welcome(**RUN, trainer="bob", index=1), {}),
        (messages.Accepted(**RUN, trainer="bob", round=4), {}),
        (messages.Refused(**RUN, trainer="bob", round=4, reason="values", detail="too many"), {}),
        (messages.Hello(**RUN, trainer="bob", num_examples=2, round=4, version="1"), {}),
        (messages.Result(**result), scores),
        (messages.Result(**result), trained),
        (messages.Result(**result), {"small": np.array(1.0, dtype=np.float32)}),
        (messages.Goodbye(**RUN, trainer="bob"), {}),
        (messages.Presence(trainer="bob", present=True), {}),
    ]
    return [encode("up/run-1/bob", message, arrays) for message, arrays in told]


class Decoder:
    """Draws inputs and decodes them; an input is a msgpack list of frames."""

    def __init__(self) -> None:
        self._seeds = _seeds()
        self._blobs = [frame for frames in self._seeds for frame in frames]

    def draw(self, draws: Random) -> bytes:
        """Return an input: valid frames with an error, or with something unusual that is described correctly."""
        frames = list(draws.choice(self._seeds))
        for _ in range(draws.choice((1, 1, 2))):
            kind = draws.randrange(10)
            at = draws.randrange(len(frames)) if frames else 0
            if kind <= 3 and len(frames) > 1:
                frames[1] = self._other_values(frames[1], draws)
            elif kind <= 6 and frames:
                frames[at] = changed(frames[at], draws, self._blobs)
            elif kind == 7 and len(frames) > 3:
                frames = self._described(frames, draws)
            elif kind == 8 and frames:
                del frames[at]
            else:
                frames[at:at] = [draws.choice(self._blobs)] * draws.choice((1, 1, 9))
        return msgspec.msgpack.encode(frames)

    def take(self, blob: bytes) -> str:
        """Return the outcome of an input: `accepted`, or the reason of its rejection."""
        frames = msgspec.msgpack.decode(blob, type=list[bytes])
        try:
            packet = decode(frames)
        except Rejected as rejected:
            return rejected.reason
        try:
            encoded = encode(packet.topic, packet.message, packet.arrays)
            again = decode(encoded)
        except ProtocolError:  # a header that left out its defaults may be too long with them
            return "accepted, too long again"
        # Bytes, not values, because NaN is not equal to itself.
        assert encode(again.topic, again.message, again.arrays) == encoded, "an accepted message is complete"
        return "accepted"

    def close(self) -> None:
        """Do nothing: there is no state."""

    @staticmethod
    def _other_values(header: bytes, draws: Random) -> bytes:
        try:
            return msgspec.msgpack.encode(changed_value(msgspec.msgpack.decode(header), draws))
        except (msgspec.MsgspecError, OverflowError, UnicodeError, ValueError):
            return header

    def _described(self, frames: list[bytes], draws: Random) -> list[bytes]:
        """Return the frames with one array changed and described again."""
        try:
            header = msgspec.msgpack.decode(frames[1])
            at = draws.randrange(len(header["arrays"]))
            blob = changed(frames[3 + at], draws, self._blobs)
            header["arrays"][at] |= {"nbytes": len(blob), "sha256": hashlib.sha256(blob).digest()}
            if draws.random() < 0.7:
                header["arrays"][at]["shape"] = [len(blob) // 8]
        except (msgspec.MsgspecError, LookupError, TypeError, ValueError):
            return frames
        return [frames[0], msgspec.msgpack.encode(header), *frames[2 : 3 + at], blob, *frames[4 + at :]]
