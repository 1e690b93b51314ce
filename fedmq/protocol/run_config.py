"""The configuration of a run: stored with it, announced to observers, reported and shown. No other type repeats it."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from fedmq.names import Name
from fedmq.protocol.messages import At, Count, Labels, Positive, Seconds
from fedmq.tasks.task import Task

SECURE_TRAINERS_MIN = 3  # a total of two shows each trainer the answer of the other
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
    started_from: str = ""  # SHA-256, in hexadecimal digits, of the file of the model that the run began with; "": none
