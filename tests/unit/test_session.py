"""The rules of a trainer's session: inputs and times, and the expected outputs."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
import pytest
from msgspec import structs

from fedmq.algorithms.averaging.query import GradientLearner, Train
from fedmq.algorithms.base import encode_query
from fedmq.errors import (
    BadConfiguration,
    BadData,
    CodeRefused,
    LimitExceeded,
    QueryRefused,
    Rejected,
    WorkError,
)
from fedmq.protocol.codec import Packet, decode, digest_of, encode, pack
from fedmq.protocol.messages import (
    PROTOCOL_VERSION,
    Accepted,
    Beacon,
    Finished,
    FromAggregator,
    Hello,
    Message,
    Presence,
    Refused,
    Result,
    Round,
    RunHeader,
    Welcome,
)
from fedmq.protocol.messages import Goodbye as GoodbyeMessage
from fedmq.runtime.rng import derive_rng
from fedmq.tasks.task_file import find_task
from fedmq.trainer import session as session_module
from fedmq.trainer.budget import Budget
from fedmq.trainer.followed_run import RESEND_S
from fedmq.trainer.machine import Input, Output, RowsRead, WorkDone, WorkerBlocked, WorkerUnblocked, WorkFailed
from fedmq.trainer.session import DECLINED_AGAIN_S, HELLO_AGAIN_S, PENDING_MAX, RESEND_MAX_S, STOP_S, Session
from fedmq.transport.link import BrokerConnected, BrokerDisconnected, MessageReceived, StopRequested, Tick

TASK = find_task("linear")
ROUND = Round(
    run="run", term=1, round=1, seed=0, deadline_s=10.0, task=TASK, query=encode_query(Train(GradientLearner()))
)
MODEL_DIGEST = digest_of(pack({"model": np.zeros(3)}).infos)  # of every round here
Kind = TypeVar("Kind")


class Scene:
    """Bob's session and its clock."""

    def __init__(self, *, connected: bool = True) -> None:
        self.session, self.now = Session("bob", 2, "test", derive_rng(1, "jitter")), 0.0
        if connected:
            self.take(BrokerConnected())

    def take(self, event: Input, at: float | None = None) -> Output:
        self.now = self.now if at is None else at
        return self.session.step(event, self.now)

    def hear(self, message: Message, at: float | None = None, topic: str = "topic", **arrays: Any) -> Output:
        return self.take(MessageReceived(decode(encode(topic, message, arrays))), at)

    def round(self, number: int, *, run: str = "run", term: int = 1, bits: int = 0, at: float | None = None) -> Output:
        message = structs.replace(ROUND, run=run, term=term, round=number, acknowledged=bytes([bits]))
        return self.hear(message, at, model=np.zeros(3))

    def beacon(self, number: int, bits: int = 0, *, term: int = 1, at: float | None = None) -> Output:
        return self.hear(Beacon(run="run", term=term, round=number, open=True, acknowledged=bytes([bits])), at)

    def welcome(self, index: int = 0, *, term: int = 1) -> Output:
        return self.hear(Welcome(run="run", term=term, trainer="bob", index=index))

    def worked(self, number: int, *, run: str = "run", at: float | None = None) -> Output:
        return self.take(WorkDone(run, number, {"model": np.full(3, float(number))}, 0.1, 2), at)

    def held(self, run: str = "run") -> list[int]:
        return sorted(self.session.runs[run].pending)


def holding(number: int = 1, *, connected: bool = True) -> Scene:
    """Return a scene in which bob is welcome at index 0 and has the pending result of a round."""
    scene = Scene(connected=connected)
    scene.round(number)
    scene.welcome()
    scene.worked(number)
    return scene


def sent(effects: Output, kind: type[Kind]) -> list[Kind]:
    return [one.message for one in effects.sends if isinstance(one.message, kind)]


def started(effects: Output) -> int | None:
    return None if effects.start is None else effects.start.message.round  # type: ignore[union-attr]


# Hello


@pytest.mark.parametrize("first", ["round", "beacon"])
def test_first_message_of_a_run_is_answered_with_hello(first: str) -> None:
    scene = Scene()
    effects = scene.round(3) if first == "round" else scene.beacon(3)
    held = 3 if first == "round" else 0
    (outgoing,) = effects.sends
    assert outgoing.topic == "up/run"
    assert outgoing.message == Hello(
        run="run", term=1, trainer="bob", num_examples=2, round=held, version="test", versions=(2, PROTOCOL_VERSION)
    )


def test_hello_is_repeated_every_half_second_until_welcome() -> None:
    scene = Scene()
    assert len(sent(scene.beacon(0, at=0.0), Hello)) == 1
    assert sent(scene.beacon(0, at=HELLO_AGAIN_S - 0.01), Hello) == []
    assert len(sent(scene.beacon(0, at=HELLO_AGAIN_S), Hello)) == 1
    scene.welcome()
    assert sent(scene.beacon(0, at=10.0), Hello) == []


def test_missed_round_in_a_beacon_is_requested() -> None:
    scene = holding(1)
    assert [hello.round for hello in sent(scene.beacon(2, at=1.0), Hello)] == [1]
    assert sent(scene.beacon(2, at=1.2), Hello) == []
    scene.round(2, at=1.3)
    assert sent(scene.beacon(2, at=9.0), Hello) == []


def test_closed_round_is_not_requested() -> None:
    scene = holding(1)
    assert sent(scene.hear(Beacon(run="run", term=1, round=2, open=False), at=1.0), Hello) == []


# Work


def test_round_starts_work_and_its_result_is_sent() -> None:
    scene = Scene()
    assert started(scene.round(1)) == 1
    (outgoing,) = [one for one in scene.worked(1).sends if isinstance(one.message, Result)]
    assert outgoing.topic == "up/run"
    header: dict[str, Any] = {"run": "run", "term": 1, "trainer": "bob", "round": 1, "num_examples": 2, "attempt": 1}
    header["site_figures"] = True
    assert outgoing.message == Result(**header, train_s=0.1, model_digest=MODEL_DIGEST, fraction_bits=16)
    assert outgoing.arrays is not None
    assert outgoing.arrays["model"].tolist() == [1.0, 1.0, 1.0]


def test_newer_round_cancels_older_work() -> None:
    scene = Scene()
    assert not scene.round(1).cancel
    effects = scene.round(2)
    assert (effects.cancel, started(effects)) == (True, 2)
    assert (sent(scene.worked(1), Result), scene.held()) == ([], []), "the outcome of cancelled work is not used"
    assert len(sent(scene.worked(2), Result)) == 1


def test_repeated_and_reordered_rounds_have_no_effect() -> None:
    scene = Scene()
    scene.round(2)
    for number in (2, 1):
        effects = scene.round(number)
        assert (effects.cancel, effects.start) == (False, None)
    scene.worked(2)
    assert scene.round(2).start is None


@pytest.mark.parametrize(
    ("error", "reason", "detail"),
    [
        (BadData("got 7.25 in row 3: correct it", "expected 2 columns, got 3"), "rows", "expected 2 columns, got 3"),
        (BadData("/home/bob/rows.csv: cannot be read"), "rows", "the rows cannot be used"),
        (CodeRefused("not signed"), "code", "not signed"),
        (Rejected("code", "the code failed: KeyError: 1"), "code", "the code failed: KeyError: 1"),
        (QueryRefused("an unknown kind"), "query", "an unknown kind"),
        (Rejected("shape", "expected 3, got 2"), "query", "shape: expected 3, got 2"),
        (LimitExceeded("10 GiB of memory"), "limit", "10 GiB of memory"),
        (WorkError("learning_rate 5 diverged"), "work", "learning_rate 5 diverged"),
        (BadConfiguration("expected fewer elites"), "work", "expected fewer elites"),
        (MemoryError("Unable to allocate 3.9 GiB"), "work", "MemoryError in the work"),
        (KeyError("7.25, a value of a row"), "work", "KeyError in the work"),
        (SystemExit(78), "work", "SystemExit in the work"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_work_that_fails_declines_its_run_and_the_trainer_takes_the_next(
    error: BaseException, reason: str, detail: str
) -> None:
    scene = Scene()
    scene.round(1)
    effects = scene.take(WorkFailed("run", 1, error))
    assert [(one.run, one.reason, one.detail) for one in sent(effects, GoodbyeMessage)] == [("run", reason, detail)]
    assert [notice.run for notice in effects.notices] == ["run"]
    assert (scene.session.done, scene.session.working) == (False, None)
    assert started(scene.round(2)) is None, "a declined run gets no more work"
    assert started(scene.round(1, run="next")) == 1
    assert len(sent(scene.worked(1, run="next"), Result)) == 1


def test_declined_run_is_tried_again_in_its_next_term() -> None:
    scene = Scene()
    scene.round(1)
    scene.take(WorkFailed("run", 1, WorkError("it diverged")))
    assert [one.reason for one in sent(scene.round(2), GoodbyeMessage)] == ["work"], "the first may have been lost"
    assert [hello.term for hello in sent(scene.beacon(1, term=2), Hello)] == [2]
    assert started(scene.round(1, term=2)) == 1


def test_beacons_of_a_declined_run_get_its_reason_now_and_then() -> None:
    scene = Scene()
    scene.round(1)
    scene.take(WorkFailed("run", 1, WorkError("it diverged")))
    for seconds, goodbyes in ((1.0, 1), (2.0, 0), (DECLINED_AGAIN_S, 0), (1.0 + DECLINED_AGAIN_S, 1)):
        effects = scene.beacon(2, at=seconds)
        assert len(sent(effects, GoodbyeMessage)) == goodbyes
        assert sent(effects, Hello) == []


def test_code_cannot_tell_of_the_rows_by_failing_where_evaluations_are_limited() -> None:
    scene = Scene()
    scene.session.budget = Budget(10)
    scene.round(1)
    effects = scene.take(WorkFailed("run", 1, Rejected("code", "ValueError: 7.25")))
    assert [(one.reason, one.detail) for one in sent(effects, GoodbyeMessage)] == [("code", "")]


def test_work_is_limited_in_time() -> None:
    scene = Scene()
    scene.session.work_seconds_max = 20.0
    scene.round(1, at=1.0)
    scene.round(1, run="next", at=5.0)
    assert scene.session.wake_at == 21.0
    assert not scene.take(Tick(), at=20.9).cancel
    effects = scene.take(Tick(), at=21.0)
    assert (effects.cancel, started(effects)) == (True, 1), "the next run is worked on"
    (goodbye,) = sent(effects, GoodbyeMessage)
    assert (goodbye.run, goodbye.reason) == ("run", "limit")
    assert "--work-seconds-max 20" in goodbye.detail
    assert scene.session.working == ("next", 1)
    assert scene.session.wake_at == 41.0


def test_trainer_whose_worker_is_blocked_declines_all_runs_until_it_is_not() -> None:
    scene = Scene()
    scene.round(1, at=1.0)
    scene.round(1, run="next", at=2.0)
    effects = scene.take(WorkerBlocked("run", 1), at=700.0)
    assert effects.cancel
    assert [(one.run, one.reason) for one in sent(effects, GoodbyeMessage)] == [("run", "limit"), ("next", "limit")]
    assert "round 1 of run run" in scene.session.status
    effects = scene.round(1, run="later", at=701.0)
    (goodbye,) = sent(effects, GoodbyeMessage)
    assert (goodbye.run, "restart this trainer" in goodbye.detail) == ("later", True)
    assert (started(effects), scene.session.working) == (None, None)
    assert [one.reason for one in sent(scene.beacon(2, at=720.0), GoodbyeMessage)] == ["limit"], "it goes on"
    scene.take(WorkerUnblocked(), at=730.0)
    effects = scene.round(2, at=731.0)
    assert [hello.run for hello in sent(effects, Hello)] == ["run"]
    assert started(effects) == 2


def test_rows_that_were_read_again_are_offered_to_all_runs_but_not_beyond_the_budget() -> None:
    scene = Scene()
    scene.session.budget = Budget(1)
    for run, error in (("good", None), ("unfit", BadData("3 columns"))):
        scene.round(1, run=run)
        if error is not None:
            scene.take(WorkFailed(run, 1, error))
        else:
            scene.worked(1, run=run)
    scene.hear(Accepted(run="good", term=1, trainer="bob", round=1))
    assert [one.reason for one in sent(scene.round(2, run="good"), GoodbyeMessage)] == ["evaluations"]
    assert "rows read again: 7 rows" in [notice.text for notice in scene.take(RowsRead(7)).notices]
    assert [hello.num_examples for hello in sent(scene.round(1, run="unfit", at=1.0), Hello)] == [7]
    assert scene.session.working == ("unfit", 1), "the same round, with the new rows"
    effects = scene.round(3, run="good")
    assert [one.reason for one in sent(effects, GoodbyeMessage)] == ["evaluations"]


def test_rows_that_cannot_be_read_again_leave_the_session_as_it_was() -> None:
    scene = holding()
    (notice,) = scene.take(RowsRead(BadData("rows.csv: no such file"))).notices
    assert "rows.csv: no such file" in notice.text
    assert (scene.session.num_examples, scene.held(), scene.session.done) == (2, [1], False)


# Every kind of message and of input is handled by name


class Deferred(RunHeader, frozen=True, kw_only=True, tag="deferred"):
    """An answer that a later version might add."""

    trainer: str
    round: int


def test_new_kind_of_answer_does_not_delete_a_pending_result(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "FromAggregator", FromAggregator | Deferred)
    scene = holding()
    packet = Packet("to/bob/", Deferred(run="run", term=1, trainer="bob", round=1), {}, ())  # type: ignore[arg-type]
    with pytest.raises(AssertionError):
        scene.take(MessageReceived(packet))
    assert scene.held() == [1]


def test_unknown_input_is_an_error() -> None:
    with pytest.raises(AssertionError):
        Scene().take("later")  # type: ignore[arg-type]


# Results are pending until they are answered


def test_result_is_resent_with_back_off() -> None:
    scene = holding()
    pauses, attempts = [], []
    for _ in range(8):
        wake_at = scene.session.wake_at
        assert wake_at is not None
        pauses.append(wake_at - scene.now)
        assert sent(scene.take(Tick(), at=wake_at - 0.001), Result) == []
        attempts += [result.attempt for result in sent(scene.take(Tick(), at=wake_at), Result)]
    assert attempts == [2, 3, 4, 5, 6, 7, 8, 9]
    for number, pause in enumerate(pauses):
        middle = min(RESEND_S * 2**number, RESEND_MAX_S)
        assert 0.5 * middle - 0.01 <= pause <= 1.5 * middle + 0.01


@pytest.mark.parametrize(
    "answer",
    [
        Accepted(run="run", term=1, trainer="bob", round=1),
        Refused(run="run", term=1, trainer="bob", round=1, reason="round", detail="too late"),
        Beacon(run="run", term=1, round=1, open=True, acknowledged=b"\1"),
        Finished(run="run", term=1, rounds=1, solved=True),
    ],
    ids=lambda answer: type(answer).__name__,
)
def test_result_is_dropped_when_it_is_answered(answer: Message) -> None:
    scene = holding()
    scene.hear(answer)
    assert scene.held() == []
    assert scene.session.wake_at is None


@pytest.mark.parametrize(
    "message",
    [
        Accepted(run="run", term=1, trainer="bob", round=2),
        Accepted(run="run", term=1, trainer="alice", round=1),
        Accepted(run="other", term=1, trainer="bob", round=1),
        Accepted(run="run", term=0, trainer="bob", round=1),
        Beacon(run="run", term=1, round=1, open=True, acknowledged=b"\xfe"),
        Beacon(run="run", term=1, round=1, open=True),
        Beacon(run="run", term=1, round=2, open=True, acknowledged=b"\1"),
        Presence(trainer="bob", present=False),
    ],
    ids=["other round", "other trainer", "other run", "older life", "other bits", "no bits", "newer round", "no kind"],
)
def test_result_is_kept_when_another_one_is_answered(message: Message) -> None:
    scene = holding()
    scene.hear(message)
    assert scene.held() == [1]


def test_next_round_acknowledges_the_previous_result() -> None:
    for number, bits, held in ((2, 0b1, []), (2, 0b10, [1]), (3, 0b1, [1])):
        scene = holding(1)
        scene.round(number, bits=bits)
        assert scene.held() == held


def test_bitmap_is_ignored_before_the_index_is_known() -> None:
    scene = Scene()
    scene.round(1)
    scene.worked(1)
    scene.beacon(1, 0xFF)
    assert scene.held() == [1]


def test_result_waits_for_the_broker_and_is_sent_soon_after() -> None:
    scene = Scene()
    scene.round(1)
    scene.take(BrokerDisconnected())
    assert scene.worked(1).sends == []
    assert scene.session.wake_at is None
    scene.take(BrokerConnected(), at=60.0)
    assert len(sent(scene.take(Tick(), at=60.2), Result)) == 1


def test_only_newest_unanswered_results_are_kept() -> None:
    scene = Scene(connected=False)
    for number in range(1, PENDING_MAX + 3):
        scene.round(number)
        scene.worked(number)
    assert scene.held() == list(range(3, PENDING_MAX + 3))


def test_finished_run_cancels_its_work() -> None:
    scene = Scene()
    scene.round(1)
    assert scene.hear(Finished(run="run", term=1, rounds=1, solved=True)).cancel
    assert scene.session.working is None


# Terms


def test_new_term_gets_hello_and_pending_results() -> None:
    scene = holding(3)
    effects = scene.beacon(0, term=2, at=0.1)
    assert [(hello.term, hello.round) for hello in sent(effects, Hello)] == [(2, 0)]
    assert [(result.term, result.round) for result in sent(effects, Result)] == [(2, 3)]
    scene.beacon(3, 0b1, term=2)
    assert scene.held() == [3], "the index of the old term is invalid"


def test_same_round_of_a_new_term_is_not_worked_on_again() -> None:
    busy = Scene()
    busy.round(3)
    effects = busy.round(3, term=2)
    assert (effects.cancel, effects.start) == (False, None)
    assert [result.term for result in sent(busy.worked(3), Result)] == [2]
    assert holding(3).round(3, term=2).start is None


def test_lower_round_of_a_new_term_is_worked_on() -> None:
    scene = holding(3)
    assert started(scene.round(2, term=2)) == 2
    scene.worked(2)
    assert started(scene.round(4, term=2)) == 4


def test_messages_of_an_old_term_are_ignored() -> None:
    scene = Scene()
    scene.round(3, term=2)
    effects = scene.round(9, term=1)
    assert (effects.cancel, effects.start, effects.sends) == (False, None, [])
    assert not scene.hear(Finished(run="run", term=1, rounds=9, solved=True)).cancel
    assert scene.beacon(9, term=1, at=9.0).sends == []


# Several runs


def test_runs_are_worked_on_one_after_the_other() -> None:
    scene = Scene()
    assert started(scene.round(1, run="one")) == 1
    assert scene.round(5, run="two").start is None
    assert scene.round(6, run="two").start is None
    effects = scene.worked(1, run="one")
    assert started(effects) == 6
    assert scene.session.working == ("two", 6)


def test_waiting_round_of_an_old_term_is_not_started() -> None:
    scene = holding(3)
    scene.round(1, run="other")
    scene.round(5)
    scene.round(3, term=2)  # held already
    assert scene.worked(1, run="other").start is None
    assert started(scene.round(4, term=2)) == 4


# The end


def test_stop_waits_for_work_and_acknowledgement_then_sends_goodbye() -> None:
    scene = Scene()
    scene.round(1)
    scene.welcome()
    effects = scene.take(StopRequested())
    assert (effects.cancel, effects.sends, scene.session.done) == (False, [], False)
    assert len(sent(scene.worked(1, at=1.0), Result)) == 1
    assert not scene.session.done
    effects = scene.hear(Accepted(run="run", term=1, trainer="bob", round=1))
    assert sent(effects, GoodbyeMessage) == [GoodbyeMessage(run="run", term=1, trainer="bob", reason="leaving")]
    assert scene.session.done
    assert scene.take(Tick(), at=9.0).sends == [], "Goodbye is sent once"


def test_stop_is_limited_in_time() -> None:
    scene = Scene()
    scene.round(1)
    scene.take(StopRequested())
    assert scene.session.wake_at == STOP_S
    assert not scene.take(Tick(), at=STOP_S - 0.01).cancel
    effects = scene.take(Tick(), at=STOP_S)
    assert (effects.cancel, scene.session.done) == (True, True)
    assert len(sent(effects, GoodbyeMessage)) == 1


@pytest.mark.parametrize("how", ["asked twice", "no broker", "nothing to do"])
def test_stop_is_immediate_without_pending_work(how: str) -> None:
    scene = Scene() if how == "nothing to do" else holding()
    if how == "no broker":
        scene.take(BrokerDisconnected())
    if how == "asked twice":
        scene.take(StopRequested())
        assert not scene.session.done
    scene.take(StopRequested())
    assert scene.session.done


def test_stopping_trainer_starts_no_work_and_sends_no_hello() -> None:
    scene = holding()
    scene.round(5, run="other")
    scene.round(2)
    scene.take(StopRequested())
    scene.take(WorkFailed("other", 5, Rejected("shape", "other")))
    assert scene.session.working is None
    assert scene.round(3).start is None
    assert sent(scene.beacon(9, at=1.0), Hello) == []
