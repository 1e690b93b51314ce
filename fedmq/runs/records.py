"""The records of a run, as the aggregator's state machine makes them and as the store keeps them."""

from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from fedmq.algorithms.base import Update
from fedmq.names import Name
from fedmq.observe.events import Best, Why
from fedmq.protocol.codec import Array, Frames, Payload, unpack
from fedmq.protocol.fixed_point import dequantize
from fedmq.protocol.messages import ArrayInfo, Digest, Result


class StoredResult(NamedTuple):
    """An accepted result: the frames that arrived, used at the close of round `counted_in`."""

    round: int
    trainer: str
    counted_in: int
    frames: Frames


class TotalHeader(msgspec.Struct, frozen=True):
    """What a total is of. `arrays` describe those of the answers that it adds up, in integers."""

    question: Digest
    rows: dict[Name, int]  # of each trainer whose answer it has, by name
    fraction_bits: int
    arrays: tuple[ArrayInfo, ...]


class StoredTotal(NamedTuple):
    """The total of a secure sum, used at the close of `round`, or that of no answers: then the question is spent."""

    round: int
    header: TotalHeader
    blobs: Frames

    @property
    def update(self) -> Update:
        """The total as the strategy receives it.

        Raises:
            Rejected: its arrays do not fit their description.
        """
        header = self.header
        arrays = unpack(Payload(header.arrays, tuple(self.blobs)))
        rows = dict(sorted(header.rows.items()))
        return Update("", self.round, 0, sum(rows.values()), arrays, header.fraction_bits, total_of=rows)


class OpenSum(msgspec.Struct, frozen=True):
    """A secure sum whose shares may have been revealed: what a later life needs to open it, one at a time."""

    round: int
    term: int  # of the life that began it
    number: int
    rows: dict[Name, int]  # of each trainer that has answered, by name
    messages: tuple[tuple[str, bytes], ...]  # records of `fedmq.secure_sums`, with their sender


class Close(msgspec.Struct, frozen=True):
    """A closed round. With the results before it, all that a replay needs."""

    round: int
    why: Why
    members: tuple[str, ...]
    results: int
    round_s: float
    closed: float  # seconds since 1970
    best: Best | None
    model_digest: bytes  # `codec.digest_of` the arrays of the round: its late results must name it


class Invitation(msgspec.Struct, frozen=True):
    """The trainers that a sampled round invites, and those that have had their turn in the cycle; see
    `fedmq.aggregator.sampling`.
    """

    round: int
    trainers: tuple[str, ...]
    served: tuple[str, ...]


class Checkpoint(NamedTuple):
    """The state of the algorithm at the beginning of `round`, as `checkpoint.dump` writes it."""

    round: int
    state: bytes


class DropOldRounds(NamedTuple):
    """Drop the rounds before the last checkpoint that `keep` closed rounds follow."""

    keep: int


Record = StoredResult | StoredTotal | OpenSum | Close | Invitation | Checkpoint | DropOldRounds


def as_update(result: Result, arrays: Mapping[str, Array], counted_in: int, *, additive: bool) -> Update:
    """Return the result, used at the close of round `counted_in`: its losses as float64, or as sent if `additive`.

    Raises:
        Rejected: its losses are not integers.
    """
    return Update(
        result.trainer,
        result.round,
        counted_in - result.round,
        result.num_examples,
        arrays if additive else dequantize(arrays, result.fraction_bits),
        result.fraction_bits,
        result.site_figures,
    )
