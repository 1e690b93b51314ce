"""What happened in a run, as a closed set of frozen values: for `events.jsonl`, progress and observers.

Knows nothing of who listens. Times are added by the log that writes them.
"""

from __future__ import annotations

import msgspec

from fedmq.errors import RejectReason


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Root of all events; `event` names the kind in JSON."""


class Best(msgspec.Struct, frozen=True, kw_only=True):
    """The candidate that would be deployed, and the pool around it. Fitness is minus the loss per row."""

    value: float  # the task's metric
    coverage: float  # share of the members' rows on which it has been scored
    fitness: float
    fitness_mean: float
    fitness_worst: float
    diversity: float


class RunStarted(Event, frozen=True, kw_only=True, tag="run-started"):
    """An aggregator began (epoch 1) or continued (a higher one) a run."""

    run: str
    epoch: int
    round: int
    task: str
    strategy: str
    seed: int


class RoundPublished(Event, frozen=True, kw_only=True, tag="round-published"):
    """A round is open."""

    round: int
    invited: int


class TrainerJoined(Event, frozen=True, kw_only=True, tag="trainer-joined"):
    """A trainer offered itself, or is back."""

    trainer: str
    samples: int


class TrainerLeft(Event, frozen=True, kw_only=True, tag="trainer-left"):
    """A trainer's inbox disappeared, or it said goodbye."""

    trainer: str
    goodbye: bool


class ResultAccepted(Event, frozen=True, kw_only=True, tag="result-accepted"):
    """A result is on disk and counts, `staleness` rounds after the one that it answers."""

    round: int
    trainer: str
    staleness: int
    train_s: float


class ResultRejected(Event, frozen=True, kw_only=True, tag="result-rejected"):
    """Something that came cannot be used; "" when it does not even say from whom it is."""

    trainer: str
    reason: RejectReason
    detail: str


class RoundClosed(Event, frozen=True, kw_only=True, tag="round-closed"):
    """A round is over."""

    round: int
    why: str  # "complete" or "deadline"
    results: int
    round_s: float
    present: int
    best: Best | None  # None before anything is known


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
    value: float | None


AnyEvent = (
    RunStarted
    | RoundPublished
    | TrainerJoined
    | TrainerLeft
    | ResultAccepted
    | ResultRejected
    | RoundClosed
    | Waiting
    | RunPaused
    | RunResumed
    | RunFinished
)
