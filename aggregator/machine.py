"""What goes into a step of the rounds, and what comes out: settings, phases, events and effects, all values.

Knows nothing of the rules; those are in `rounds`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any, NamedTuple

from fedmq.algorithms.base import Evaluation
from fedmq.errors import Rejected
from fedmq.observe import events
from fedmq.protocol.codec import Array, Frames, Packet
from fedmq.protocol.messages import Message


class Phase(Enum):
    """Where a run is."""

    WAITING = "waiting"
    COLLECTING = "collecting"
    CLOSING = "closing"
    FINISHED = "finished"


class Heard(NamedTuple):
    """A message came."""

    packet: Packet


class Malformed(NamedTuple):
    """Frames came that are no message."""

    rejected: Rejected


class BrokerUp(NamedTuple):
    """The broker takes publications from now on; it may be a new one that knows nothing."""


class BrokerDown(NamedTuple):
    """Nothing reaches anybody for now."""


class Tick(NamedTuple):
    """Time has passed."""


Event = Heard | Malformed | BrokerUp | BrokerDown | Tick


class KeepResult(NamedTuple):
    """Save an accepted result, as it came; it is used at the close of round `counted_in`."""

    round: int
    trainer: str
    counted_in: int
    frames: Frames


class KeepClose(NamedTuple):
    """Save that a round is closed, and with which members: with the results, all that a replay needs."""

    round: int
    why: events.Why
    members: tuple[str, ...]
    results: int
    round_s: float
    evaluation: Evaluation | None
    model_digest: bytes  # of what the round published
    state: Any  # the strategy's, at the beginning of the next round
    checkpoint: bool = False  # an operator wants that state on disk


class Outgoing(NamedTuple):
    """Send a message."""

    topic: str
    message: Message
    arrays: dict[str, Array] | None = None


@dataclass
class Effects:
    """What a step asks for. All `saves` must be on disk before the first of `sends` leaves."""

    saves: list[KeepResult | KeepClose] = field(default_factory=list)
    sends: list[Outgoing] = field(default_factory=list)
    events: list[events.AnyEvent] = field(default_factory=list)
