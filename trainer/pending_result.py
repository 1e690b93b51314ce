"""A result that nobody has acknowledged yet, as it outlives the process, and the message that it is sent as.

Knows nothing of when it is sent or where it is kept.
"""

from __future__ import annotations

from typing import NamedTuple

from fedmq.protocol.codec import Array
from fedmq.protocol.messages import Result


class Kept(NamedTuple):
    """The answer to a round: `arrays` as they are sent, losses in units of 2**-`scale`, computed on `base`."""

    run: str
    epoch: int  # that published the round
    round: int
    arrays: dict[str, Array]
    train_s: float
    base: bytes
    scale: int

    def result(self, trainer: str, samples: int, epoch: int, attempt: int = 1) -> Result:
        """The message, without its arrays, sent in this `epoch` for the so-many-th time."""
        return Result(
            run=self.run,
            epoch=epoch,
            trainer=trainer,
            round=self.round,
            samples=samples,
            attempt=attempt,
            train_s=self.train_s,
            base=self.base,
            scale=self.scale,
        )
