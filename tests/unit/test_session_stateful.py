"""The rules of a trainer's session under any sequence of inputs.

Invariants are checked after every step, only from the inputs and outputs of the session.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from fedmq.algorithms.averaging.query import GradientLearner, Train
from fedmq.algorithms.base import encode_query
from fedmq.errors import Rejected
from fedmq.protocol.codec import decode, encode
from fedmq.protocol.messages import (
    Accepted,
    Beacon,
    Finished,
    Goodbye,
    Hello,
    Message,
    Refused,
    Result,
    Round,
    Welcome,
)
from fedmq.runtime.rng import derive_rng
from fedmq.tasks.task_file import find_task
from fedmq.trainer.followed_run import PENDING_SILENT_S, SILENT_S, FollowedRun
from fedmq.trainer.machine import Input, Output, PendingResult, WorkDone, WorkFailed
from fedmq.trainer.session import HELLO_AGAIN_S, PENDING_MAX, RESEND_MAX_S, RUNS_MAX, STOP_S, Session
from fedmq.transport.link import BrokerConnected, BrokerDisconnected, MessageReceived, StopRequested, Tick

TASK = find_task("linear")
RUNS = st.sampled_from(["run-1", "run-2", "run-3"])
EPOCHS = st.integers(1, 4)
ROUNDS = st.integers(1, 12)
WAIT_S = 1.5 * RESEND_MAX_S  # the longest back-off with the longest jitter


class SessionMachine(RuleBasedStateMachine):
    """Bob's session, its worker, and its messages."""

    def __init__(self) -> None:
        super().__init__()
        self.session, self.now, self.connected = Session("bob", 2, "test", derive_rng(1, "jitter")), 0.0, False
        self.work: tuple[str, int] | None = None  # what the worker does
        self.terms: dict[str, int] = {}  # the highest received, by run
        self.said_hello: dict[str, tuple[int, float]] = {}
        self.stop_by: float | None = None
        self.heard_at: dict[str, float] = {}  # or connected since then, by run; not those that are over
        self.spool: dict[tuple[str, int], PendingResult] = {}  # what outlives the process

    # --- inputs -------------------------------------------------------------------------------------------------

    @rule(run=RUNS, term=EPOCHS, number=ROUNDS, bits=st.integers(0, 3))
    def round(self, run: str, term: int, number: int, bits: int) -> None:
        work, model = Train(GradientLearner()), np.zeros(3)
        self.hear(
            Round(
                run=run,
                term=term,
                round=number,
                seed=0,
                deadline_s=10.0,
                task=TASK,
                query=encode_query(work),
                acknowledged=bytes([bits]),
            ),
            model=model,
        )

    @rule(number=st.integers(1, 100))
    def a_round_of_one_run_of_many(self, number: int) -> None:
        self.round(f"many-{number}", 1, 1, 0)

    @rule(first=st.integers(1, 100))
    def the_newest_round_of_each_of_many_runs(self, first: int) -> None:
        for number in range(first, first + RUNS_MAX + 1):
            self.round(f"many-{number}", 1, 1, 0)

    @rule(first=st.integers(1, 100))
    def the_end_of_each_of_many_runs(self, first: int) -> None:
        for number in range(first, first + RUNS_MAX + 1):
            self.finished(f"many-{number}", 1)

    @rule(run=RUNS, ahead=st.integers(0, 1))
    def the_next_round(self, run: str, ahead: int) -> None:
        known = self.session.runs.get(run)
        self.round(run, self.terms.get(run, 1), max(1, 0 if known is None else known.round + ahead), 0)

    @rule(run=RUNS, term=EPOCHS, number=ROUNDS, bits=st.integers(0, 3), opened=st.booleans())
    def beacon(self, run: str, term: int, number: int, bits: int, opened: bool) -> None:
        self.hear(Beacon(run=run, term=term, round=number, open=opened, acknowledged=bytes([bits])))

    @rule(run=RUNS, term=EPOCHS, index=st.integers(0, 9), trainer=st.sampled_from(["bob", "bob", "eve"]))
    def welcome(self, run: str, term: int, index: int, trainer: str) -> None:
        self.hear(Welcome(run=run, term=term, trainer=trainer, index=index))

    @rule(run=RUNS, term=EPOCHS, number=ROUNDS, trainer=st.sampled_from(["bob", "bob", "eve"]), good=st.booleans())
    def answer(self, run: str, term: int, number: int, trainer: str, good: bool) -> None:
        if good:
            self.hear(Accepted(run=run, term=term, trainer=trainer, round=number))
        else:
            self.hear(Refused(run=run, term=term, trainer=trainer, round=number, reason="round", detail="too old"))

    @rule(run=RUNS, term=EPOCHS)
    def finished(self, run: str, term: int) -> None:
        self.hear(Finished(run=run, term=term, rounds=3, solved=True))

    @rule()
    def connect(self) -> None:
        self.connected = True
        may_speak = {run for run, heard_at in self.heard_at.items() if heard_at > -math.inf}
        self.heard_at |= dict.fromkeys(may_speak | {run for run, _ in self.held}, self.now)
        self.take(BrokerConnected())

    @rule()
    def disconnect(self) -> None:
        self.connected = False
        self.take(BrokerDisconnected())

    @precondition(lambda self: self.work is not None)
    @rule()
    def work_is_done(self) -> None:
        assert self.work is not None
        (run, number), self.work = self.work, None
        self.take(WorkDone(run, number, {"model": np.zeros(3)}, 0.1, 2))

    @precondition(lambda self: self.work is not None)
    @rule()
    def work_fails(self) -> None:
        assert self.work is not None
        (run, number), self.work = self.work, None
        self.take(WorkFailed(run, number, Rejected("shape", "other")))

    @rule(run=RUNS, number=ROUNDS)
    def work_that_was_cancelled_is_done(self, run: str, number: int) -> None:
        if (run, number) != self.work:
            before = self.held
            assert self.take(WorkDone(run, number, {"model": np.zeros(3)}, 0.1, 2)).start is None
            assert self.held == before

    @rule(wait_s=st.sampled_from([0.0, 0.01, 0.3, 1.0, 5.0, PENDING_SILENT_S]))
    def time_passes(self, wait_s: float) -> None:
        self.now += wait_s
        self.take(Tick())

    @rule(run=RUNS)
    def a_round_is_worked_through(self, run: str) -> None:
        self.the_next_round(run, 1)
        if self.work is not None:
            self.work_is_done()

    @precondition(lambda self: self.connected and not self.session.done)
    @rule(acknowledged=st.booleans())
    def everything_held_is_sent_again_in_time(self, acknowledged: bool) -> None:
        """Check the newest of each run, and the others once that one is acknowledged."""
        missing = (
            self.held if acknowledged else {(run, max(known.pending)) for run, known in self.runs if known.pending}
        )
        until = self.now + WAIT_S
        while missing and (wake_at := self.session.wake_at) is not None and wake_at <= until:
            self.now = max(self.now, wake_at)
            sent = self.results_in(self.take(Tick()))
            while sent:
                run, number = sent.pop()
                missing.discard((run, number))
                if acknowledged:
                    accepted = Accepted(run=run, term=self.terms[run], trainer="bob", round=number)
                    sent += self.results_in(self.take(MessageReceived(decode(encode("topic", accepted)))))
            if self.session.done:
                return
        assert not missing, "each pending result is sent again in bounded time"

    @rule()
    def the_trainer_is_killed_and_starts_again(self) -> None:
        self.session = Session("bob", 2, "test", derive_rng(1, "jitter"), list(self.spool.values()))
        self.work, self.connected, self.stop_by, self.said_hello, self.heard_at = None, False, None, {}, {}
        self.terms = {run: known.term for run, known in self.runs}
        assert self.held == set(self.spool), "unacknowledged results are pending again"

    @rule()
    def stop(self) -> None:
        again = self.stop_by is not None
        self.stop_by = self.stop_by or self.now + STOP_S
        self.take(StopRequested())
        assert self.session.done or not again, "a second request stops at once"

    # --- invariants ---------------------------------------------------------------------------------------------

    @property
    def runs(self) -> Iterable[tuple[str, FollowedRun]]:
        return self.session.runs.items()

    @staticmethod
    def results_in(effects: Output) -> list[tuple[str, int]]:
        return [(one.message.run, one.message.round) for one in effects.sends if isinstance(one.message, Result)]

    @property
    def held(self) -> set[tuple[str, int]]:
        return {(run, number) for run, known in self.runs for number in known.pending}

    def hear(self, message: Message, **arrays: Any) -> None:
        assert isinstance(message, Round | Beacon | Finished | Welcome | Accepted | Refused)
        old = message.run in self.session.runs and message.term < self.terms[message.run]
        self.take(Tick())  # what is due now is not the message's doing
        before = self.all_that_it_knows() if old else None
        followed = {run for run, known in self.runs if known.declined is None}  # the others may be replaced at once
        working = self.session.working
        effects = self.take(MessageReceived(decode(encode("topic", message, arrays))))
        assert not effects.cancel or (working or "")[0] == message.run, "no run cancels the work of another"
        for run in {*followed, *(run for run, _ in effects.drops)} - {*self.session.runs, message.run}:
            held = any(dropped == run for dropped, _ in effects.drops)
            silent_s = self.now - self.heard_at.get(run, -math.inf)
            assert silent_s >= (PENDING_SILENT_S if held else SILENT_S), "a run that is not silent is not replaced"
        if old:
            assert effects == Output(notices=effects.notices), "a lower term has no effect but a line in the log"
            assert self.all_that_it_knows() == before
        else:
            self.terms[message.run] = message.term
            self.heard_at[message.run] = -math.inf if isinstance(message, Finished) else self.now

    def all_that_it_knows(self) -> Any:
        runs = {run: repr(known) for run, known in self.session.runs.items()}
        return copy.deepcopy((runs, self.session.working, self.session.wake_at, list(self.session._next)))

    def take(self, event: Input) -> Output:
        was_done = self.session.done
        effects = self.session.step(event, self.now)
        if effects.cancel:
            self.work = None
        if effects.start is not None:
            message = effects.start.message
            assert isinstance(message, Round)
            assert self.work is None, "one work at a time"
            assert self.stop_by is None, "no new work while stopping"
            self.work = (message.run, message.round)
        for kept in effects.keeps:
            self.spool[kept.run, kept.round] = kept
        for dropped in effects.drops:
            self.spool.pop(dropped)
        results = self.results_in(effects)
        assert set(results) <= set(self.spool), "a result is saved before it is sent"
        assert len({run for run, _ in results}) == len(results), "one result of each run is in flight"
        assert self.connected or not results, "no result is sent without a broker"
        for one in effects.sends:
            assert not was_done, "nothing is sent after the end"
            if isinstance(one.message, Hello):
                self.check_hello(one.message)
            if isinstance(one.message, Goodbye):
                assert self.session.done or self.session.runs[one.message.run].declined
            assert one.message.term == self.session.runs[one.message.run].term
        return effects

    def check_hello(self, hello: Hello) -> None:
        term, said_at = self.said_hello.get(hello.run, (0, -1.0))
        # A run that was replaced by others may be followed again.
        known = hello.run in self.terms and not hello.run.startswith("many-")
        if known and term == hello.term and len(self.session.runs) < RUNS_MAX:
            assert self.now >= said_at + HELLO_AGAIN_S, "Hello is rate-limited"
        self.said_hello[hello.run] = (hello.term, self.now)

    @invariant()
    def it_works_on_what_its_worker_does(self) -> None:
        assert self.session.done or self.session.working == self.work

    @invariant()
    def its_spool_has_what_it_holds(self) -> None:
        assert set(self.spool) == self.held

    @invariant()
    def it_is_bounded(self) -> None:
        assert len(self.session.runs) <= RUNS_MAX
        assert len(self.session._next) <= RUNS_MAX
        assert all(len(known.pending) <= PENDING_MAX for known in self.session.runs.values())

    @invariant()
    def it_never_asks_to_be_woken_in_the_past(self) -> None:
        wake_at = self.session.wake_at
        assert self.session.done or wake_at is None or wake_at > self.now

    @invariant()
    def it_ends_in_time(self) -> None:
        if self.stop_by is not None:
            assert self.session.done or self.now < self.stop_by
            assert self.session.done or (self.session.wake_at or 0.0) <= self.stop_by, "it wakes up for the end"

    @invariant()
    def an_term_never_falls(self) -> None:
        for run, known in self.session.runs.items():
            assert known.term == self.terms[run]


TestSession = SessionMachine.TestCase
TestSession.settings = settings(
    max_examples=200,
    stateful_step_count=60,
    derandomize=True,  # the same sequences in every run; what fails is printed as a program
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
