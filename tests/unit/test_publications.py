"""Rounds with a delta: who computes what from it, who asks for the round in full, and that the bits are the same."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, TypeVar

import msgspec
import numpy as np
import pytest

from fedmq.aggregator.roster import Roster
from fedmq.aggregator.rounds import Rounds
from fedmq.algorithms.base import Plan, WorkLimits, encode_query
from fedmq.algorithms.es.query import Slopes
from fedmq.algorithms.evaluation.query import Evaluate
from fedmq.algorithms.registry import find_algorithm
from fedmq.algorithms.trial import answer
from fedmq.errors import LimitExceeded, WorkCancelled
from fedmq.models.networks import MLP
from fedmq.observe import events
from fedmq.protocol.codec import Frames, Packet, decode, digest_of, encode, model_digest_of, pack
from fedmq.protocol.messages import Beacon, Delta, Finished, Goodbye, Hello, Message, Result, Round, Welcome
from fedmq.protocol.run_config import Limits
from fedmq.runtime.rng import derive_rng
from fedmq.simulation.federation import AGGREGATOR, Federation
from fedmq.simulation.network import Faults
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Rows, Task
from fedmq.testing import run_config
from fedmq.trainer import publications as module
from fedmq.trainer.machine import Output, WorkDone, WorkFailed
from fedmq.trainer.publications import BaseMissing, Publications, chain_after
from fedmq.trainer.session import HELLO_AGAIN_S, Session
from fedmq.transport.link import BrokerConnected, MessageReceived

TASK = Task(name="classes", model=MLP((4, 6, 2)), loss="cross-entropy", metric="accuracy", target=1.0)
INPUTS = np.random.default_rng(1).normal(size=(60, 4)) * 7.0
ROWS = {f"trainer-{place}": Rows(INPUTS[place::3], (INPUTS[place::3, 0] > 1.0).astype(float)) for place in range(3)}
Kind = TypeVar("Kind")


@cache
def plans() -> tuple[Plan, ...]:
    """The plans of six rounds of `es`, after the survey."""
    strategy = find_algorithm("es", TASK)
    found: list[Plan] = []

    class Noting(type(strategy)):  # type: ignore[misc]
        def ask(self, state: Any) -> Plan:
            plan: Plan = super().ask(state)
            if isinstance(plan.query, Slopes) and state.inner_round == len(found) + 1:
                found.append(plan)
            return plan

    strategy.__class__ = Noting
    task = msgspec.structs.replace(TASK, rounds=9)
    assert Federation(task, strategy, ROWS, seed=3).train() is not None
    return tuple(found)


def packet(number: int, *, full: bool = False, wrong: bool = False, invited: bytes | None = None) -> Packet:
    """Round `number`, from 1, in full or with its delta; a wrong one leads to other arrays."""
    plan = plans()[number - 1]
    message = Round(
        run="run",
        term=1,
        round=number,
        seed=3,
        deadline_s=10.0,
        task=TASK,
        query=encode_query(plan.query),
        invited=invited,
    )
    if full:
        return decode(encode("round/run", message, plan.arrays))
    assert plan.delta is not None
    delta = Delta(digest_of(pack(plans()[number - 2].arrays).infos), digest_of(pack(plan.arrays).infos))
    arrays = {**plan.delta, "slopes": plan.delta["slopes"] + wrong}
    return decode(encode("round/run", msgspec.structs.replace(message, delta=delta), arrays))


def check_whole(found: Packet, number: int) -> None:
    """Check that these are the arrays of the round, as if it had come in full."""
    expected = packet(number, full=True)
    assert found.message.arrays == expected.message.arrays
    assert list(found.arrays) == list(expected.arrays)
    assert all(found.arrays[name].tobytes() == one.tobytes() for name, one in expected.arrays.items())


def test_rounds_after_the_first_are_computed_from_their_deltas() -> None:
    publications = Publications()
    first = packet(1, full=True)
    assert publications.whole(first) is first
    for number in range(2, 6):
        check_whole(publications.whole(packet(number)), number)
    behind = packet(6)._replace(before=tuple(packet(number) for number in range(2, 6)))
    check_whole(publications.whole(behind), 6)  # from the newest that is held
    check_whole(Publications().whole(packet(3)._replace(before=(packet(1, full=True), packet(2)))), 3)


def test_delta_that_does_not_lead_to_its_round_is_never_worked_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BaseMissing, match="in full first"):
        Publications().whole(packet(3)._replace(before=(packet(2),)))
    publications = Publications()
    publications.whole(packet(1, full=True))
    with pytest.raises(BaseMissing, match="digest"):
        publications.whole(packet(2, wrong=True))
    good = packet(2)
    far = {"rounds": np.array([7]), "slopes": good.arrays["slopes"]}
    for bad in (far, {**good.arrays, "slopes": good.arrays["slopes"][:, :-1]}, {"slopes": good.arrays["slopes"]}):
        with pytest.raises(BaseMissing, match="does not"):
            publications.whole(good._replace(arrays=bad))
    other = Publications()
    other.whole(packet(1, full=True))
    (held,) = other._held.values()
    del held.arrays["moments"]  # type: ignore[attr-defined]  # what a trainer holds was never worked on
    with pytest.raises(BaseMissing, match="does not"):
        other.whole(good)
    kind = msgspec.structs.replace(good.message, query=encode_query(Evaluate()))
    with pytest.raises(BaseMissing):
        publications.whole(good._replace(message=kind))
    with pytest.raises(WorkCancelled):
        publications.whole(good, lambda: True)
    check_whole(publications.whole(good), 2)
    limited = Publications(WorkLimits(memory_bytes=1))
    limited.whole(packet(1, full=True))
    with pytest.raises(LimitExceeded):
        limited.whole(good)
    monkeypatch.setattr(module, "HELD_BYTES_MAX", 1)
    publications.whole(packet(3))
    assert list(publications._held) == [model_digest_of(packet(3).message)]  # type: ignore[arg-type]


def test_chain_holds_what_the_worker_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    assert chain_after(None, packet(2)) is None
    chain = chain_after(None, packet(1, full=True))
    for number in (2, 3, 3, 2, 5, 4):  # again, older, and one too early
        chain = chain_after(chain, packet(number))
    assert chain is not None
    numbers = [one.message.round for one in chain.packets]  # type: ignore[union-attr]
    assert numbers == [1, 2, 3, 4]
    assert chain.digest == model_digest_of(packet(4).message)  # type: ignore[arg-type]
    rest = chain.known_to_worker(model_digest_of(packet(3).message))  # type: ignore[arg-type]
    assert [one.message.round for one in rest.packets] == [4]  # type: ignore[union-attr]
    assert rest.known_to_worker(b"another").packets == rest.packets
    received = sum(len(frame) for one in (*chain.packets, packet(5)) for frame in one.frames)  # some as int16
    for limit, at_most in (("DELTAS_MAX", 4), ("HELD_BYTES_MAX", received)):
        with monkeypatch.context() as patch:
            patch.setattr(module, limit, at_most)
            assert chain_after(chain, packet(5)) is None
    other = msgspec.structs.replace(packet(1, full=True).message, query=encode_query(Evaluate()))
    assert chain_after(rest, packet(1, full=True)._replace(message=other)) is rest  # of a kind without deltas


class Scene:
    """A trainer's session, welcome at index 0, and its clock."""

    def __init__(self) -> None:
        self.session, self.now = Session("bob", 2, "test", derive_rng(1, "jitter")), 0.0
        self.take(BrokerConnected())
        self.take(MessageReceived(decode(encode("beacon/run", Beacon(run="run", term=1, round=0, open=False)))))
        self.take(MessageReceived(decode(encode("to/bob/", Welcome(run="run", term=1, trainer="bob", index=0)))))

    def take(self, event: Any) -> Output:
        self.now += HELLO_AGAIN_S
        return self.session.step(event, self.now)

    def round(self, number: int, **chosen: Any) -> Output:
        return self.take(MessageReceived(packet(number, **chosen)))


def sent(output: Output, kind: type[Kind]) -> list[Kind]:
    return [one.message for one in output.sends if isinstance(one.message, kind)]


def test_trainer_without_the_arrays_asks_for_the_round_in_full() -> None:
    scene = Scene()
    output = scene.round(2)
    assert (output.start, [hello.round for hello in sent(output, Hello)]) == (None, [0])
    start = scene.round(2, full=True).start
    assert start is not None
    assert start.before == ()
    done = scene.take(WorkDone("run", 2, {"slopes": np.zeros((1, 1), np.int64)}, 0.1, 2))
    (result,) = sent(done, Result)
    assert result.model_digest == model_digest_of(packet(2).message)  # type: ignore[arg-type]
    start = scene.round(3).start
    assert start is not None
    assert start.before == ()  # the worker has those of round 2
    work, third = scene.session._work, plans()[2]
    assert work is not None
    assert work.cost.evaluations == third.query.evaluations(third.shapes)


def test_work_that_was_cancelled_or_not_asked_for_breaks_no_chain() -> None:
    scene = Scene()
    scene.round(1, full=True)
    assert scene.round(2, invited=b"\x02").start is None  # asks another trainer
    output = scene.round(3)
    assert output.cancel
    assert output.start is not None
    check_whole(Publications().whole(output.start), 3)
    start = scene.round(4).start
    assert start is not None
    check_whole(Publications().whole(start), 4)


def test_trainer_invited_in_place_of_another_asks_for_the_round_in_full() -> None:
    scene = Scene()
    assert sent(scene.round(2, invited=b"\x02"), Hello) == []
    output = scene.round(2, invited=b"\x03")
    assert (output.start, [hello.round for hello in sent(output, Hello)]) == (None, [1])
    assert scene.round(2, full=True, invited=b"\x03").start is not None


def test_worker_that_lacks_the_arrays_asks_in_full_and_stays() -> None:
    scene = Scene()
    scene.round(1, full=True)
    scene.take(WorkDone("run", 1, {"slopes": np.zeros((1, 1), np.int64)}, 0.1, 2))
    assert scene.round(2).start is not None
    output = scene.take(WorkFailed("run", 2, BaseMissing("expected other arrays")))
    assert [hello.round for hello in sent(output, Hello)] == [1]
    assert sent(output, Goodbye) == []
    assert scene.round(2).start is None  # the same again is of no use
    assert scene.round(2, full=True).start is not None


def test_trainer_holds_no_arrays_of_a_run_that_is_declined_or_finished() -> None:
    scene = Scene()
    scene.round(1, full=True)
    scene.take(MessageReceived(decode(encode("round/run", Finished(run="run", term=1, rounds=1, solved=False)))))
    assert scene.session.runs["run"].chain is None
    scene.round(2, full=True)
    output = scene.take(WorkFailed("run", 2, LimitExceeded("expected less work")))
    assert len(sent(output, Goodbye)) == 1
    scene.round(3, full=True)
    assert scene.session.runs["run"].chain is None


class Aggregator:
    """The rounds of `es` with two trainers whose answers are taken from `fedmq.testing`'s wire."""

    def __init__(self) -> None:
        config = run_config("run", TASK, "es", seed=3, rounds_max=9, min_trainers=2)
        strategy, self.now = find_algorithm("es", TASK), 0.0
        self.rounds = Rounds(config, 2, strategy, strategy.init(TASK, 3), Roster(30.0))
        self.take(BrokerConnected())

    def take(self, event: Any) -> list[tuple[str, Round]]:
        self.now += 0.5
        self.rounds.step(event, self.now, 1e9 + self.now)
        packets = [decode(frames) for frames in self.rounds.take_output().sends]
        return [(one.topic, one.message) for one in packets if isinstance(one.message, Round)]

    def hear(self, message: Message, arrays: Any = None) -> list[tuple[str, Round]]:
        return self.take(MessageReceived(decode(encode("up/run/", message, arrays))))

    def hello(self, name: str, round: int = 0) -> list[tuple[str, Round]]:
        return self.hear(Hello(run="run", term=2, trainer=name, num_examples=20, round=round, version="test"))

    def answers(self, *names: str) -> list[tuple[str, Round]]:
        """Answer the open round; return what is published then."""
        number, plan = self.rounds.round, self.rounds._strategy.ask(self.rounds.state)
        digest, published = digest_of(pack(plan.arrays).infos), []
        for name in names:
            update = answer(plan, TASK, RowViews(TASK, ROWS[name]), number, 3, name)
            result = Result(
                run="run",
                term=2,
                trainer=name,
                round=number,
                num_examples=update.num_examples,
                attempt=1,
                train_s=0.1,
                model_digest=digest,
                fraction_bits=update.fraction_bits,
            )
            published += self.hear(result, update.arrays)
        return published


def test_aggregator_publishes_a_delta_when_all_have_had_the_arrays() -> None:
    scene, names = Aggregator(), ("trainer-0", "trainer-1")
    for name in names:
        scene.hello(name)
    scene.answers(*names)
    ((_, full),) = scene.answers(*names)
    assert full.delta is None
    ((topic, after),) = scene.answers(*names)
    assert (topic, after.delta) == (
        "round/run",
        Delta(digest_of(full.arrays), digest_of(pack(scene.rounds._published.plan.arrays).infos)),  # type: ignore[union-attr]
    )
    assert {info.name for info in after.arrays} == {"rounds", "slopes"}
    ((topic, asked),) = scene.hello("trainer-2")  # joins in the middle
    assert (topic, asked.delta) == ("to/trainer-2/", None)
    assert digest_of(asked.arrays) == model_digest_of(after)
    ((topic, again),) = scene.take(BrokerConnected())
    assert again == after  # a broker that was restarted keeps the small one again
    scene.rounds.paused = True
    names = (*names, "trainer-2")
    assert scene.answers(*names) == []
    scene.hello("trainer-2")  # while no round is open: it may be another process
    scene.rounds.paused = False
    ((_, after),) = scene.hello("trainer-0")
    assert after.delta is None
    ((_, after),) = scene.answers(*names)
    assert after.delta is not None


def model_and_traffic(*, deltas: bool, disturbed: bool = False) -> tuple[bytes, int, list[Round]]:
    """The model of a run of `es`, the bytes down, and the rounds that reached its trainers."""
    strategy, arrived = find_algorithm("es", TASK), list[Round]()
    if not deltas:
        strategy.ask = lambda state, ask=strategy.ask: replace(ask(state), delta=None)  # type: ignore[method-assign]
    task = msgspec.structs.replace(TASK, rounds=16)
    limits = Limits(rounds_max=16, min_trainers=3, quorum=1.0)
    scene = Federation(task, strategy, ROWS, seed=4, limits=limits)
    simulation = scene.simulation

    def trace(_time: float, what: str, name: str, frames: Frames | None) -> None:
        if what == "down" and name in ROWS and frames is not None:
            message = decode(frames).message
            arrived.extend([message] if isinstance(message, Round) else [])

    simulation.trace = trace
    if disturbed:
        simulation.faults = Faults(loss=0.1, duplicate=0.1, reorder=True)
        for at, name in ((0.15, "trainer-0"), (0.5, AGGREGATOR), (0.9, simulation.broker_name), (1.4, "trainer-1")):
            simulation.at(at, lambda name=name: simulation.crash(name))  # type: ignore[misc]
            simulation.at(at + 0.1, lambda name=name: simulation.start(name))  # type: ignore[misc]
    model = scene.train()
    assert model is not None
    assert scene.aggregator is not None
    lives = [one for one in scene.events if isinstance(one, events.RunStarted)]
    assert len(lives) == 1 + disturbed
    assert not [one for one in scene.events if isinstance(one, events.TrainerLeft) and one.reason == "work"]
    return model.to_bytes(), scene.aggregator.rounds.bytes_sent, arrived


def test_model_is_the_same_with_deltas_and_after_crashes() -> None:
    plain, plain_bytes, rounds = model_and_traffic(deltas=False)
    assert {message.delta for message in rounds} == {None}
    model, small_bytes, rounds = model_and_traffic(deltas=True)
    assert model == plain
    assert [message.round for message in rounds if message.delta is None] == [1] * 3 + [2] * 3 + [3] * 3
    assert small_bytes < plain_bytes
    model, _, rounds = model_and_traffic(deltas=True, disturbed=True)
    assert model == plain
    assert {message.delta is None for message in rounds if message.round > 4} == {True, False}
