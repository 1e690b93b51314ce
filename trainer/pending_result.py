"""A result that is not acknowledged yet, as it is stored and sent."""

from __future__ import annotations

from typing import NamedTuple

from fedmq.protocol.codec import Array
from fedmq.protocol.messages import Result


class PendingResult(NamedTuple):
    """The answer to a round: `arrays` as they are sent, with losses in units of 2**-`fraction_bits`."""

    run: str
    term: int  # that published the round
    round: int
    arrays: dict[str, Array]
    train_s: float
    model_digest: bytes  # of the round's arrays
    fraction_bits: int
    cpu_s: float = 0.0
    memory: int = 0

    def result(self, trainer: str, num_examples: int, term: int, attempt: int = 1) -> Result:
        """Return the message without its arrays, for the given term and attempt."""
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
            cpu_s=self.cpu_s,
            memory=self.memory,
        )
