"""What a trainer knows of one run that it follows, and of its results that are not acknowledged yet."""

import math
from dataclasses import dataclass, field

from fedmq.protocol.messages import Round
from fedmq.secure_sums.messages import Cohort
from fedmq.trainer.decline import Decline
from fedmq.trainer.machine import PendingResult
from fedmq.trainer.publications import Chain
from fedmq.trainer.secure_answers import AskedSum

SILENT_S = 5.0  # without a message, then a run may be replaced; an aggregator sends four beacons a second
PENDING_SILENT_S = 60.0  # the same for a run with a pending result: enough to restart an aggregator
RESEND_S = 0.5  # until a result is sent again, at first


@dataclass
class Delivery:
    """A pending result and its retransmission state; a masked one is sent when its sum is opened, and then again."""

    result: PendingResult
    attempt: int = 0
    send_at: float = 0.0
    backoff_s: float = RESEND_S

    @property
    def is_masked(self) -> bool:
        """Whether it is for a secure sum."""
        return bool(self.result.question)


@dataclass
class FollowedRun:
    """What a trainer knows of one run."""

    term: int
    round: int = 0  # the newest received,
    round_term: int = 0  # and the term that published it
    uninvited: bool = False  # that round asks other trainers
    sum: int = 0  # number of the newest secure sum of that round,
    asked: AskedSum | None = None  # and what it asks of this trainer
    cohort: Cohort | None = None  # of the next sum: its shares go up with those that the open one reveals
    index: int | None = None  # on the roster; None: OFFERED
    hello_at: float = 0.0  # earliest time of the next Hello
    spread_s: float = 0.0  # over which returning trainers spread their messages
    last_message_at: float = -math.inf  # or the last reconnection; -inf: the run is finished
    live: bool = False  # its aggregator has sent something, not only the broker a round that it has kept
    declined: Decline | None = None
    chain: Chain | None = None  # the arrays that a round with a delta may lead on from
    pending: dict[int, Delivery] = field(default_factory=dict)  # by round

    @property
    def patience_s(self) -> float:
        """Silence after which another run may replace this one."""
        if not self.live or (self.declined is not None and not self.pending):
            return 0.0
        return PENDING_SILENT_S if self.pending else SILENT_S

    def can_compute(self, message: Round) -> bool:
        """Return whether the worker can compute the arrays of a round, or has received them."""
        return message.delta is None or (self.chain is not None and self.chain.digest == message.delta.result)
