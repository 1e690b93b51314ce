"""The events of a run, as a closed set of frozen values: for `events.jsonl`, the terminal and observers.

Events carry no time; the writer adds it. docs/events.md documents each field. A field added later has a default, so
that events of older runs can still be read.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from fedmq.algorithms.differences import Difference
from fedmq.algorithms.evaluation.figures import Measured, RowsOf
from fedmq.algorithms.findings import Findings
from fedmq.errors import LeaveReason, RejectReason
from fedmq.protocol.messages import OwnMetrics, Seconds
from fedmq.protocol.run_config import RunConfig

HELD_OUT_FIGURES = ("balanced_accuracy", "auc", "log_loss", "rmse", "r2")  # of `Best`; None if they do not fit the task
BEST_PARAMETERS_MAX = 512  # larger models are not published round by round; the run's folder has them at the end

PackedParameters = Annotated[bytes, Meta(max_length=8 * BEST_PARAMETERS_MAX)]  # (num_parameters,) float64, "<f8"
Figure = Annotated[float, Meta(ge=-1e300, le=1e300)]  # excludes NaN and infinity, which cannot be drawn
# Why a round closed: all invited trainers answered, its deadline passed, enough results arrived, or the question of a
# secure run is answered already.
Why = Literal["complete", "deadline", "buffer", "spent"]
# Target reached, nothing left to learn, no rounds left, by a user, no trainers left.
End = Literal["solved", "done", "rounds", "stopped", "failed"]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="event"):
    """Base class of all events; `event` names the kind in JSON."""


class Best(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Figures of the best model, and of the pool it comes from. Fitness is minus the loss per row trained on."""

    value: Figure  # the task's metric
    coverage: Figure  # share of the members' rows on which the model was scored
    fitness: Figure
    fitness_mean: Figure
    fitness_worst: Figure
    diversity: float
    value_of: RowsOf = "training"  # the rows that `value` is of, and the figures below
    training: Figure | None = None  # the task's metric on the rows trained on, if `value` is of others
    balanced_accuracy: Figure | None = None
    auc: Figure | None = None
    log_loss: Figure | None = None
    rmse: Figure | None = None
    r2: Figure | None = None


class RunStarted(Event, frozen=True, kw_only=True, tag="run-started"):
    """An aggregator started a run, or continues it (`again`)."""

    config: RunConfig
    term: int
    again: bool = False
    round: int  # the next one to open


class RoundPublished(Event, frozen=True, kw_only=True, tag="round-published"):
    """A round opened."""

    round: int
    invited: int


class TrainerJoined(Event, frozen=True, kw_only=True, tag="trainer-joined"):
    """A trainer joined, rejoined, or sent more about itself."""

    trainer: str
    num_examples: int
    version: str = ""  # of fedmq; "" until known
    labels: tuple[str, ...] = ()
    fingerprint: str = ""  # of its key; "" without keys


class TrainerSuspected(Event, frozen=True, kw_only=True, tag="trainer-suspected"):
    """A trainer missed a deadline, although it is connected to the broker."""

    trainer: str


class TrainerSilent(Event, frozen=True, kw_only=True, tag="trainer-silent"):
    """A connected trainer missed several rounds in a row: rounds do not wait for it, and its rows do not count."""

    trainer: str
    missed: int  # rounds


class TrainerReturned(Event, frozen=True, kw_only=True, tag="trainer-returned"):
    """A silent trainer sent a result that is accepted: rounds wait for it, and its rows count again."""

    trainer: str
    missed: int  # rounds


class TrainerLeft(Event, frozen=True, kw_only=True, tag="trainer-left"):
    """A trainer disconnected, or left or declined the run with a goodbye."""

    trainer: str
    goodbye: bool
    reason: Literal["", LeaveReason] = ""  # of the goodbye
    detail: str = ""


class TrainerBarred(Event, frozen=True, kw_only=True, tag="trainer-barred"):
    """A trainer was excluded until it is readmitted or the aggregator restarts.

    drained: by a control command; its result of the open round still counts. banned: by a control command.
    duplicated: several processes use its name; until one is left, none takes part. unselected: it has not all labels
    that the run selects.
    """

    trainer: str
    how: Literal["drained", "banned", "duplicated", "unselected"]


class TrainerReadmitted(Event, frozen=True, kw_only=True, tag="trainer-readmitted"):
    """A trainer was readmitted by a control command, or one process of its name is left."""

    trainer: str


class ResultAccepted(Event, frozen=True, kw_only=True, tag="result-accepted"):
    """A result is on disk and counts, `staleness` rounds after the round it belongs to."""

    round: int
    trainer: str
    staleness: int
    train_s: Seconds  # of local work
    answer_s: Seconds = 0.0  # from the round's publication to the result's arrival; 0: unknown, because late
    cpu_s: Seconds = 0.0  # total processor time of the trainer's process
    memory: int = 0  # its peak memory in bytes
    metrics: OwnMetrics | msgspec.UnsetType = msgspec.UNSET  # of the trainer's own training and scoring code


class ResultResent(Event, frozen=True, kw_only=True, tag="result-resent"):
    """A trainer sent a result again that is already on disk; it counts once."""

    round: int
    trainer: str


class ResultRejected(Event, frozen=True, kw_only=True, tag="result-rejected"):
    """The aggregator rejected a message; `trainer` is "" if the message names none."""

    trainer: str
    reason: RejectReason
    detail: str


class RoundClosed(Event, frozen=True, kw_only=True, tag="round-closed"):
    """A round closed."""

    round: int
    why: Why
    results: int
    round_s: Seconds
    present: int
    best: Best | None  # None before any score
    invited: int = 0  # trainers that it waited for; 0: unknown
    late: int = 0  # of `results`, those of an earlier round
    rejected: int = 0  # since the previous close
    bytes_up: int = 0  # received by the aggregator since the previous close
    bytes_down: int = 0  # sent by it since the previous close
    saturated: int = 0  # losses in `results` that were clipped because they do not fit their units
    restarted: bool = False  # the round searched in a new random pool, because the one before found nothing better
    metrics: OwnMetrics | msgspec.UnsetType = msgspec.UNSET  # of the own code of trainers: the mean over their rows
    secure: bool = False  # `results` are one secure sum of so many trainers; the answer of none is known


class BestChanged(Event, frozen=True, kw_only=True, tag="best-changed"):
    """The best model changed; published only for models with two inputs and few parameters, which can be drawn."""

    round: int  # the one that closed with it
    parameters: PackedParameters = msgspec.field(name="genes")


class ModelMeasured(Event, frozen=True, kw_only=True, tag="model-measured"):
    """The best model was measured on held-out rows. Large tables, and trainers beyond the first ones, are left out."""

    round: int  # the one that closed with it
    measured: Measured


class FindingsChanged(Event, frozen=True, kw_only=True, tag="findings-changed"):
    """What the algorithm found beside the model changed: at most once a second, and at the end.

    Only the genes of the best candidate, the Pareto front and correlations; long lists are shortened.
    """

    round: int  # the one that closed with it
    findings: Findings


class SiteDiffers(Event, frozen=True, kw_only=True, tag="site-differs"):
    """The rows of a trainer are unlike those of the others, or not any more: then there are no differences."""

    round: int  # the one that closed with it
    trainer: str
    differences: tuple[Difference, ...]


class CheckpointKept(Event, frozen=True, kw_only=True, tag="checkpoint-kept"):
    """The state after this round is on disk: a restart replays from here."""

    round: int


class Stalled(Event, frozen=True, kw_only=True, tag="stalled"):
    """No result of the open round arrived for a while; published once for each stall."""

    round: int
    seconds: Seconds
    missing: tuple[str, ...]  # some of the trainers without a result


class SumAbandoned(Event, frozen=True, kw_only=True, tag="sum-abandoned"):
    """A secure sum has ended without a total. Its question is asked again in another sum, unless it is `spent`."""

    round: int
    why: str
    spent: bool = False  # shares were revealed: the round closes without answers


class Waiting(Event, frozen=True, kw_only=True, tag="waiting"):
    """No round opens until more trainers are present."""

    present: int
    needed: int
    declined: tuple[str, ...] = ()  # trainers that have declined the run, by name
    why: str = ""  # their reasons


class RunPaused(Event, frozen=True, kw_only=True, tag="run-paused"):
    """A control command paused the run: no further round opens."""


class RunResumed(Event, frozen=True, kw_only=True, tag="run-resumed"):
    """A control command resumed the run."""


class RunFinished(Event, frozen=True, kw_only=True, tag="run-finished"):
    """The run ended."""

    solved: bool
    rounds: int
    value: Figure | None
    why: Literal["", End] = ""  # "" in events of older versions
    detail: str = ""  # why it failed

    @property
    def verdict(self) -> str:
        match self.why:
            case "stopped":
                return "stopped by an operator"
            case "failed":
                return "failed"
            case _:
                return "solved" if self.solved else "finished"


AnyEvent = (
    RunStarted
    | RoundPublished
    | TrainerJoined
    | TrainerSuspected
    | TrainerSilent
    | TrainerReturned
    | TrainerLeft
    | TrainerBarred
    | TrainerReadmitted
    | ResultAccepted
    | ResultResent
    | ResultRejected
    | RoundClosed
    | BestChanged
    | ModelMeasured
    | FindingsChanged
    | SiteDiffers
    | CheckpointKept
    | Stalled
    | SumAbandoned
    | Waiting
    | RunPaused
    | RunResumed
    | RunFinished
)
