"""Inputs and outputs of a trainer's session, as values."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from fedmq.errors import BadData
from fedmq.protocol.codec import Array, Packet
from fedmq.protocol.messages import FromTrainer, Result
from fedmq.secure_sums.ledger import Entry
from fedmq.security.keys import Identity
from fedmq.trainer.budget import Spent
from fedmq.trainer.control_sums import ControlSum
from fedmq.trainer.high_water_marks import HighWaterMark
from fedmq.trainer.questions import Answered
from fedmq.transport.link import LinkInput, StopRequested, Tick


class SumIdentity(NamedTuple):
    """The federation's id, and this trainer's keys in it."""

    federation: bytes
    identity: Identity


class WorkDone(NamedTuple):
    """The worker finished a round: the arrays of its result and what the process has used so far."""

    run: str
    round: int
    arrays: dict[str, Array]
    train_s: float
    num_examples: int  # rows that it was computed on
    cpu_s: float = 0.0
    memory: int = 0
    metrics: Mapping[str, float] = {}  # of the trainer's own code
    held: int | None = None  # rows that the trainer has for the run; None: those that it was computed on


class WorkFailed(NamedTuple):
    """The worker could not do the work of a round."""

    run: str
    round: int
    error: BaseException


class RowsRead(NamedTuple):
    """The rows were read again at the operator's request: their number, or why they cannot be used."""

    outcome: int | BadData


class WorkerBlocked(NamedTuple):
    """The worker can do nothing: the work of this round does not end, although it was cancelled."""

    run: str
    round: int


class WorkerUnblocked(NamedTuple):
    """The work that blocked the worker has ended."""


class AggregatorReplaced(NamedTuple):
    """The keys were read again, and the aggregator's is another one."""


class KeysRead(NamedTuple):
    """The keys were read again: those with which the trainer takes part in secure sums."""

    member: SumIdentity


class LedgerFailed(NamedTuple):
    """The ledger of a run's secure sums cannot be written, so nothing of its last entry was sent."""

    run: str


FromWorker = WorkDone | WorkFailed | WorkerBlocked | WorkerUnblocked
Input = LinkInput | FromWorker | RowsRead | AggregatorReplaced | KeysRead | LedgerFailed | Tick | StopRequested


class Outgoing(NamedTuple):
    """A message to send."""

    topic: str
    message: FromTrainer
    arrays: dict[str, Array] | None = None


class Notice(NamedTuple):
    """A log line. At most one of a `kind` is written in `again_s` seconds; 0: no limit."""

    text: str
    run: str | None = None
    round: int | None = None
    warning: bool = False
    kind: str = ""
    again_s: float = 0.0


class PendingResult(NamedTuple):
    """A result that is not acknowledged yet; its `arrays` are as sent, with losses in units of 2**-`fraction_bits`."""

    run: str
    term: int  # that published the round
    round: int
    arrays: dict[str, Array]
    train_s: float
    num_examples: int
    model_digest: bytes  # of the round's arrays
    fraction_bits: int
    cpu_s: float = 0.0
    memory: int = 0
    site_figures: bool = False
    metrics: Mapping[str, float] = {}
    question: bytes = b""  # of a secure sum: only its masked answer is sent

    def result(self, trainer: str, term: int, attempt: int = 1) -> Result:
        """Return the message without its arrays, for the given term and attempt."""
        fields = self._asdict()
        del fields["arrays"], fields["term"], fields["question"]
        fields["metrics"] = fields["metrics"] or msgspec.UNSET
        return Result(trainer=trainer, term=term, attempt=attempt, **fields)


@dataclass
class Output:
    """What a step asks for, to be done in the order of the fields.

    `marks`, `spends`, `answered`, `keeps` and `entries` are on disk before the first of `sends` leaves: the aggregator
    may commit a result as soon as it has it. What belongs to an entry that cannot be stored is not sent. A result that
    is acknowledged is in one of `controls` before it is one of `drops`.
    """

    marks: list[HighWaterMark] = field(default_factory=list)
    spends: list[Spent] = field(default_factory=list)
    answered: Answered | None = None  # the counts of answered rounds
    keeps: list[PendingResult] = field(default_factory=list)
    entries: list[tuple[str, Entry | None]] = field(default_factory=list)  # of ledgers, by run; None: delete it
    controls: list[ControlSum] = field(default_factory=list)
    drops: list[tuple[str, int]] = field(default_factory=list)  # pending results to delete: run and round
    cancel: bool = False  # the worker's current work
    start: Packet | None = None  # the next work
    sends: list[Outgoing] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
