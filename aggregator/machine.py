"""Inputs and outputs of the aggregator's state machine: closed sets of values. `rounds` has the rules."""

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from fedmq.errors import Rejected
from fedmq.observe.events import AnyEvent
from fedmq.protocol.codec import Frames, Packet
from fedmq.runs.records import Record


class Phase(Enum):
    """The phase of a run; see `rounds`."""

    WAITING = "waiting"
    COLLECTING = "collecting"
    CLOSING = "closing"
    FINISHED = "finished"


class MessageReceived(NamedTuple):
    """A message that passed the decoder and the signature check."""

    packet: Packet
    fingerprint: str = ""  # of the key that signed it; "" without keys


class MessageRejected(NamedTuple):
    """Frames that failed the decoder or the signature check."""

    rejected: Rejected
    nbytes: int = 0


class BrokerConnected(NamedTuple):
    """The broker forwards publications from now on. It may be a new process with an empty state."""


class BrokerDisconnected(NamedTuple):
    """The connection to the broker is lost."""


class Tick(NamedTuple):
    """Time has passed."""


class StopRequested(NamedTuple):
    """The process was asked to end; the run can be continued."""


Input = MessageReceived | MessageRejected | BrokerConnected | BrokerDisconnected | Tick | StopRequested


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
