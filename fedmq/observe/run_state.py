"""The state of a run, folded from its events: all observers show this.

Times are in seconds since 1970, by the clock of the aggregator. The state is bounded, however long the run and however
many its trainers: old rounds are thinned out, old work is dropped.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from itertools import pairwise
from operator import attrgetter
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar, get_args

import msgspec
from msgspec import Meta

from fedmq.algorithms.differences import Difference
from fedmq.algorithms.evaluation.figures import Measured, Metrics
from fedmq.algorithms.findings import Findings
from fedmq.errors import LeaveReason
from fedmq.models.networks import Model
from fedmq.observe import events
from fedmq.observe.events import BEST_PARAMETERS_MAX, PackedParameters
from fedmq.protocol.messages import At, OwnMetrics, Seconds
from fedmq.protocol.run_config import RunConfig
from fedmq.tasks.task import TRAINERS_MAX

ROUNDS_KEPT_MAX = 10_240  # beyond that, every other round of the older half is dropped
BESTS_KEPT_MAX = 2_048
WORKS_KEPT_MAX = 1_024
FEED_KEPT_MAX = 256  # at most a quarter of it closes and checkpoints, so that quick rounds displace no other event
TRAINERS_KEPT_MAX = TRAINERS_MAX
STALLED_S = 15.0  # without progress in an open round
RATE_ROUNDS = 20  # the last rounds, from which the remaining time is estimated

T = TypeVar("T")
TrainerPresence = Literal["alive", "suspect", "silent", "gone"]
Condition = Literal["running", "waiting", "paused", "stalled", "interrupted", "solved", "finished", "stopped", "failed"]


class TrainerRecord(msgspec.Struct):
    """One trainer. `touched`, here and below, is the number of the last event that changed the record."""

    name: str
    presence: TrainerPresence = "alive"
    num_examples: int = 0
    results: int = 0
    late: int = 0
    rejected: int = 0
    resent: int = 0
    joined_at: At = 0.0
    seen_at: At = 0.0
    train_s: Seconds = 0.0  # of its last result
    round_trip_s: Seconds = 0.0  # the rest of the time from publication to arrival
    cpu: events.Figure = 0.0  # share of one core between its last two results
    cpu_s: Seconds = 0.0
    memory: int = 0  # peak, in bytes
    version: str = ""
    labels: tuple[str, ...] = ()
    fingerprint: str = ""
    barred: Literal["", "drained", "banned", "duplicated", "unselected"] = ""
    reason: Literal["", LeaveReason] = ""  # of its goodbye, while it is gone
    detail: str = ""
    held_out: Metrics | None = None  # figures of the best model on its held-out rows, if it permits them
    differences: tuple[Difference, ...] = ()  # of its rows from those of the others
    metrics: OwnMetrics = {}  # of its own code, with its last result
    touched: int = 0


class RoundRecord(msgspec.Struct, array_like=True):
    """One round; while it is open, `closed_at`, `round_s` and `best` are None."""

    round: int
    published_at: At
    invited: int = 0
    closed_at: At | None = None
    why: Literal["", events.Why] = ""
    round_s: Seconds | None = None
    results: int = 0
    late: int = 0
    rejected: int = 0
    present: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    best: events.Best | None = None
    saturated: int = 0
    restarted: bool = False
    metrics: OwnMetrics = {}  # of the own code of trainers: the mean over their rows
    touched: int = 0
    secure: bool = False  # `results` are one secure sum


class WorkRecord(msgspec.Struct, array_like=True):
    """The work of a trainer for one result. `began_at` is when the round was published."""

    round: int
    trainer: str
    began_at: At
    ended_at: At
    train_s: Seconds
    staleness: int
    touched: int = 0


class FeedItem(msgspec.Struct, frozen=True, array_like=True):
    """An event for people to read, with its time."""

    at: At
    event: events.AnyEvent
    touched: int = 0


class BestRecord(msgspec.Struct, frozen=True, array_like=True):
    """The best model from the close of `round` on."""

    round: int
    parameters: PackedParameters
    touched: int = 0


class FromConfig(Generic[T]):
    """An attribute of `RunState` with the value of a setting in its config, or `default` before the first event."""

    def __init__(self, setting: str, default: T) -> None:
        self._read: Callable[[RunConfig], T] = attrgetter(setting)
        self._default = default

    def __get__(self, state: RunState, _owner: type) -> T:
        return self._default if state.config is None else self._read(state.config)


class RunState(msgspec.Struct):
    """The state of one run after `seq` events, each passed to `apply` in order.

    `rounds` are in order; `trainers` are by name, in the order of their first appearance.
    """

    config: RunConfig | None = None  # None before the first event
    term: int = 0
    seq: int = 0
    started_at: At = 0.0
    progress_at: At = 0.0  # of the last start, resumption, opened or closed round, or result
    event_at: At = 0.0
    paused: bool = False
    waiting: tuple[int, int] | None = None  # trainers present, trainers needed
    finished: events.RunFinished | None = None
    results: int = 0
    late: int = 0
    resent: int = 0
    rejections: dict[str, int] = {}
    checkpoint: int = 0  # the last round with its state on disk
    train_s: Seconds = 0.0  # total time of open rounds
    bytes_up: int = 0  # received by the aggregator
    bytes_down: int = 0  # sent by the aggregator
    trainers: Annotated[dict[str, TrainerRecord], Meta(max_length=TRAINERS_KEPT_MAX)] = {}
    rounds: Annotated[list[RoundRecord], Meta(max_length=ROUNDS_KEPT_MAX)] = []
    works: Annotated[list[WorkRecord], Meta(max_length=2 * WORKS_KEPT_MAX)] = []
    measured: Measured | None = None  # the newest figures on held-out rows
    findings: Findings | None = None  # the newest: genes of the best candidate, the front, correlations
    bests: Annotated[list[BestRecord], Meta(max_length=BESTS_KEPT_MAX)] = []
    feed: Annotated[list[FeedItem], Meta(max_length=2 * FEED_KEPT_MAX)] = []

    run = FromConfig("run", "")
    task = FromConfig("task.name", "")
    algorithm = FromConfig("algorithm", "")
    metric = FromConfig("task.metric", "")
    target = FromConfig[float | None]("task.target", None)
    model = FromConfig[Model | None]("task.model", None)
    seed = FromConfig("seed", 0)
    secure = FromConfig("secure", False)
    rounds_max = FromConfig("limits.rounds_max", 0)
    min_trainers = FromConfig("limits.min_trainers", 0)

    @property
    def robust(self) -> str:
        """Return the robust rule of the algorithm, or "" without one."""
        rule = "none" if self.config is None else str(self.config.parameters.get("rule", "none"))
        return "" if rule == "none" else rule

    @property
    def privacy(self) -> str:
        """What a private run has spent, for people; "" of another run."""
        if self.config is None or self.config.privacy is None:
            return ""
        return self.config.privacy.text(self.newest.round if self.newest else 0)

    @property
    def newest(self) -> RoundRecord | None:
        return self.rounds[-1] if self.rounds else None

    @property
    def best(self) -> events.Best | None:
        """The figures of the best model at the last close."""
        closed = (one.best for one in reversed(self.rounds[-2:]) if one.closed_at is not None)
        return next(closed, None)

    @property
    def present(self) -> int:
        """The number of trainers that are connected."""
        return sum(one.presence != "gone" for one in self.trainers.values())

    def apply(self, at: float, event: events.AnyEvent) -> None:
        """Update the state by `event`, which happened at that time."""
        self.seq += 1
        self.event_at = at
        _APPLY[type(event)](self, at, event)
        if not isinstance(event, _NOT_IN_FEED):
            self.feed.append(FeedItem(at, event, self.seq))
            if len(self.feed) >= 2 * FEED_KEPT_MAX:
                frequent = [one for one in self.feed if isinstance(one.event, _FREQUENT)][-FEED_KEPT_MAX // 4 :]
                others = [one for one in self.feed if not isinstance(one.event, _FREQUENT)][-FEED_KEPT_MAX:]
                self.feed = sorted([*others, *frequent], key=lambda one: one.touched)

    # --- each kind of event -------------------------------------------------------------------------------------

    def _run_started(self, at: float, event: events.RunStarted) -> None:
        self.config, self.term = event.config, event.term
        self.started_at = self.started_at or at
        self.progress_at = at
        self.paused, self.waiting, self.finished = False, None, None
        for trainer in self.trainers.values():  # a restarted aggregator knows neither connected nor barred trainers
            self._set_presence(trainer, "gone")
            if trainer.barred:
                trainer.barred, trainer.touched = "", self.seq

    def _round_published(self, at: float, event: events.RoundPublished) -> None:
        self.progress_at = at
        self.paused, self.waiting, self.finished = False, None, None  # an event that ends these may be lost
        self._append(RoundRecord(event.round, at, event.invited, touched=self.seq))

    def _round_closed(self, at: float, event: events.RoundClosed) -> None:
        one = self.rounds[-1] if self.rounds and self.rounds[-1].round == event.round else None
        if one is None:
            one = RoundRecord(event.round, at - event.round_s)
            self._append(one)
        one.closed_at, one.why, one.round_s, one.results = at, event.why, event.round_s, event.results
        one.late, one.rejected, one.present, one.best = event.late, event.rejected, event.present, event.best
        one.bytes_up, one.bytes_down, one.touched = event.bytes_up, event.bytes_down, self.seq
        one.saturated, one.restarted, one.metrics = event.saturated, event.restarted, event.metrics or {}
        one.secure = event.secure
        self.train_s += event.round_s
        self.bytes_up += event.bytes_up
        self.bytes_down += event.bytes_down
        self.progress_at = at

    def _trainer_joined(self, at: float, event: events.TrainerJoined) -> None:
        trainer = self._trainer(event.trainer, at)
        if trainer is None:
            return
        trainer.presence, trainer.joined_at, trainer.num_examples = "alive", at, event.num_examples
        trainer.version = event.version or trainer.version
        trainer.labels = event.labels or trainer.labels
        trainer.fingerprint = event.fingerprint or trainer.fingerprint
        trainer.reason = trainer.detail = ""

    def _trainer_suspected(self, at: float, event: events.TrainerSuspected) -> None:
        if event.trainer in self.trainers:
            self._set_presence(self.trainers[event.trainer], "suspect")

    def _trainer_silent(self, at: float, event: events.TrainerSilent) -> None:
        if event.trainer in self.trainers and self.trainers[event.trainer].presence != "gone":
            self._set_presence(self.trainers[event.trainer], "silent")

    def _trainer_returned(self, at: float, event: events.TrainerReturned) -> None:
        if event.trainer in self.trainers:
            self._set_presence(self.trainers[event.trainer], "alive")

    def _trainer_left(self, at: float, event: events.TrainerLeft) -> None:
        if event.goodbye:  # a trainer may decline a run that it has not joined
            self._trainer(event.trainer, at)
        if event.trainer in self.trainers:
            trainer = self.trainers[event.trainer]
            self._set_presence(trainer, "gone")
            trainer.reason, trainer.detail = event.reason, event.detail

    def _trainer_barred(self, at: float, event: events.TrainerBarred) -> None:
        self._bar(event.trainer, event.how)

    def _trainer_readmitted(self, at: float, event: events.TrainerReadmitted) -> None:
        self._bar(event.trainer, "")

    def _result_accepted(self, at: float, event: events.ResultAccepted) -> None:
        self.results += 1
        self.late += event.staleness > 0
        self.progress_at = at
        if self.rounds and self.rounds[-1].closed_at is None:
            self.rounds[-1].results += 1
            self.rounds[-1].late += event.staleness > 0
            self.rounds[-1].touched = self.seq
        before = self.trainers[event.trainer].seen_at if event.trainer in self.trainers else at
        trainer = self._trainer(event.trainer, at)
        if trainer is None:
            return
        trainer.presence = "alive"
        trainer.results += 1
        trainer.late += event.staleness > 0
        trainer.train_s = event.train_s
        trainer.round_trip_s = max(0.0, event.answer_s - event.train_s) if event.answer_s else trainer.round_trip_s
        if trainer.cpu_s and at > before:
            trainer.cpu = max(0.0, event.cpu_s - trainer.cpu_s) / (at - before)
        trainer.cpu_s, trainer.memory = event.cpu_s, event.memory
        trainer.metrics = event.metrics or trainer.metrics
        began = at - (event.answer_s or event.train_s)
        work = WorkRecord(event.round, event.trainer, began, at, event.train_s, event.staleness, self.seq)
        self.works.append(work)
        if len(self.works) >= 2 * WORKS_KEPT_MAX:
            del self.works[:WORKS_KEPT_MAX]

    def _result_resent(self, at: float, event: events.ResultResent) -> None:
        self.resent += 1
        if (trainer := self._trainer(event.trainer, at)) is not None:
            trainer.resent += 1

    def _result_rejected(self, at: float, event: events.ResultRejected) -> None:
        self.rejections[event.reason] = self.rejections.get(event.reason, 0) + 1
        if event.trainer in self.trainers:
            trainer = self.trainers[event.trainer]
            trainer.rejected += 1
            trainer.touched = self.seq

    def _best_changed(self, at: float, event: events.BestChanged) -> None:
        self.bests.append(BestRecord(event.round, event.parameters, self.seq))
        if len(self.bests) >= BESTS_KEPT_MAX:
            half = BESTS_KEPT_MAX // 2
            self.bests[:half] = self.bests[:half:2]

    def _model_measured(self, at: float, event: events.ModelMeasured) -> None:
        self.measured = event.measured
        for name, held_out in event.measured.trainers.items():
            if name in self.trainers:
                self.trainers[name].held_out, self.trainers[name].touched = held_out, self.seq

    def _findings_changed(self, at: float, event: events.FindingsChanged) -> None:
        self.findings = event.findings

    def _site_differs(self, at: float, event: events.SiteDiffers) -> None:
        if event.trainer in self.trainers:
            trainer = self.trainers[event.trainer]
            trainer.differences, trainer.touched = event.differences, self.seq

    def _checkpoint_kept(self, at: float, event: events.CheckpointKept) -> None:
        self.checkpoint = event.round

    def _stalled(self, at: float, event: events.Stalled) -> None:
        """Change only the feed: `progress_at` gives the length of a stall."""

    def _sum_abandoned(self, at: float, event: events.SumAbandoned) -> None:
        """Change only the feed: the round opens again, or closes."""

    def _waiting(self, at: float, event: events.Waiting) -> None:
        self.waiting = event.present, event.needed

    def _run_paused(self, at: float, event: events.RunPaused) -> None:
        self.paused = True

    def _run_resumed(self, at: float, event: events.RunResumed) -> None:
        self.paused, self.progress_at = False, at

    def _run_finished(self, at: float, event: events.RunFinished) -> None:
        self.finished = event
        if self.rounds and self.rounds[-1].closed_at is None:  # it never closes
            del self.rounds[-1]

    # --- inside -------------------------------------------------------------------------------------------------

    def _append(self, row: RoundRecord) -> None:
        """Append the newest round. Drop it and later ones first: a restart may repeat rounds."""
        while self.rounds and self.rounds[-1].round >= row.round:
            del self.rounds[-1]
        while self.bests and self.bests[-1].round >= row.round:
            del self.bests[-1]
        self.rounds.append(row)
        if len(self.rounds) >= ROUNDS_KEPT_MAX:
            half = ROUNDS_KEPT_MAX // 2
            self.rounds[:half] = self.rounds[:half:2]

    def _trainer(self, name: str, at: float) -> TrainerRecord | None:
        """Return the record of a trainer, marked as seen now, or None if there are too many."""
        trainer = self.trainers.get(name)
        if trainer is None:
            if len(self.trainers) >= TRAINERS_KEPT_MAX:
                return None
            trainer = self.trainers[name] = TrainerRecord(name, joined_at=at)
        trainer.seen_at, trainer.touched = at, self.seq
        return trainer

    def _set_presence(self, trainer: TrainerRecord, presence: TrainerPresence) -> None:
        if trainer.presence != presence:
            trainer.presence, trainer.touched = presence, self.seq

    def _bar(self, name: str, barred: Literal["", "drained", "banned", "duplicated", "unselected"]) -> None:
        if name in self.trainers:
            self.trainers[name].barred, self.trainers[name].touched = barred, self.seq


class ObservedRun(NamedTuple):
    """A run at time `now`, by the clock of its aggregator; `connected` is whether that is connected to the broker."""

    run_state: RunState
    now: float
    connected: bool

    @property
    def condition(self) -> Condition:
        state = self.run_state
        if state.finished is not None:
            why = state.finished.why
            return why if why in ("stopped", "failed") else "solved" if state.finished.solved else "finished"
        if not self.connected:
            return "interrupted"
        if state.paused:
            return "paused"
        if state.waiting is not None:
            return "waiting"
        return "stalled" if state.progress_at and self.now - state.progress_at >= STALLED_S else "running"

    @property
    def status_text(self) -> str:
        """The condition as text, with its figures."""
        state, condition = self.run_state, self.condition
        if state.finished is not None:
            return state.finished.verdict
        if condition == "waiting" and state.waiting is not None:
            return f"waiting for trainers ({state.waiting[0]} of {state.waiting[1]})"
        return f"stalled for {self.now - state.progress_at:.0f} s" if condition == "stalled" else condition

    @property
    def left_s(self) -> float | None:
        """Seconds until `rounds_max` at the rate of the last rounds; None if unknown."""
        state = self.run_state
        if self.condition != "running" or not state.rounds_max:
            return None
        closed = [(one.round, one.closed_at) for one in state.rounds[-RATE_ROUNDS - 1 :] if one.closed_at is not None]
        rates = [(at - before) / (later - one) for (one, before), (later, at) in pairwise(closed) if later > one]
        if not rates:
            return None
        return max(0.0, (state.rounds_max - closed[-1][0]) * statistics.median(rates))

    @property
    def idle_s(self) -> float | None:
        """Seconds since the last progress; None if the run is over or has not started."""
        if self.run_state.finished is not None or not self.run_state.progress_at:
            return None
        return max(0.0, self.now - self.run_state.progress_at)


def drawable(model: Model) -> bool:
    """Return whether the model has two inputs and is small enough to be published round by round."""
    return model.inputs == 2 and model.num_parameters <= BEST_PARAMETERS_MAX


_NOT_IN_FEED = (
    events.RoundPublished,
    events.ResultAccepted,
    events.BestChanged,
    events.ModelMeasured,
    events.FindingsChanged,
)  # too many; other lists hold them
_FREQUENT = (events.RoundClosed, events.CheckpointKept)
# The tag of an event names the method that applies it: `_round_closed` for "round-closed".
_APPLY: dict[type, Any] = {
    kind: getattr(RunState, f"_{kind.__struct_config__.tag.replace('-', '_')}") for kind in get_args(events.AnyEvent)
}
