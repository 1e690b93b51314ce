"""What must hold in a judged run with secure sums, from what was on the wire and what is stored."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from fedmq.algorithms.base import Plan, Update
from fedmq.algorithms.registry import find_algorithm
from fedmq.algorithms.trial import answer
from fedmq.protocol.codec import MASKED, PARTS, Frames, decode
from fedmq.protocol.messages import Result, Round, SumReply
from fedmq.protocol.run_config import Limits
from fedmq.runs.records import StoredTotal
from fedmq.runs.replay import replay
from fedmq.runs.store import Store
from fedmq.secure_sums.masks import SumName
from fedmq.secure_sums.messages import (
    Cohort,
    Keys,
    ListSignature,
    MaskedInput,
    Opening,
    RevealedShares,
    SignedSurvivors,
    SumMessage,
    Survivors,
    parts_from_bytes,
)
from fedmq.secure_sums.question import answer_of, flat, question_of
from fedmq.security.keys import PublicIdentity
from fedmq.simulation import Federation
from fedmq.simulation.identities import FEDERATION
from fedmq.simulation.scenario import scenario
from fedmq.tables.table import Table
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Rows, Task
from fedmq.trainer.round_handler import on_rows

RowsOf = Callable[[str], Rows | Table]
STEPS = (Cohort, Opening, Survivors, SignedSurvivors)  # requests that a trainer may not live to answer
ADDITIVE: dict[str, dict[str, Any]] = {  # each additive algorithm, with the parameters that make it one
    "statistics": {},
    "ridge": {},
    "newton": {},
    "boosting": {},
    "es": {},
    "averaging": {},
    "evolution": {"additive": True, "population": 20},
}
DROP_OUT_AT = 2  # the sum whose step some trainers do not live to see
AGAIN_S = 2.0  # later they start again


@dataclass
class SumWire:
    """The messages of secure sums that were on the wire, by sum and trainer: each kind once, whatever was repeated."""

    cohorts: dict[bytes, Cohort] = field(default_factory=dict)
    sent: dict[tuple[bytes, str, type], set[SumMessage]] = field(default_factory=dict)
    order: list[tuple[bytes, str, type]] = field(default_factory=list)  # as each was sent first
    asked: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)  # round and question, by sum

    def number(self, sum_id: bytes) -> int:
        """Return the number of a sum, in the order of their cohorts; 0 if it has none yet."""
        return 1 + list(self.cohorts).index(sum_id) if sum_id in self.cohorts else 0

    def note(self, frames: Frames) -> None:
        """Note a message that a trainer has sent, or an aggregator."""
        packet = decode(frames)
        message = packet.message
        if isinstance(message, Round) and message.sum is not None:
            name = SumName(FEDERATION, message.run, message.term, message.sum)
            self.asked[name.id] = message.round, question_of(message)
        parts: list[Any] = parts_from_bytes(packet.arrays[PARTS].tobytes()) if PARTS in packet.arrays else []
        if isinstance(message, Result) and message.sum is not None:
            assert packet.arrays.keys() <= {MASKED, PARTS}
            assert not message.site_figures
            parts.append(MaskedInput(message.sum, packet.arrays[MASKED].tobytes()))
        for part in parts:
            if isinstance(part, Cohort):
                self.cohorts[part.sum] = part
            elif isinstance(message, Result | SumReply):
                key = part.sum, message.trainer, type(part)
                if key not in self.sent:
                    self.order.append(key)
                self.sent.setdefault(key, set()).add(part)


def check_sums(scene: Federation, wire: SumWire, plans: Mapping[int, Plan], rows_of: RowsOf) -> None:
    """Check what no trainer and no aggregator may do, and that each total is that of the plain answers."""
    for (_, name, kind), messages in wire.sent.items():
        assert kind is Keys or len(messages) == 1, f"{name} has sent two {kind.__name__} in one sum"
    keys = [key for (_, _, kind), found in wire.sent.items() if kind is Keys for one in found for key in _keys(one)]
    assert len(keys) == len(set(keys)), "no key has two sums"
    _check_masks(scene, wire, plans, rows_of)
    _check_shares(wire)
    totals = [one for number in plans for one in scene.store.results(number)]
    assert all(isinstance(one, StoredTotal) for one in totals), "no single answer is stored"
    assert len(totals) == len({one.round for one in totals}), "each round has one total"
    for total in totals:
        assert isinstance(total, StoredTotal)
        _check_total(scene, total, plans[total.round], rows_of)


def _check_masks(scene: Federation, wire: SumWire, plans: Mapping[int, Plan], rows_of: RowsOf) -> None:
    """Check that no two answers have one mask: what is left of a masked answer without the plain one."""
    masks = []
    for (sum_id, name, kind), messages in wire.sent.items():
        if kind is MaskedInput:
            (message,) = messages
            assert isinstance(message, MaskedInput)
            number, _ = wire.asked[sum_id]
            if number not in plans:
                continue  # of an aggregator beside this one
            plain = _answer(scene, plans[number], number, name, rows_of)
            bounds = answer_of(plans[number].query, scene.task, plans[number].shapes)
            masks.append((np.frombuffer(message.values, "<i8") - flat(bounds, plain.arrays)).tobytes())
    assert len(masks) == len(set(masks)), "no mask is used twice"


def _check_shares(wire: SumWire) -> None:
    """Check that shares were revealed after t signatures only, and by a trainer in one sum of a question only."""
    signed: dict[bytes, int] = {}
    opened: set[tuple[str, bytes]] = set()
    for sum_id, name, kind in wire.order:
        if kind is ListSignature:
            signed[sum_id] = signed.get(sum_id, 0) + 1
        if kind is RevealedShares:
            assert signed.get(sum_id, 0) >= wire.cohorts[sum_id].threshold, f"{name} has revealed shares too early"
            _, question = wire.asked[sum_id]
            assert (name, question) not in opened, f"{name} has helped to open two sums of one question"
            opened.add((name, question))


def _check_total(scene: Federation, total: StoredTotal, plan: Plan, rows_of: RowsOf) -> None:
    update = total.update
    assert update.total_of is not None
    if not update.total_of:
        return  # the question is spent
    assert total.header.question
    expected: dict[str, Any] = {}
    for name in update.total_of:
        one = _answer(scene, plan, total.round, name, rows_of)
        assert update.total_of[name] == one.num_examples
        for key, array in one.arrays.items():
            expected[key] = expected.get(key, np.zeros_like(array)) + array
    assert all(update.arrays[key].tobytes() == array.tobytes() for key, array in expected.items()), (
        f"the total of round {total.round} is that of the plain answers"
    )


def _answer(scene: Federation, plan: Plan, number: int, name: str, rows_of: RowsOf) -> Update:
    return answer(plan, scene.task, RowViews(scene.task, rows_of(name)), number, scene.seed, name)


def _keys(message: SumMessage) -> tuple[bytes, bytes]:
    assert isinstance(message, Keys)
    return message.share_key, message.mask_key


def with_drop_outs(
    algorithm: str, task: Task, rows: Mapping[str, Rows | Table], gone: Collection[str], step: type, rounds: int = 4
) -> StoredTotal:
    """Run a federation in which these trainers are killed when this step of the second sum is asked of them.

    They are started again, so that the run has all its rounds. Returns the total of that sum, after all checks.
    """
    store = Store(":memory:")
    limits = Limits(rounds_max=rounds, min_trainers=len(rows), deadline_s=0.6, staleness=0)
    strategy = find_algorithm(algorithm, task, ADDITIVE[algorithm])
    scene = Federation(task, strategy, rows, seed=3, limits=limits, store=store, learn=on_rows, secure=True)
    simulation, wire, killed = scene.simulation, SumWire(), set[str]()

    def trace(_time: float, what: str, name: str, frames: Frames | None) -> None:
        if what == "up" and frames is not None:
            wire.note(frames)
        if what != "down" or frames is None or name not in gone - killed:
            return
        packet = decode(frames)
        parts = parts_from_bytes(packet.arrays[PARTS].tobytes()) if PARTS in packet.arrays else []
        if any(isinstance(part, step) and wire.number(part.sum) == DROP_OUT_AT for part in parts):
            killed.add(name)
            simulation.crash(name)
            simulation.at(simulation.clock.now() + AGAIN_S, lambda: simulation.start(name))

    gone = frozenset(gone)
    simulation.trace = trace
    scene.train(600.0)
    assert scene.finished
    assert killed == gone
    plans: dict[int, Plan] = {}
    replay(
        store, task, scene.strategy, scene.seed, watch=lambda at: plans.update({at.round: scene.strategy.ask(at.state)})
    )
    check_sums(scene, wire, plans, rows.__getitem__)
    assert [close.results for close in store.closes() if close.why != "spent"]
    (total,) = [one for one in store.totals() if one.round == DROP_OUT_AT]
    return total


def check_drop_outs(algorithm: str, count: int, gone: int, step: type) -> None:
    """Check a run over `count` trainers, of which the first `gone` are missing from a step of a sum on."""
    found = scenario("iris", None, algorithm=algorithm, trainers=count, split="iid", seed=1)
    names = sorted(found.data)[:gone]
    total = with_drop_outs(algorithm, found.task, found.data, names, step)
    without = set() if step in (Survivors, SignedSurvivors) else set(names)  # their answers are there
    assert set(total.header.rows) == set(found.data) - without


def all_drop_outs(counts: Iterable[int]) -> Iterator[str]:
    """Check each algorithm with none, one and a third of the trainers missing from each step on; yield a line each."""
    PublicIdentity.verifies = verifies_once  # type: ignore[method-assign]
    for count in counts:
        for algorithm in ADDITIVE:
            cases = [(0, STEPS[0]), *((gone, step) for gone in sorted({1, count // 3}) for step in STEPS)]
            for gone, step in cases:
                check_drop_outs(algorithm, count, gone, step)
            yield f"{algorithm}: {count} trainers, {len(cases)} runs: each total is that of the plain answers"


verifies_once = lru_cache(1 << 14)(PublicIdentity.verifies)
