"""The part of virtual trainers in secure sums: what their sessions do in a deployed run, without a network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from fedmq.algorithms.base import Shapes
from fedmq.protocol import topics
from fedmq.protocol.codec import PARTS, Array, Packet, encode
from fedmq.protocol.messages import Result, Round, SumReply, SumRequest
from fedmq.secure_sums.ledger import Ledger
from fedmq.secure_sums.messages import (
    Cohort,
    FromAggregator,
    FromTrainer,
    Opening,
    QuestionSpent,
    SignedSurvivors,
    Survivors,
    parts_from_bytes,
)
from fedmq.simulation.identities import VirtualIdentities
from fedmq.trainer.budget import shapes_of
from fedmq.trainer.machine import PendingResult
from fedmq.trainer.secure_answers import AskedSum, SecureAnswers, masked_arrays, masked_message, parts_of


@dataclass
class _Site:
    """One trainer: its sums, what it is asked, and its result, which waits for its sum to be opened."""

    secure: SecureAnswers
    asked: AskedSum | None = None
    result: Packet | None = None


class SecurePopulation:
    """The sums of all virtual trainers in one run. Each method returns what a trainer sends at this moment."""

    def __init__(self, identities: VirtualIdentities, run: str, names: Iterable[str]) -> None:
        self._identities, self._run = identities, run
        self._ledgers = {name: Ledger() for name in names}
        self._sites = {name: self._started(name) for name in self._ledgers}

    def restart(self, name: str) -> None:
        """Let a trainer lose its secrets, as by a kill; its ledger stays."""
        self._sites[name] = self._started(name)

    def round(self, name: str, message: Round, *, invited: bool) -> list[Packet]:
        """Take a round in full: send the answer if it is there, or keys for the next sum if none can be sent."""
        assert message.sum is not None
        site = self._sites[name]
        site.asked = None
        if invited:
            asked = site.secure.asked(message, _shapes_of(message))
            if site.secure.has_dealt(self._run, asked.sum):
                site.asked = asked
                return self._answer(name, message.term)
        keys = site.secure.keys(self._run, message.term, message.sum + 1)
        return [] if keys is None else [self._reply(name, message.term, keys)]

    def done(self, name: str, result: Packet) -> list[Packet]:
        """Take the result of a trainer's work on a round."""
        message = result.message
        assert isinstance(message, Result)
        self._sites[name].result = result
        return self._answer(name, message.term)

    def parts_of(self, packet: Packet) -> list[FromAggregator | FromTrainer]:
        """Return the messages of a request, which may be one for all trainers."""
        return parts_from_bytes(packet.arrays[PARTS].tobytes()) if PARTS in packet.arrays else []

    def request(self, name: str, message: SumRequest, parts: Sequence[FromAggregator | FromTrainer]) -> list[Packet]:
        """Take a request of the aggregator with these messages, see `parts_of`."""
        return list(self._replies(name, message, parts))

    def _replies(
        self, name: str, message: SumRequest, parts: Sequence[FromAggregator | FromTrainer]
    ) -> Iterator[Packet]:
        secure = self._sites[name].secure
        if message.advertise and (keys := secure.keys(self._run, message.term, message.advertise)) is not None:
            yield self._reply(name, message.term, keys)
        for part in parts:
            match part:
                case Opening():
                    secure.open(self._run, part)
                    yield from self._answer(name, message.term)
                case Survivors() | SignedSurvivors():
                    if (output := secure.reply(self._run, part)) is not None:
                        yield self._reply(name, message.term, output.send)
                case Cohort():
                    if (shares := secure.deal(self._run, part)) is not None:
                        yield self._reply(name, message.term, shares)
                case _:
                    raise AssertionError(f"{type(part).__name__} is no request")

    def _answer(self, name: str, term: int) -> list[Packet]:
        site = self._sites[name]
        asked, result = site.asked, site.result
        if asked is None or result is None:
            return []
        message = result.message
        assert isinstance(message, Result)
        if message.round != asked.round:
            return []
        output = site.secure.answer(self._run, asked, _pending(message, result))
        if output is None:
            return []
        if isinstance(output.send, QuestionSpent):
            return [self._reply(name, term, output.send)]
        keys = site.secure.keys(self._run, term, asked.number + 1)
        return [_packet(result.topic, masked_message(message, asked), masked_arrays(output.send, keys))]

    def _reply(self, name: str, term: int, part: FromTrainer) -> Packet:
        return _packet(topics.UP + self._run, SumReply(run=self._run, term=term, trainer=name), parts_of(part))

    def _started(self, name: str) -> _Site:
        return _Site(self._identities.secure_answers(name, self._run, self._ledgers[name]))


def _shapes_of(message: Round) -> Shapes:
    assert message.delta is None
    return shapes_of(message)


def _pending(message: Result, result: Packet) -> PendingResult:
    return PendingResult(
        message.run,
        message.term,
        message.round,
        dict(result.arrays),
        message.train_s,
        message.num_examples,
        message.model_digest,
        message.fraction_bits,
    )


def _packet(topic: str, message: Result | SumReply, arrays: Mapping[str, Array]) -> Packet:
    """Return a message as it arrives, with its bytes: the aggregator counts them."""
    return Packet(topic, message, arrays, encode(topic, message, arrays))
