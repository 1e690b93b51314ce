from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
import pytest
import secure_scene as scene
from secure_adversary import Adversary
from secure_scene import STEPS, Scene, missing

from fedmq.secure_sums.aggregator import SumPhase
from fedmq.secure_sums.ledger import Ledger
from fedmq.secure_sums.messages import (
    ListSignature,
    MaskedInput,
    SignedSurvivors,
    Survivors,
    list_text,
)
from fedmq.secure_sums.policy import colluders_max, default_threshold
from fedmq.secure_sums.trainer import SumTrainer
from fedmq.security.keys import PublicIdentity


@pytest.fixture(autouse=True)
def verify_each_signature_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PublicIdentity, "verifies", scene.once(PublicIdentity.verifies))


def adversary(*scenes: Scene, spies: Collection[str] = ()) -> Adversary:
    """What follows from every message of these sums, also from lost and late ones, and from the spies' secrets."""
    log = [one for each in scenes for one in each.log]
    return Adversary(log, [one for each in scenes for name, one in each.secrets.items() if name in spies])


def check_one_sum(found: Adversary, one: Scene, spies: Collection[str] = ()) -> None:
    """The total without the answers of the spies is all that is known."""
    total = one.aggregator.total
    assert total is not None
    honest = [name for name in total.survivors if name not in spies]
    (learned,) = found.learned
    assert sorted(name for _, _, name in learned.unknowns) == honest
    assert set(learned.unknowns.values()) <= {1} or set(learned.unknowns.values()) <= {-1}
    sign = np.uint64(next(iter(learned.unknowns.values())) % 2**64)
    assert (learned.value * sign).tobytes() == one.plain(honest)
    assert len(honest) >= 2
    assert not found.singles()


def check_singles(found: Adversary, one: Scene, names: Collection[str]) -> None:
    """The answers of these trainers are computed, with their true values."""
    singles = found.singles()
    assert set(singles) == set(names)
    for name, learned in singles.items():
        (factor,) = learned.unknowns.values()
        assert (one.values[name].view(np.uint64) * np.uint64(factor % 2**64) == learned.value).all()


def cases() -> Iterator[tuple[int, int, type | None]]:
    for members in (3, 4, 5, 10):
        for count in sorted({0, 1, members // 3}):
            yield from ((members, count, step) for step in (STEPS if count else STEPS[:1]))
    yield from ((10, 3, None), (30, 10, None))


@pytest.mark.parametrize(("members", "count", "step"), list(cases()))
def test_all_messages_and_colluders_give_one_total_and_no_single_answer(
    members: int, count: int, step: type | None
) -> None:
    """Spies are the last members, so that drop-outs are honest. Lost answers count as late: the aggregator has them."""
    one = Scene(members, seed=members)
    one.lost = missing(list(one.trainers)[:count], step)
    one.until(SumPhase.CLOSED)
    threshold = default_threshold(members)
    for colluders in range(colluders_max(members, threshold) + 1):
        spies = list(one.trainers)[members - colluders :]
        check_one_sum(adversary(one, spies=spies), one, spies)
    total = one.aggregator.total
    assert total is not None
    spies = total.survivors[::-1][: threshold - 1]  # more than the policy withstands
    if len(total.survivors) >= threshold + 1:
        check_one_sum(adversary(one, spies=spies), one, spies)


@pytest.mark.parametrize("members", [3, 4, 10])
def test_threshold_of_colluders_computes_every_single_answer_late_ones_too(members: int) -> None:
    one = Scene(members)
    late, threshold = "t00", default_threshold(members)
    one.lost = lambda name, message: name == late and isinstance(message, MaskedInput)
    one.until(SumPhase.CLOSED)
    assert one.aggregator.total is not None
    assert late not in one.aggregator.total.survivors
    spies = list(one.trainers)[members - threshold :]
    honest = set(one.trainers) - set(spies)
    check_singles(adversary(one, spies=spies), one, honest)
    below = adversary(one, spies=spies[1:])
    assert late not in below.singles()


def test_sums_that_were_cut_short_add_nothing_to_the_total() -> None:
    """A question is asked in three sums: two are abandoned, one after the lists of survivors were signed."""
    scenes: list[Scene] = []
    for seed, step in ((1, MaskedInput), (2, ListSignature), (3, None)):
        one = Scene(10, seed, ledgers=scenes[-1].ledgers if scenes else None)
        one.values = scenes[0].values if scenes else one.values
        one.lost = missing(list(one.trainers)[: 4 if step else 0], step)
        one.until(SumPhase.CLOSED)
        scenes.append(one)
        spies = ["t07", "t08", "t09"]
        if step:
            assert one.aggregator.phase is SumPhase.ABANDONED
            assert adversary(*scenes, spies=spies).learned == []
    check_one_sum(adversary(*scenes, spies=spies), scenes[-1], spies)


def test_restarts_at_each_message_add_nothing_to_the_total() -> None:
    for restart_at in range(1, 22):
        for restarts in ("", "t01"):
            one = Scene(4, seed=restart_at)
            one.restart_at, one.restarts = restart_at, restarts
            one.lost = missing(["t00"] if not restarts else [], MaskedInput)
            one.until(SumPhase.CLOSED)
            check_one_sum(adversary(one, spies=["t03"]), one, ["t03"])


# The adversary notices what a planted bug gives away


def test_adversary_notices_masks_that_are_used_twice() -> None:
    one = Scene(4)
    one.until(SumPhase.CONSISTENCY)
    trainer = one.trainers["t00"]
    trainer._opening, trainer._ledger = None, Ledger()  # forgotten, and the rows have changed
    one.log.append(("t00", trainer.answer(one.aggregator._opening(0), np.zeros(5, np.int64)).send))
    found = adversary(one).singles()["t00"]  # the difference of the two answers
    sign = np.uint64(max(found.unknowns.items())[1] % 2**64)
    assert (found.value * sign == -one.values["t00"].view(np.uint64)).all()


def test_adversary_notices_a_question_that_is_answered_in_two_cohorts() -> None:
    first = Scene(4, seed=1)
    first.until(SumPhase.CLOSED)
    second = Scene(3, seed=2)  # with ledgers that are empty again
    second.values = {name: first.values[name] for name in second.trainers}
    second.until(SumPhase.CLOSED)
    check_singles(adversary(first, second), first, ["t03"])


def test_adversary_notices_lists_that_no_threshold_has_signed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the consistency check an aggregator shows another list to each, and gets both kinds of shares."""
    monkeypatch.setattr(SumTrainer, "_check_signatures", lambda *_: None)
    one = Scene(4)
    one.until(SumPhase.CONSISTENCY)
    one.queue.clear()
    opening = one.aggregator._opening(0)
    lists = {"t00": 0b1111, "t01": 0b1111, "t02": 0b0111, "t03": 0b1111}
    for name, survivors in lists.items():
        one.trainers[name].sign(Survivors(one.sum_id, bytes([survivors])))
        text = list_text(one.cohort, opening, bytes([survivors]))
        signed = SignedSurvivors(one.sum_id, bytes([survivors]), b"\x01", (one.identities["t00"].sign(text),))
        one.log += [(name, signed), (name, one.trainers[name].reveal(signed).send)]
    found = adversary(one, spies=["t00", "t01"])
    assert set(found.singles()) == {"t02", "t03"}
