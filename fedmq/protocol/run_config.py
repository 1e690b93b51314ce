"""The configuration of a run: stored with it, announced to observers, reported and shown. No other type repeats it."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from fedmq.differential_privacy.accounting import epsilon_of, rho_for
from fedmq.names import Name
from fedmq.protocol.messages import At, Count, Labels, Positive, Seconds
from fedmq.tasks.task import Task

SECURE_TRAINERS_MIN = 3  # a total of two shows each trainer the answer of the other
FIGURES_SHARE = 0.1  # of the rho of a private run, for the figures of its model
STALENESS_MAX = 15  # an algorithm remembers the results of 16 rounds; see `algorithms.inbox`


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What each life of a run's aggregator may set anew. Everything else in a `RunConfig` is fixed."""

    rounds_max: Positive
    min_trainers: Positive  # a round opens once this many trainers are present
    quorum: Annotated[float, Meta(ge=0, le=1)] = 0.5  # share of the invited trainers without which no round closes
    deadline_s: Annotated[float, Meta(gt=0, le=1e9)] | None = None  # a round closes without stragglers; None: adaptive
    staleness: Annotated[int, Meta(ge=0, le=STALENESS_MAX)] = 2  # rounds that a result may be late; 0: none
    num_examples_max: Positive | None = None  # rows that one trainer may claim; None: any number
    sample: Annotated[float, Meta(gt=0, le=2**53)] | None = None  # below 1: a share of the trainers, else a number
    select: Labels = ()  # only trainers with all these labels take part
    buffer: Positive | None = None  # a round closes after so many results, late ones too; None: it waits for all
    keep_rounds: Positive | None = None  # the last rounds that stay in the store; None: all
    beacon_s: Seconds = 0.25
    grace_s: Seconds = 3.0  # after a broker restart; longer than the longest reconnect interval of a trainer
    forget_s: Seconds = 30.0  # the rows of an absent trainer count this long
    decline_s: Seconds = 5.0  # a run that all trainers have declined ends after this time
    leave_s: Seconds = 120.0  # one that they have left: longer than a trainer or its machine needs to restart

    @property
    def rounds_late(self) -> int:
        """How many rounds a result may be late: with a buffer, as many as an algorithm remembers."""
        return self.staleness if self.buffer is None else STALENESS_MAX


class Privacy(msgspec.Struct, frozen=True, kw_only=True):
    """What the totals of a run reveal about a row at most: (epsilon, delta)-differential privacy.

    `rho` is the same in zero-concentrated differential privacy; the run's questions share it.
    """

    epsilon: Annotated[float, Meta(gt=0, le=1e6)]
    delta: Annotated[float, Meta(gt=0, lt=1)]
    rho: Annotated[float, Meta(gt=0)]
    questions: Positive  # of the algorithm; one about the figures of its model follows
    trainers: Positive  # that share the noise of a total: without the answers of so many it is not used

    @classmethod
    def of(cls, epsilon: float, delta: float, questions: int, trainers: int) -> "Privacy":
        """Return the settings for a run of so many questions, with the largest rho."""
        rho = rho_for(epsilon, delta)
        return cls(epsilon=epsilon, delta=delta, rho=rho, questions=questions, trainers=trainers)

    @property
    def rho_of_figures(self) -> float:
        """The rho of the question about figures."""
        return self.rho * FIGURES_SHARE

    @property
    def rho_of_question(self) -> float:
        """The rho of each of the other questions."""
        return self.rho * (1.0 - FIGURES_SHARE) / self.questions

    @property
    def rounds(self) -> int:
        """The rounds of the run: one for each question."""
        return self.questions + 1

    def spent(self, rounds: int) -> float:
        """Return the epsilon that the first so many rounds have spent."""
        rho = min(rounds, self.questions) * self.rho_of_question
        return self.epsilon if rounds > self.questions else min(self.epsilon, epsilon_of(rho, self.delta))

    def text(self, rounds: int, rows: int = 0) -> str:
        """Return what the first so many rounds have spent, for people; it warns of a delta too large for the rows."""
        warning = f": expected less than one in {rows} rows, choose a smaller --delta" if self.delta * rows >= 1 else ""
        return f"epsilon {self.spent(rounds):.3g} of {self.epsilon:g} spent, delta {self.delta:g}{warning}"


class RunConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a run is. Fixed when the run begins, except `limits`."""

    run: Name
    task: Task  # names its code by SHA-256, if it has code
    algorithm: str
    parameters: dict[str, Any] = {}  # of the algorithm, resolved: no defaults are left out
    seed: Count
    started: At  # seconds since 1970
    limits: Limits
    secure: bool = False  # the aggregator learns sums of answers only
    privacy: Privacy | None = None  # None: answers have no noise
    started_from: str = ""  # SHA-256, in hexadecimal digits, of the file of the model that the run began with; "": none
