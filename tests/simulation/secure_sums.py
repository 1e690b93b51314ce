"""What must hold in a judged run with secure sums, from what was on the wire and what is stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from fedmq.algorithms.base import Plan, Update
from fedmq.algorithms.trial import answer
from fedmq.protocol.codec import MASKED, PARTS, Frames, decode
from fedmq.protocol.messages import Result, Round, SumReply
from fedmq.runs.records import StoredTotal
from fedmq.secure_sums.masks import SumName
from fedmq.secure_sums.messages import (
    Cohort,
    Keys,
    ListSignature,
    MaskedInput,
    RevealedShares,
    SumMessage,
    parts_from_bytes,
)
from fedmq.secure_sums.question import answer_of, flat, question_of
from fedmq.security.keys import PublicIdentity
from fedmq.simulation import Federation
from fedmq.simulation.identities import FEDERATION
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task import Rows


@dataclass
class SumWire:
    """The messages of secure sums that were on the wire, by sum and trainer: each kind once, whatever was repeated."""

    cohorts: dict[bytes, Cohort] = field(default_factory=dict)
    sent: dict[tuple[bytes, str, type], set[SumMessage]] = field(default_factory=dict)
    order: list[tuple[bytes, str, type]] = field(default_factory=list)  # as each was sent first
    asked: dict[bytes, tuple[int, bytes]] = field(default_factory=dict)  # round and question, by sum

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


def check_sums(scene: Federation, wire: SumWire, plans: Mapping[int, Plan], rows_of: Callable[[str], Rows]) -> None:
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


def _check_masks(scene: Federation, wire: SumWire, plans: Mapping[int, Plan], rows_of: Callable[[str], Rows]) -> None:
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


def _check_total(scene: Federation, total: StoredTotal, plan: Plan, rows_of: Callable[[str], Rows]) -> None:
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


def _answer(scene: Federation, plan: Plan, number: int, name: str, rows_of: Callable[[str], Rows]) -> Update:
    return answer(plan, scene.task, RowViews(scene.task, rows_of(name)), number, scene.seed, name)


def _keys(message: SumMessage) -> tuple[bytes, bytes]:
    assert isinstance(message, Keys)
    return message.share_key, message.mask_key


verifies_once = lru_cache(1 << 14)(PublicIdentity.verifies)
