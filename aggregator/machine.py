"""Inputs and outputs of the aggregator's state machine: closed sets of values. `rounds` has the rules."""

from dataclasses import dataclass, field
from enum import Enum

from fedmq.observe.events import AnyEvent
from fedmq.protocol.codec import Frames
from fedmq.runs.records import Record
from fedmq.transport.link import LinkInput, StopRequested, Tick


class Phase(Enum):
    """The phase of a run; see `rounds`."""

    WAITING = "waiting"
    COLLECTING = "collecting"
    CONSISTENCY = "consistency"  # of a secure run, as the next one
    UNMASKING = "unmasking"
    CLOSING = "closing"
    FINISHED = "finished"


@dataclass(frozen=True)
class EndRun:
    """The run ends with its best model, because the user's callback says so."""


Input = LinkInput | Tick | StopRequested | EndRun


@dataclass
class Output:
    """What the loop must do, in this order: save before send.

    1. Save all `records`. If `commit` is set, return from the commit before the first send: a trainer deletes its copy
       of an acknowledged result. Without `commit` nothing that leaves acknowledges a record: it may wait for the next
       commit.
    2. Send all `sends`, each a message as frames.
    3. Report all `events`, which happened `at` seconds since 1970.
    """

    at: float
    records: list[Record] = field(default_factory=list)
    commit: bool = False
    sends: list[Frames] = field(default_factory=list)
    events: list[AnyEvent] = field(default_factory=list)
