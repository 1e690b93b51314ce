"""A result that nobody has acknowledged yet, as it outlives the process, and the message that it is sent as.

Knows nothing of when it is sent or where it is kept.
"""

from __future__ import annotations

from typing import NamedTuple

from fedmq.protocol.codec import Array
from fedmq.protocol.messages import Result


class PendingResult(NamedTuple):
    """The answer to a round: `arrays` as they are sent, losses in units of 2**-`fraction_bits`, computed on `base`."""

    run: str
    term: int  # that published the round
    round: int
    arrays: dict[str, Array]
    train_s: float
    model_digest: bytes
    fraction_bits: int

    def result(self, trainer: str, num_examples: int, term: int, attempt: int = 1) -> Result:
        """The message, without its arrays, sent in this `term` for the so-many-th time."""
        return Result(
            run=self.run,
            term=term,
            trainer=trainer,
            round=self.round,
            num_examples=num_examples,
            attempt=attempt,
            train_s=self.train_s,
            model_digest=self.model_digest,
            fraction_bits=self.fraction_bits,
        )
