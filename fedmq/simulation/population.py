"""Virtual trainers: the round handler of a trainer for each name, without its session, spool and network."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import msgspec

from fedmq.algorithms.base import CONTROL
from fedmq.differential_privacy.discrete_gaussian import Words, words_of
from fedmq.protocol import topics
from fedmq.protocol.codec import Frames, Packet, decode, digest_of, encode
from fedmq.protocol.fixed_point import FRACTION_BITS, quantize
from fedmq.protocol.messages import Goodbye, Result, Round
from fedmq.runtime.rng import derive_rng
from fedmq.tables.table import Table
from fedmq.tasks.row_views import count_rows
from fedmq.tasks.task import Rows
from fedmq.trainer.budget import cost_of
from fedmq.trainer.code_policy import NO_CODE, CodePolicy
from fedmq.trainer.control_sums import OWN_CONTROL, ControlSum
from fedmq.trainer.decline import decline_of
from fedmq.trainer.own_learner import OwnLearner
from fedmq.trainer.round_handler import on_rows
from fedmq.trainer.worker import Answer, Learn

Data = Rows | Table


class Population:
    """All virtual trainers of a simulation, by name, in the order of the roster.

    `answer` gives the message that a deployed trainer with these rows and this name sends, to the bit: both use the
    same round handler, learners and random streams, and the same fixed-point numbers. A trainer's rows are fitted to
    the task when it is first asked, and kept. `own` trains and scores in place of the built-in learners.
    """

    def __init__(self, data: Mapping[str, Data], policy: CodePolicy = NO_CODE, own: OwnLearner | None = None) -> None:
        self.num_examples = {name: count_rows(one) for name, one in data.items()}
        self._data, self._policy, self._own = data, policy, own
        self._learns: dict[str, Learn] = {}
        self._controls: dict[str, ControlSum] = {}  # the control variates of trainers, of one run

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs: it fits the rows itself."""
        return {**self.__dict__, "_learns": {}}

    def answer(self, name: str, packet: Packet, train_s: float) -> Frames:
        """Return the frames of the result of trainer `name`, or of the goodbye with which it declines the run.

        `train_s` are the seconds of virtual time that the work takes.
        """
        message = packet.message
        assert isinstance(message, Round)
        topic = topics.UP + message.run
        try:
            learned = self._learn(name)(self._with_control(name, packet), _never)
        except Exception as error:  # noqa: BLE001  as in a trainer's worker, the kind of error decides
            return encode(
                topic, Goodbye(run=message.run, term=message.term, trainer=name, **decline_of(error)._asdict())
            )
        assert isinstance(learned, Answer)
        if CONTROL in learned:
            control = self._controls.get(name, ControlSum(message.run))
            self._controls[name] = control.plus(message.round, digest_of(message.arrays), learned[CONTROL])
        bits = cost_of(message, FRACTION_BITS).fraction_bits
        result = Result(
            run=message.run,
            term=message.term,
            trainer=name,
            round=message.round,
            num_examples=learned.num_examples,
            attempt=1,
            train_s=train_s,
            model_digest=digest_of(message.arrays),
            fraction_bits=bits,
            site_figures=True,
            metrics=learned.metrics or msgspec.UNSET,
        )
        return encode(topic, result, quantize(learned, bits))

    def _with_control(self, name: str, packet: Packet) -> Packet:
        """Return the packet of a round with the trainer's control variate, if the round has one."""
        if CONTROL not in packet.arrays or (total := self._controls.get(name, ControlSum("")).total) is None:
            return packet
        return packet._replace(arrays={**packet.arrays, OWN_CONTROL: total})

    def _learn(self, name: str) -> Learn:
        learn = self._learns.get(name)
        if learn is None:
            learn = on_rows(
                self._data[name], name, self._policy, own=self._own, noise=partial(_noise, name), warn=_unread
            )
            self._learns[name] = learn
        return learn


def _never() -> bool:
    return False


def _noise(trainer: str, message: Round) -> Words:
    """Return the words of a virtual trainer's noise: from the run's seed, so that a simulation can be repeated."""
    return words_of(derive_rng(message.seed, "noise", trainer, message.round))


def _unread(*_: object) -> None:
    """Drop a warning for the operator of a site: a simulation has none."""


class LocalWorkers:
    """Answers in this process, each when it is due."""

    def __init__(self, population: Population) -> None:
        self._population = population
        self._rounds: dict[int, tuple[Packet, Mapping[str, float]]] = {}

    def begin(self, number: int, frames: Frames, train_s: Mapping[str, float]) -> None:
        """Begin the work of these trainers on the round with this number; `train_s` is what each of them needs."""
        _, before = self._rounds.get(number, (None, {}))
        self._rounds[number] = decode(frames), {**before, **train_s}

    def take(self, number: int, name: str) -> Frames:
        """Return the answer of a trainer to a round that has begun."""
        packet, train_s = self._rounds[number]
        return self._population.answer(name, packet, train_s[name])

    def end(self, number: int) -> None:
        """Drop the round with this number: no more answers to it are taken."""
        self._rounds.pop(number, None)

    def close(self) -> None:
        """End all work."""
