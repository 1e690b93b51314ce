"""The rounds of a secure run: the totals of plain answers, whatever is lost or killed, and each question once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from secure_rounds_scene import Scene, plain_state
from secure_scene import identity

from fedmq.aggregator.machine import Phase
from fedmq.aggregator.secure_rounds import PREPARE_S
from fedmq.algorithms.checkpoint import dump
from fedmq.observe import events
from fedmq.protocol.codec import MASKED, PARTS, decode
from fedmq.protocol.messages import Control, Result, SumReply, SumRequest
from fedmq.runs.records import Close, OpenSum, StoredTotal
from fedmq.secure_sums.messages import (
    EncryptedShares,
    Keys,
    ListSignature,
    RevealedShares,
    keys_text,
    parts_from_bytes,
    parts_to_bytes,
)

STEPS = (Keys, EncryptedShares, Result, ListSignature, RevealedShares)


def counted(scene: Scene) -> dict[int, list[str]]:
    """The trainers in the total of each round."""
    return {one.round: sorted(one.header.rows) for one in scene.store.totals()}


def conforms(scene: Scene) -> None:
    """The state is that of plain answers of the same trainers, in this life and in a replay."""
    rows = counted(scene)
    expected = dump(plain_state(scene, lambda number: rows.get(number, [])))
    assert dump(scene.rounds.state) == expected
    assert scene.store.verify() == []


def carries(message: Any, arrays: dict[str, Any], step: type) -> bool:
    """Whether a trainer's message belongs to this step of a sum."""
    if step is Result or isinstance(message, Result):
        return step is Result and isinstance(message, Result)
    return any(isinstance(part, step) for part in parts_from_bytes(arrays[PARTS].tobytes()))


def test_run_gives_the_same_state_as_plain_answers_and_no_single_one_is_stored() -> None:
    scene = Scene()
    scene.run()
    assert [(one.why, one.results, one.secure) for one in scene.closed()] == [("complete", 3, True)] * 4
    conforms(scene)
    kinds = [type(record) for record in scene.saved if not isinstance(record, events.Event)]
    assert kinds == [OpenSum, StoredTotal, Close] * 4
    assert scene.store.open_sum is None
    assert scene.now < PREPARE_S, "no deadline has passed"


@pytest.mark.parametrize("sites", [3, 7])
@pytest.mark.parametrize("step", STEPS[1:])
def test_round_closes_without_trainers_that_drop_out(step: type, sites: int) -> None:
    scene = Scene(sites, rounds_max=3, forget_s=1.0)
    gone = sorted(scene.sites)[: sites // 3]
    count = {"round": 0}

    def lost(name: str, message: Any, arrays: dict[str, Any]) -> bool:
        if name in gone and scene.rounds.round == 2 and carries(message, arrays, step):
            count["round"] += 1
            scene.leave(name)
        return name in scene.away

    scene.lost = lost
    scene.run()
    assert count["round"] == len(gone)
    rows = counted(scene)
    assert rows[1] == sorted(scene.sites)
    assert set(rows[3]) >= set(scene.sites) - set(gone)
    assert len(rows) == 3
    conforms(scene)


@pytest.mark.parametrize("algorithm", ["ridge", "newton", "statistics", "averaging"])
def test_every_additive_algorithm_ends_as_with_plain_answers(algorithm: str) -> None:
    scene = Scene(algorithm=algorithm, task="linear", rounds_max=6)
    scene.run()
    assert scene.rounds.why in ("solved", "done", "rounds")
    assert {one.why for one in scene.closed()} == {"complete"}
    conforms(scene)


@pytest.mark.parametrize("keywords", [{}, {"sol_per_pop": 12}])
def test_evolution_by_totals_ends_as_with_plain_answers(keywords: dict[str, int]) -> None:
    scene = Scene(algorithm="evolution", parameters={"additive": True, **keywords}, rounds_max=3)
    scene.run()
    assert [one.why for one in scene.closed()] == ["complete"] * 3
    conforms(scene)


def test_evolution_by_totals_asks_about_others_after_a_spent_question() -> None:
    scene = Scene(algorithm="evolution", parameters={"additive": True}, rounds_max=3, leave_s=5.0)
    scene.lost = lambda name, message, arrays: scene.rounds.round == 1 and carries(message, arrays, RevealedShares)
    scene.run()
    assert [one.why for one in scene.closed()] == ["spent", "complete", "complete"]
    conforms(scene)


def test_dealer_that_has_lost_its_secrets_is_not_awaited() -> None:
    scene = Scene(rounds_max=1)
    scene.lost = lambda name, message, arrays: name == "t01" and isinstance(message, Result)
    scene.settle(Phase.COLLECTING)
    scene.sites["t01"].kill()  # and is there again before its absence is noticed
    scene.wait(1.0)
    scene.join("t01")
    scene.run()
    assert counted(scene) == {1: ["t00", "t02"]}
    assert scene.now < PREPARE_S


def test_keys_of_a_trainer_that_is_no_member_are_rejected() -> None:
    scene = Scene(rounds_max=1)
    del scene.identities["t01"]
    scene.settle()
    scene.wait(2.0)
    assert scene.rounds.phase is Phase.WAITING
    assert {one.reason for one in scene.events if isinstance(one, events.ResultRejected)} == {"sender"}


@pytest.mark.parametrize(("algorithm", "asked_last"), [("ridge", 4), ("newton", 3)])
def test_algorithm_that_waits_for_a_trainer_goes_on_with_the_total_that_is_known(
    algorithm: str, asked_last: int
) -> None:
    scene = Scene(4, algorithm=algorithm, task="linear", rounds_max=12)

    def lost(name: str, message: Any, arrays: dict[str, Any]) -> bool:
        if name == "t00" and scene.rounds.round == 3 and carries(message, arrays, Result):
            scene.leave(name)
            scene.returns.clear()
        return name in scene.away

    scene.lost = lost
    while scene.rounds.round < asked_last:
        scene.settle(Phase.CONSISTENCY)
        scene.settle(Phase.COLLECTING)
    scene.hear(Control(run="run", term=scene.term, action="pause"))
    scene.settle()
    assert scene.rounds.phase is Phase.WAITING
    scene.start()  # the question that is asked again is in the store
    scene.run()
    assert scene.rounds.why == "solved"
    assert "spent" in [one.why for one in scene.closed()]
    questions = [record.header.question for record in scene.saved if isinstance(record, StoredTotal)]
    assert len(questions) > len(set(questions)), "a total is used again"
    assert len({one.messages for one in scene.saved if isinstance(one, OpenSum)}) == len(set(questions))
    conforms(scene)


@pytest.mark.parametrize("phase", [Phase.COLLECTING, Phase.CONSISTENCY, Phase.UNMASKING])
@pytest.mark.parametrize("times", [1, 2])
def test_killed_aggregator_finishes_the_round_once(phase: Phase, times: int) -> None:
    scene = Scene(rounds_max=3)
    for _ in range(times):
        scene.settle(phase)
        assert scene.rounds.phase is phase
        scene.start()
        scene.wait(1.0, phase)
    scene.run()
    assert counted(scene) == {number: sorted(scene.sites) for number in (1, 2, 3)}
    assert [one.round for one in scene.closed()] == [1, 2, 3]
    conforms(scene)


@pytest.mark.parametrize("step", STEPS)
def test_lost_message_is_asked_for_again(step: type) -> None:
    scene = Scene(rounds_max=2)
    left = {"t01": 1}

    def lost(name: str, message: Any, arrays: dict[str, Any]) -> bool:
        if left.get(name) and carries(message, arrays, step):
            left[name] -= 1
            return True
        return False

    scene.lost = lost
    scene.run()
    assert left == {"t01": 0}
    assert counted(scene) == {1: sorted(scene.sites), 2: sorted(scene.sites)}
    conforms(scene)


def test_question_whose_shares_are_lost_is_spent_and_others_follow() -> None:
    scene = Scene(rounds_max=5, leave_s=5.0)
    scene.lost = lambda name, message, arrays: scene.rounds.round == 4 and carries(message, arrays, RevealedShares)
    scene.run()
    assert [(one.why, one.results) for one in scene.closed()[3:]] == [("spent", 0), ("complete", 3)]
    assert [one.spent for one in scene.events if isinstance(one, events.SumAbandoned)] == [True]
    assert (counted(scene)[4], counted(scene)[5]) == ([], sorted(scene.sites))
    conforms(scene)


def test_question_is_spent_at_once_when_too_few_trainers_have_shares() -> None:
    scene = Scene(rounds_max=5)

    def lost(name: str, message: Any, arrays: dict[str, Any]) -> bool:
        if scene.rounds.round == 4 and name != "t02" and carries(message, arrays, RevealedShares):
            scene.leave(name)
        return name in scene.away

    scene.lost = lost
    scene.run()
    assert [one.why for one in scene.closed()[3:]] == ["spent", "complete"]
    assert scene.now < 20.0 < scene.config.limits.leave_s
    conforms(scene)


def test_aggregator_on_an_old_copy_asks_no_question_again() -> None:
    scene = Scene(rounds_max=6)
    while scene.rounds.round < 4:
        scene.settle(Phase.CONSISTENCY)
        scene.settle(Phase.COLLECTING)
    copy = scene.store._connection.serialize()
    while scene.rounds.round < 6:
        scene.settle(Phase.CONSISTENCY)
        scene.settle(Phase.COLLECTING)
    scene.store._connection.deserialize(copy)
    scene.clock.at += 1.0  # a higher term
    scene.start()
    scene.run()
    assert [(one.round, one.why) for one in scene.closed()[-3:]] == [(4, "spent"), (5, "complete"), (6, "complete")]
    conforms(scene)


def test_run_that_can_only_repeat_a_spent_question_fails_with_a_way_out() -> None:
    scene = Scene(algorithm="statistics", rounds_max=9, leave_s=5.0)
    scene.lost = lambda name, message, arrays: carries(message, arrays, RevealedShares)
    scene.run()
    assert scene.rounds.why == "failed"
    assert "--from" in scene.rounds.failure
    assert [one.why for one in scene.closed()] == ["spent"]


@pytest.mark.parametrize("victims", [1, 3])
def test_dealer_of_shares_that_do_not_decrypt_ends_one_sum_at_most(victims: int) -> None:
    scene = Scene(4, rounds_max=2)

    def change(name: str, message: Any, arrays: dict[str, Any]) -> Any:
        if name != "t00" or not isinstance(message, SumReply) or not carries(message, arrays, EncryptedShares):
            return message, arrays
        parts = parts_from_bytes(arrays[PARTS].tobytes())
        for index, one in enumerate(parts):
            if isinstance(one, EncryptedShares):
                parts[index] = EncryptedShares(one.sum, (bytes(82),) * victims + one.shares[victims:])
        return message, {PARTS: np.frombuffer(parts_to_bytes(parts), np.uint8)}

    scene.change = change
    scene.run()
    whys = [one.why for one in scene.events if isinstance(one, events.SumAbandoned)]
    assert [("ban t00" in why) for why in whys] == [True] * (victims == 3)
    honest = ["t01", "t02", "t03"] if victims == 3 else ["t00", "t02", "t03"]
    assert counted(scene) == {1: honest, 2: honest}
    assert scene.now < scene.config.limits.leave_s
    conforms(scene)


def test_too_few_answers_abandon_the_sum_and_ask_the_same_in_the_next_one() -> None:
    scene = Scene(rounds_max=2)
    results = []

    def lost(name: str, message: Any, arrays: dict[str, Any]) -> bool:
        if isinstance(message, Result) and scene.rounds.round == 2:
            results.append((name, message.sum))
            return scene.now < 40.0
        return False

    scene.lost = lost
    scene.run()
    abandoned = [one for one in scene.events if isinstance(one, events.SumAbandoned)]
    assert abandoned
    assert not any(one.spent for one in abandoned)
    assert len({of_sum for _, of_sum in results}) == len(abandoned) + 1, "each sum has new masks"
    conforms(scene)


def test_new_trainer_is_in_the_next_round_or_the_one_after() -> None:
    scene = Scene(4, rounds_max=4, away=("t03",))
    scene.settle(Phase.UNMASKING)
    scene.join("t03")
    scene.run()
    rows = counted(scene)
    assert rows[1] == ["t00", "t01", "t02"]
    assert rows[3] == rows[4] == sorted(scene.sites)
    conforms(scene)


def test_bad_messages_of_a_trainer_stop_no_round() -> None:
    scene = Scene(rounds_max=2)
    scene.settle(Phase.COLLECTING)
    good = next(frames for frames in scene.frames if isinstance(decode(frames).message, SumReply))
    message, arrays = decode(good).message, decode(good).arrays
    scene.hear(message, {PARTS: arrays[PARTS][:-1]})
    scene.hear(replaced(message, arrays=()), {})
    scene.settle(Phase.CONSISTENCY)
    rejected = [one.reason for one in scene.events if isinstance(one, events.ResultRejected)]
    assert rejected == ["header"]
    scene.run()
    assert counted(scene) == {1: sorted(scene.sites), 2: sorted(scene.sites)}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda message, arrays: (message, {MASKED: arrays[MASKED][:-1]}), "shape"),
        (lambda message, arrays: (replaced(message, sum=None, v=2), {}), "query"),
        (lambda message, arrays: (replaced(message, round=2), arrays), "round"),
    ],
)
def test_answer_that_fits_no_sum_is_rejected(change: Callable[[Any, Any], tuple[Any, Any]], reason: str) -> None:
    scene = Scene(rounds_max=1)
    scene.change = lambda name, message, arrays: (
        change(message, arrays) if name == "t01" and isinstance(message, Result) else (message, arrays)
    )
    scene.run()
    rejected = [(one.trainer, one.reason) for one in scene.events if isinstance(one, events.ResultRejected)]
    assert rejected[0] == ("t01", reason)
    assert counted(scene) == {1: ["t00", "t02"]}
    conforms(scene)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (lambda keys: {"mask_key": bytes(32)}, "values"),
        (lambda keys: {"share_key": bytes([1, *bytes(31)])}, "values"),
        (lambda keys: {"share_key": keys.mask_key}, "duplicate"),
    ],
)
def test_keys_that_all_trainers_would_refuse_stop_no_round(bad: Callable[[Keys], Any], reason: str) -> None:
    """Else no trainer deals for a cohort with this member, and each further sum has it again."""
    scene = Scene(4, rounds_max=1)

    def change(name: str, message: Any, arrays: dict[str, Any]) -> Any:
        if name != "t03" or PARTS not in arrays:
            return message, arrays
        parts: list[Any] = parts_from_bytes(arrays[PARTS].tobytes())
        for index, keys in enumerate(parts):
            if isinstance(keys, Keys):
                wrong = replaced(keys, **bad(keys))
                signature = identity(3).sign(keys_text(wrong.sum, wrong.share_key, wrong.mask_key))
                parts[index] = replaced(wrong, signature=signature)
        return message, {**arrays, PARTS: np.frombuffer(parts_to_bytes(parts), np.uint8)}

    scene.change = change
    scene.run()
    assert counted(scene) == {1: ["t00", "t01", "t02"]}
    rejected = {(one.trainer, one.reason) for one in scene.events if isinstance(one, events.ResultRejected)}
    assert rejected == {("t03", reason), ("t03", "site")}, "it is in no cohort"


def replaced(message: Any, **changes: Any) -> Any:
    return type(message)(**{name: getattr(message, name) for name in message.__struct_fields__} | changes)


def test_hello_of_one_trainer_asks_that_trainer_only() -> None:
    scene = Scene(7, rounds_max=3)
    scene.lost = lambda name, message, arrays: isinstance(message, Result)
    scene.settle()
    scene.wait(1.0)
    scene.settle()
    scene.join("t3")
    asked = [decode(frames) for frames in scene.rounds.take_output().sends]
    assert {one.topic for one in asked if isinstance(one.message, SumRequest)} == {"to/t3/"}
