"""What happened in a run, as a closed set of frozen values: for `events.jsonl`, progress and observers.

Knows nothing of who listens. Times are added by who passes them on. docs/events.md lists them, field by field; a field
that came later has a default, so that the events of older runs can still be read.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fedmq.errors import RejectReason
from fedmq.models.code import Model
from fedmq.protocol.messages import Seconds

BEST_PARAMETERS_MAX = 512  # a model of more weights is not told round by round; it is in the run's folder at the end

Genes = Annotated[bytes, Meta(max_length=8 * BEST_PARAMETERS_MAX)]  # (genes,) float64, little-endian
Figure = Annotated[float, Meta(ge=-1e300, le=1e300)]  # neither NaN nor infinity gets where it would be drawn
Why = Literal["complete", "deadline"]  # a round was closed: all who were there had answered, or its time was over
End = Literal["solved", "rounds", "stopped"]  # a run: its target is reached, its rounds are used up, by an operator


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Root of all events; `event` names the kind in JSON."""


class Best(msgspec.Struct, frozen=True, kw_only=True):
    """The candidate that would be deployed, and the pool around it. Fitness is minus the loss per row."""

    value: Figure  # the task's metric
    coverage: Figure  # share of the members' rows on which it has been scored
    fitness: Figure
    fitness_mean: Figure
    fitness_worst: Figure
    diversity: float


class RunStarted(Event, frozen=True, kw_only=True, tag="run-started"):
    """An aggregator began a run, or goes on with it `again`."""

    run: str
    term: int
    again: bool = False
    round: int
    task: str
    strategy: str
    seed: int
    robust: str = ""
    metric: str = ""  # "accuracy" or "loss",
    target: float | None = None  # and what it must reach
    rounds_max: int = 0
    min_trainers: int = 0
    model: Model | None = None


class RoundPublished(Event, frozen=True, kw_only=True, tag="round-published"):
    """A round is open."""

    round: int
    invited: int


class TrainerJoined(Event, frozen=True, kw_only=True, tag="trainer-joined"):
    """A trainer offered itself, or is back."""

    trainer: str
    num_examples: int
    version: str = ""  # of fedmq, once it said so
    labels: tuple[str, ...] = ()
    fingerprint: str = ""  # of its key, where there are keys


class TrainerSuspected(Event, frozen=True, kw_only=True, tag="trainer-suspected"):
    """A trainer let a deadline pass, and the broker says that it is there."""

    trainer: str


class TrainerLeft(Event, frozen=True, kw_only=True, tag="trainer-left"):
    """A trainer's inbox disappeared, or it said goodbye."""

    trainer: str
    goodbye: bool


class TrainerBarred(Event, frozen=True, kw_only=True, tag="trainer-barred"):
    """An operator keeps a trainer out, until it is readmitted or the aggregator begins a new life."""

    trainer: str
    how: Literal["drained", "banned"]  # drained: its answer to the open round still counts


class TrainerReadmitted(Event, frozen=True, kw_only=True, tag="trainer-readmitted"):
    """An operator lets a trainer take part again."""

    trainer: str


class ResultAccepted(Event, frozen=True, kw_only=True, tag="result-accepted"):
    """A result is on disk and counts, `staleness` rounds after the one that it answers."""

    round: int
    trainer: str
    staleness: int
    train_s: Seconds  # of local work
    answer_s: Seconds = 0.0  # from the round's publication to the result's arrival; 0: unknown, it was late
    cpu_s: Seconds = 0.0  # that the trainer's process has used in all,
    memory: int = 0  # and the most bytes that it has held


class ResultResent(Event, frozen=True, kw_only=True, tag="result-resent"):
    """A result came again that is on disk already; it does not count again."""

    round: int
    trainer: str


class ResultRejected(Event, frozen=True, kw_only=True, tag="result-rejected"):
    """Something that came cannot be used; "" when it does not even say from whom it is."""

    trainer: str
    reason: RejectReason
    detail: str


class RoundClosed(Event, frozen=True, kw_only=True, tag="round-closed"):
    """A round is over."""

    round: int
    why: Why
    results: int
    round_s: Seconds
    present: int
    best: Best | None  # None before anything is known
    late: int = 0  # of `results`, those that answer an earlier round
    rejected: int = 0  # since the round before was closed
    bytes_up: int = 0  # the same, as they came to the aggregator
    bytes_down: int = 0  # and as it sent them


class BestChanged(Event, frozen=True, kw_only=True, tag="best-changed"):
    """Another model would be deployed now; told of models with two inputs and few weights, that can be drawn."""

    round: int  # the one that was closed with it
    genes: Genes


class CheckpointKept(Event, frozen=True, kw_only=True, tag="checkpoint-kept"):
    """The state after this round is on disk: a next life need not begin before it."""

    round: int


class Stalled(Event, frozen=True, kw_only=True, tag="stalled"):
    """Nothing has come for the open round for a while; told once for each stall."""

    round: int
    seconds: Seconds
    missing: tuple[str, ...]  # some of the trainers that have not answered


class Waiting(Event, frozen=True, kw_only=True, tag="waiting"):
    """No round is opened before more trainers are there."""

    present: int
    needed: int


class RunPaused(Event, frozen=True, kw_only=True, tag="run-paused"):
    """An operator paused the run: no other round is opened."""


class RunResumed(Event, frozen=True, kw_only=True, tag="run-resumed"):
    """An operator resumed the run."""


class RunFinished(Event, frozen=True, kw_only=True, tag="run-finished"):
    """The run is over."""

    solved: bool
    rounds: int
    value: Figure | None
    why: Literal["", End] = ""  # "" in what was told before there was this

    @property
    def verdict(self) -> str:
        """What it came to, for people."""
        if self.why == "stopped":
            return "not solved, stopped by an operator"
        return "solved" if self.solved else "not solved"


AnyEvent = (
    RunStarted
    | RoundPublished
    | TrainerJoined
    | TrainerSuspected
    | TrainerLeft
    | TrainerBarred
    | TrainerReadmitted
    | ResultAccepted
    | ResultResent
    | ResultRejected
    | RoundClosed
    | BestChanged
    | CheckpointKept
    | Stalled
    | Waiting
    | RunPaused
    | RunResumed
    | RunFinished
)
