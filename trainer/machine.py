"""What a trainer's session is told and what it asks for: its events and its effects, as values.

Knows nothing of the rules between them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from fedmq.protocol.codec import Array, Packet
from fedmq.protocol.messages import FromTrainer
from fedmq.trainer.budget import Spent
from fedmq.trainer.high_water_marks import HighWaterMark
from fedmq.trainer.pending_result import PendingResult


class MessageReceived(NamedTuple):
    """A message came."""

    packet: Packet


class BrokerConnected(NamedTuple):
    """The broker is there (again)."""


class BrokerDisconnected(NamedTuple):
    """The broker is gone."""


class WorkDone(NamedTuple):
    """The work on a round is done."""

    run: str
    round: int
    arrays: dict[str, Array]
    train_s: float


class WorkFailed(NamedTuple):
    """The work on a round cannot be done."""

    run: str
    round: int


class RunDeclined(NamedTuple):
    """The operator does not let us take part in a run."""

    run: str


class Tick(NamedTuple):
    """Time has passed."""


class StopRequested(NamedTuple):
    """The trainer is asked to end."""


Event = (
    MessageReceived | BrokerConnected | BrokerDisconnected | WorkDone | WorkFailed | RunDeclined | Tick | StopRequested
)


class Outgoing(NamedTuple):
    """Send a message."""

    topic: str
    message: FromTrainer
    arrays: dict[str, Array] | None = None


@dataclass
class Effects:
    """What a step asks for: save `marks`, `spends`, `keeps`, forget `drops`, `cancel` work, `start` some, then `sends`.

    `leaves` are runs that this trainer takes no further part in from now on, `ignores` those it has no room for.
    """

    marks: list[HighWaterMark] = field(default_factory=list)
    spends: list[Spent] = field(default_factory=list)
    keeps: list[PendingResult] = field(default_factory=list)
    drops: list[tuple[str, int]] = field(default_factory=list)  # run and round
    cancel: bool = False
    start: Packet | None = None
    sends: list[Outgoing] = field(default_factory=list)
    leaves: list[str] = field(default_factory=list)
    ignores: list[str] = field(default_factory=list)
