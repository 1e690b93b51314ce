"""Silent trainers, runs without trainers, and the wait for them: the rules of the aggregator's state machine."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from rounds_scene import TASK, Guess, MeanOfNumbers, Scene, closes, opened, sent, told

from fedmq.aggregator.departures import Departure, failure_text, shortage_text
from fedmq.aggregator.machine import Output, Phase
from fedmq.aggregator.roster import FORGIVEN_RESULTS, SILENT_ROUNDS
from fedmq.aggregator.rounds import FAREWELL_S, Rounds
from fedmq.errors import LeaveReason
from fedmq.observe import events
from fedmq.observe.event_text import event_line
from fedmq.observe.run_state import RunState
from fedmq.protocol.messages import Finished, Goodbye, Round
from fedmq.testing import run_config
from fedmq.transport.link import BrokerConnected, BrokerDisconnected, StopRequested, Tick

DEADLINE_S, DECLINE_S, LEAVE_S, WAIT_S = 5.0, 5.0, 120.0, 60.0
ROWS = "expected 2 columns, got 3"


def mute_scene(**chosen: Any) -> Scene:
    """A scene of two trainers that answer and `mute`, which is connected and never does."""
    return opened("mute", "alice", "bob", min_trainers=2, deadline_s=DEADLINE_S, **chosen)


def play(scene: Scene, *, number: float = 1.0) -> tuple[Output, float]:
    """Close the open round with the results of alice and bob, of loss |number|; return how long it waited, too."""
    opened_at, current = scene.now, scene.rounds.round
    scene.result("alice", current, number)
    output = scene.result("bob", current, -number)
    if scene.rounds.round == current:
        output = scene.take(Tick(), at=scene.now + DEADLINE_S)
    assert scene.rounds.round == current + 1
    return output, scene.now - opened_at


def goodbye(scene: Scene, name: str, reason: str = "", detail: str = "", at: float | None = None) -> Output:
    return scene.hear(Goodbye(run="run", term=2, trainer=name, reason=reason, detail=detail), at=at)


# --- silent trainers ----------------------------------------------------------------------------------------------


def test_silent_trainer_is_waited_for_ever_more_rarely() -> None:
    scene = mute_scene(rounds_max=1000)
    waited = [number for number in range(1, 301) if play(scene)[1]]
    assert waited == [1, 2, 3, 17, 65, 257], "and then after 16, 64, 256, ... missed rounds"


def test_trainer_that_answers_now_and_then_delays_ever_fewer_rounds() -> None:
    scene, answered, waited = mute_scene(rounds_max=1000), range(100, 300, 50), []
    for number in range(1, 301):
        if number in answered:
            scene.result("mute", number)
        if play(scene)[1]:
            waited.append(number)
    assert waited == [1, 2, 3, 17, 65, 101, 151, 251], "probations of 16 and 64 rounds follow 101 and 151"


@pytest.mark.parametrize(("rounds", "most"), [(2, 7), (3, 7), (10, 7)])
def test_trainer_that_answers_a_part_of_the_rounds_delays_few_of_them(rounds: int, most: int) -> None:
    scene, waited = mute_scene(rounds_max=1000), []
    for number in range(1, 501):
        if number % rounds == 0:
            scene.result("mute", number)
        if play(scene)[1]:
            waited.append(number)
    assert SILENT_ROUNDS < len(waited) <= most, waited


def test_trainer_that_answers_again_is_waited_for_after_its_probation() -> None:
    scene = mute_scene(rounds_max=1000)
    for number in range(1, 30):
        if number >= 4 and number != 5:  # 5: a second time
            scene.result("mute", number)
        play(scene)
    assert (scene.roster["mute"].lapses, scene.roster["mute"].probation) == (2, 0)
    assert play(scene)[1] == DEADLINE_S


def test_silence_is_forgiven_after_many_results() -> None:
    scene = mute_scene(rounds_max=10_000)
    for number in range(1, FORGIVEN_RESULTS + 10):
        if number > SILENT_ROUNDS:
            scene.result("mute", number)
        play(scene)
    assert scene.roster["mute"].missed == 0
    assert [play(scene)[1] for _ in range(SILENT_ROUNDS + 1)] == [DEADLINE_S] * SILENT_ROUNDS + [0.0]
    assert (scene.roster["mute"].lapses, scene.roster["mute"].probation) == (1, 0)


def test_silent_trainer_is_reported_once_and_no_longer_suspected() -> None:
    scene = mute_scene()
    outputs = [play(scene)[0] for _ in range(8)]
    silent = [event for output in outputs for event in told(output, events.TrainerSilent)]
    assert silent == [events.TrainerSilent(trainer="mute", missed=SILENT_ROUNDS)]
    suspected = [len(told(output, events.TrainerSuspected)) for output in outputs]
    assert suspected == [1] * (SILENT_ROUNDS - 1) + [0] * (9 - SILENT_ROUNDS)


def test_rows_of_a_silent_member_do_not_count_until_it_answers() -> None:
    scene = mute_scene()
    scene.result("mute", 1)
    play(scene)
    members = [closes(play(scene)[0])[0].members for _ in range(SILENT_ROUNDS)]
    assert members == [("alice", "bob", "mute")] * (SILENT_ROUNDS - 1) + [("alice", "bob")]
    back = scene.result("mute", scene.rounds.round)
    assert told(back, events.TrainerReturned) == [events.TrainerReturned(trainer="mute", missed=SILENT_ROUNDS)]
    output, waited = play(scene)
    assert (closes(output)[0].members, waited) == (("alice", "bob", "mute"), 0.0)
    assert play(scene)[1] == DEADLINE_S, "rounds wait for it again"


def test_silent_member_does_not_keep_a_run_from_being_solved() -> None:
    scene = mute_scene()
    scene.result("mute", 1)
    play(scene)
    for _ in range(SILENT_ROUNDS):
        assert not scene.rounds.solved
        play(scene, number=0.0)
    while scene.rounds.phase is not Phase.FINISHED and scene.rounds.round < 20:
        play(scene, number=0.0)
    assert scene.rounds.solved


def test_late_results_within_the_staleness_limit_are_answers() -> None:
    scene = mute_scene(staleness=5)
    for number in range(1, 19):
        if number > 5 and (number - 1) % 5 == 0:
            scene.result("mute", number - 5)
        play(scene)
        assert not scene.roster["mute"].is_silent, f"in round {number}"


def test_reconnection_of_a_silent_trainer_is_no_answer() -> None:
    scene = mute_scene()
    for _ in range(SILENT_ROUNDS):
        play(scene)
    scene.present("mute", False)
    output = scene.present("mute", True)
    assert told(output, events.TrainerSilent), "its presence shows it again"
    assert play(scene)[1] == 0.0


def test_rounds_wait_for_all_if_all_are_silent() -> None:
    scene = opened("alice", "bob", deadline_s=DEADLINE_S, quorum=0.0)
    for number in range(1, 6):
        scene.take(Tick(), at=scene.now + DEADLINE_S)
        scene.result("alice" if number % 2 else "bob", number)
    assert scene.rounds.round == 6


def test_presence_of_a_silent_trainer_is_in_the_state_of_the_run() -> None:
    state = RunState()
    story: list[events.AnyEvent] = [
        events.RunStarted(config=run_config("run"), term=1, round=1),
        events.TrainerJoined(trainer="mute", num_examples=2),
        events.TrainerSilent(trainer="mute", missed=3),
    ]
    for event in story:
        state.apply(0.0, event)
    assert (state.trainers["mute"].presence, state.present) == ("silent", 1)
    state.apply(1.0, events.TrainerReturned(trainer="mute", missed=9))
    assert state.trainers["mute"].presence == "alive"


def test_repeated_results_and_goodbyes_are_reported_once() -> None:
    scene = opened("alice", "bob", "mallory")
    scene.result("mallory", 1)
    repeated = [scene.result("mallory", 1) for _ in range(50)]
    assert sum(len(told(output, events.ResultResent)) for output in repeated) == 1
    assert scene.roster["mallory"].resent == 50
    goodbyes = [goodbye(scene, "mallory", "other", f"reason {number}") for number in range(50)]
    assert sum(len(told(output, events.TrainerLeft)) for output in goodbyes) == 1


def test_repeated_goodbyes_do_not_keep_a_run_from_ending() -> None:
    scene = opened("alice", "bob")
    for name in ("alice", "bob"):
        goodbye(scene, name, "rows", ROWS)
    began = scene.now
    for number in range(1, 6):
        goodbye(scene, "bob", "rows", f"{ROWS} and {number}", at=began + number * DECLINE_S / 5)
    assert scene.rounds.phase is Phase.FINISHED


# --- runs without trainers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["rows", "evaluations", "code", "query", "work", "limit", "duplicate"])
def test_run_that_all_trainers_decline_fails_after_the_grace(reason: LeaveReason) -> None:
    scene = opened("alice", "bob")
    goodbye(scene, "alice", reason, ROWS)
    output = goodbye(scene, "bob", reason, ROWS, at=2.0)
    assert told(output, events.TrainerLeft) == [
        events.TrainerLeft(trainer="bob", goodbye=True, reason=reason, detail=ROWS)
    ]
    assert scene.rounds.wake_at is not None
    scene.take(Tick(), at=2.0 + DECLINE_S - 0.1)
    assert scene.rounds.phase is Phase.COLLECTING
    output = scene.take(Tick(), at=2.0 + DECLINE_S)
    text = f"all trainers declined or left the run: {ROWS} ({reason}, 2 trainers)"
    assert (scene.rounds.why, scene.rounds.failure) == ("failed", text)
    assert told(output, events.RunFinished) == [
        events.RunFinished(solved=False, rounds=0, value=None, why="failed", detail=text)
    ]
    assert [message.solved for _, message in sent(output, Finished)] == [False]


def test_round_goes_on_without_a_majority_that_declines_the_run() -> None:
    scene = opened("alice", "bob", "carol", "dave")
    scene.result("alice", 1)
    for name in ("bob", "carol"):
        goodbye(scene, name, "code", "site.py:2: fit raised ValueError")
        assert scene.rounds.round == 1, "dave is still expected"
    goodbye(scene, "dave", "code", "site.py:2: fit raised ValueError")
    assert (scene.rounds.round, scene.rounds.phase) == (2, Phase.WAITING), "a round needs four trainers"


def test_trainers_that_never_joined_can_decline_the_run() -> None:
    scene = Scene(min_trainers=2)
    scene.take(BrokerConnected())
    goodbye(scene, "alice", "code", "run it with --allow-code")
    goodbye(scene, "bob", "code", "run it with --allow-code")
    scene.take(Tick(), at=DECLINE_S)
    assert scene.rounds.why == "failed"


def test_wait_names_the_trainers_that_declined_and_why() -> None:
    scene = Scene(min_trainers=3)
    scene.take(BrokerConnected())
    scene.hello("alice")
    (first,) = told(goodbye(scene, "carol", "policy", "--peers: a key is unknown"), events.Waiting)
    (found,) = told(goodbye(scene, "bob", "policy", "--peers: a key is unknown"), events.Waiting)
    assert (first.declined, found.declined, found.present, found.needed) == (("carol",), ("bob", "carol"), 1, 3)
    assert told(goodbye(scene, "bob", "policy", "another"), events.Waiting) == []
    assert event_line(found, "accuracy") == (
        "waiting for trainers (1 of 3); declined by bob, carol: --peers: a key is unknown (policy, 2 trainers): start "
        "other trainers, or restart these with other settings"
    )


def test_a_decline_is_reported_once_however_often_it_is_sent() -> None:
    scene = opened("alice", "bob")
    outputs = [goodbye(scene, "alice", "rows", ROWS, at=float(second)) for second in range(5)]
    assert [len(told(output, events.TrainerLeft)) for output in outputs] == [1, 0, 0, 0, 0]


def test_newcomer_or_returning_trainer_keeps_a_declined_run_alive() -> None:
    scene = opened("alice", "bob")
    for name in ("alice", "bob"):
        goodbye(scene, name, "rows", ROWS)
    scene.hello("carol", at=DECLINE_S - 1.0)
    scene.present("carol", True)
    scene.take(Tick(), at=LEAVE_S * 2)
    assert scene.rounds.why is None
    goodbye(scene, "carol", "rows", ROWS)
    scene.hello("alice", at=scene.now + 1.0)
    scene.present("alice", True)
    scene.take(Tick(), at=scene.now + LEAVE_S)
    assert scene.rounds.why is None


def test_fewer_trainers_than_a_round_needs_do_not_end_a_run() -> None:
    scene = Scene(min_trainers=2)
    scene.take(BrokerConnected())
    scene.hello("alice")
    goodbye(scene, "alice", "evaluations")
    scene.take(Tick(), at=LEAVE_S * 9)
    assert scene.rounds.why is None, "the other site may not have started yet"


@pytest.mark.parametrize("reason", ["leaving", "", "from-a-later-version"])
def test_trainers_that_leave_have_time_to_restart(reason: str) -> None:
    scene = opened("alice", "bob")
    for name in ("alice", "bob"):
        goodbye(scene, name, reason)
        scene.present(name, False)
    scene.take(Tick(), at=LEAVE_S - 0.1)
    assert scene.rounds.why is None
    scene.take(Tick(), at=LEAVE_S)
    assert scene.rounds.why == "failed"


def test_killed_trainers_do_not_end_a_run() -> None:
    scene = opened("alice", "bob")
    for name in ("alice", "bob"):
        scene.present(name, False)
    scene.take(Tick(), at=LEAVE_S * 100)
    assert scene.rounds.why is None


def test_killed_trainer_has_time_to_restart_when_the_others_decline() -> None:
    scene = opened("alice", "bob")
    goodbye(scene, "alice", "rows", ROWS)
    scene.present("bob", False, at=1.0)
    scene.take(Tick(), at=LEAVE_S)
    assert scene.rounds.why is None
    scene.take(Tick(), at=LEAVE_S + 1.0)
    assert scene.rounds.why == "failed"


def test_time_without_a_broker_or_in_a_pause_ends_no_run() -> None:
    scene = opened("alice", "bob")
    for name in ("alice", "bob"):
        goodbye(scene, name, "rows", ROWS)
    scene.take(BrokerDisconnected(), at=1.0)
    scene.take(Tick(), at=500.0)
    assert scene.rounds.why is None
    scene.take(BrokerConnected(), at=500.0)
    scene.rounds.paused = True
    scene.take(Tick(), at=900.0)
    assert scene.rounds.why is None
    scene.rounds.paused = False
    scene.take(Tick(), at=901.0)
    assert scene.rounds.why == "failed"


def test_declined_trainer_that_reconnects_is_not_present() -> None:
    scene = opened("alice", "bob")
    goodbye(scene, "alice", "rows", ROWS)
    scene.present("alice", False)
    scene.present("alice", True)
    assert scene.roster.present == ["bob"]
    assert [close.why for close in closes(scene.result("bob", 1))] == ["complete"]


def test_run_whose_results_are_all_refused_fails() -> None:
    scene = opened("alice", "bob")
    for name in ("alice", "bob"):
        scene.hear(scene.result_of(name, 1))  # without arrays
    scene.take(Tick(), at=DECLINE_S)
    text = "all trainers declined or left the run: arrays: expected a model (work, 2 trainers)"
    assert (scene.rounds.why, scene.rounds.failure) == ("failed", text)


def test_round_does_not_wait_for_a_trainer_whose_result_is_refused() -> None:
    scene = opened("alice", "bob", "eve")
    scene.hear(scene.result_of("eve", 1))
    scene.result("alice", 1)
    assert [close.why for close in closes(scene.result("bob", 1))] == ["complete"]
    scene.result("eve", 2)
    scene.result("alice", 2)
    assert [close.results for close in closes(scene.result("bob", 2))] == [3], "it can do better in the next round"


def test_failure_names_causes_and_numbers_but_no_sites() -> None:
    departures = [
        Departure("rows", "expected 2 columns, got 3"),
        Departure("work", "learning rate 0.1 diverged after 4 rounds: try 0.01"),
        Departure("work", "learning rate 0.1 diverged after 5 rounds: try 0.01"),
        Departure("leaving"),
    ]
    assert failure_text(departures) == (
        "all trainers declined or left the run: "
        "learning rate 0.1 diverged after 4 rounds: try 0.01 (work, 2 trainers); "
        "expected 2 columns, got 3 (rows, 1 trainer); stopped by their operators (leaving, 1 trainer)"
    )
    assert "rows" in shortage_text(1, 2, 60.0, departures[:1])


# --- the wait for trainers ----------------------------------------------------------------------------------------


class WaitingScene(Scene):
    """A scene that waits for the trainers that its task intends, 3 by default; 2 are enough."""

    def __init__(self, trainers: int = 3, **chosen: Any) -> None:
        super().__init__(min_trainers=2, **chosen)
        task = msgspec.structs.replace(TASK, trainers=trainers)
        config = msgspec.structs.replace(self.config, task=task)
        self.rounds = Rounds(config, 2, MeanOfNumbers(), Guess(), self.roster, wait_s=WAIT_S)
        self.take(BrokerConnected())


def test_run_waits_for_the_intended_trainers_then_starts_with_enough() -> None:
    scene = WaitingScene()
    scene.hello("alice")
    scene.hello("bob")
    assert scene.rounds.phase is Phase.WAITING
    scene.take(Tick(), at=WAIT_S)
    assert scene.rounds.phase is Phase.COLLECTING
    assert scene.rounds.failure == ""


def test_run_starts_as_soon_as_the_intended_trainers_are_present() -> None:
    scene = WaitingScene()
    for name in ("alice", "bob", "carol"):
        output = scene.hello(name)
    assert [message.round for _, message in sent(output, Round)][:1] == [1]
    scene.present("carol", False)
    scene.result("alice", 1)
    scene.result("bob", 1)
    assert (scene.rounds.phase, scene.rounds.round) == (Phase.COLLECTING, 2), "only the first round waits"


def test_wait_with_too_few_trainers_ends_this_life_and_not_the_run() -> None:
    scene = WaitingScene()
    scene.hello("alice")
    scene.take(Tick(), at=WAIT_S - 0.1)
    assert not scene.rounds.done
    output = scene.take(Tick(), at=WAIT_S)
    assert scene.rounds.done
    assert scene.rounds.why is None
    assert "expected 2 trainers within 60 s, got 1" in scene.rounds.failure
    assert sent(output, Finished) == []


def test_end_of_the_wait_fails_a_run_that_all_trainers_have_declined() -> None:
    scene = WaitingScene(trainers=2)
    for name in ("alice", "bob"):
        goodbye(scene, name, "rows", ROWS, at=WAIT_S - 1.0)
    scene.take(Tick(), at=WAIT_S)
    assert scene.rounds.why == "failed", "a retry would not help"


def test_wait_counts_again_when_trainers_disappear() -> None:
    scene = WaitingScene(trainers=2)
    for name in ("alice", "bob"):
        scene.hello(name)
        scene.present(name, True)
    for name in ("alice", "bob"):
        scene.present(name, False, at=1000.0)
    scene.take(Tick(), at=1000.0 + WAIT_S - 0.1)
    assert not scene.rounds.done
    scene.take(Tick(), at=1000.0 + WAIT_S)
    assert scene.rounds.done


def test_wait_ends_without_a_broker_too() -> None:
    scene = WaitingScene()
    scene.take(BrokerDisconnected(), at=1.0)
    assert scene.rounds.wake_at == WAIT_S
    scene.take(Tick(), at=WAIT_S)
    assert scene.rounds.done


def test_run_without_a_wait_waits_for_ever() -> None:
    scene = Scene(min_trainers=2)
    scene.take(BrokerConnected())
    scene.hello("alice")
    scene.take(Tick(), at=1e6)
    assert not scene.rounds.done
    scene.take(StopRequested())
    assert (scene.rounds.done, scene.rounds.failure) == (True, "")


def test_failed_run_ends_without_its_broker() -> None:
    scene = opened("alice", "bob")
    for name in ("alice", "bob"):
        goodbye(scene, name, "rows", ROWS)
    scene.take(Tick(), at=DECLINE_S)
    scene.take(Tick(), at=DECLINE_S + FAREWELL_S)
    assert scene.rounds.done
