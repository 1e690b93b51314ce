"""The messages of one secure sum. The transport carries each as the bytes of an array frame.

    trainer -> aggregator     Keys, EncryptedShares, ListSignature, RevealedShares;
                              MaskedInput, QuestionSpent or SharesRefused
    aggregator -> all         Cohort, Survivors, SignedSurvivors
    aggregator -> one trainer Opening

Members are numbered from 0 in the order of the cohort. A bitmap has a bit for each member: index i is bit i % 8 of
byte i // 8. `sum` is `SumName.id` in every message.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import cached_property
from typing import Annotated

import msgspec
from msgspec import Meta

from fedmq.errors import Rejected, one_line
from fedmq.protocol.codec import FRAME_BYTES_MAX, PARTS_BYTES_MAX
from fedmq.protocol.messages import Bitmap, Digest
from fedmq.runtime.malformed import MALFORMED
from fedmq.secure_sums import masks
from fedmq.secure_sums.shamir import SHARE_BYTES
from fedmq.security.ciphers import TAG_BYTES
from fedmq.security.keys import Key, PublicIdentity

MEMBERS_MAX = 1000  # each deals a share to each other
PARTS_MAX = 4  # messages in one array `parts`: of two sums at most
LENGTH_MAX = FRAME_BYTES_MAX // 8
ENCRYPTED_BYTES = 2 * SHARE_BYTES + TAG_BYTES

Signature = Annotated[bytes, Meta(min_length=64, max_length=64)]  # Ed25519
Share = Annotated[bytes, Meta(min_length=SHARE_BYTES, max_length=SHARE_BYTES)]
EncryptedPair = Annotated[bytes, Meta(min_length=ENCRYPTED_BYTES, max_length=ENCRYPTED_BYTES)]
Values = Annotated[bytes, Meta(max_length=8 * LENGTH_MAX)]  # little-endian, 8 bytes each
PerMember = Meta(max_length=MEMBERS_MAX)
Parts = Annotated[tuple[Annotated[bytes, Meta(max_length=PARTS_BYTES_MAX)], ...], Meta(max_length=PARTS_MAX)]


class SumMessage(msgspec.Struct, frozen=True, tag_field="t"):
    """Fields of every message of a secure sum."""

    sum: Digest


class Keys(SumMessage, frozen=True, tag="keys"):
    """The public keys of a trainer for one sum; its signing key has signed them (`keys_text`)."""

    share_key: Key
    mask_key: Key
    signature: Signature


class Member(msgspec.Struct, frozen=True, array_like=True):
    """A member of a cohort, with the Keys that it sent."""

    identity: PublicIdentity
    share_key: Key
    mask_key: Key
    signature: Signature


class Cohort(SumMessage, frozen=True, tag="cohort", dict=True):
    """U1 of the paper: the members of a sum in order of name, and the number of them that must survive."""

    threshold: Annotated[int, Meta(ge=1, le=MEMBERS_MAX)]
    members: Annotated[tuple[Member, ...], PerMember]

    @cached_property
    def digest(self) -> bytes:
        """The SHA-256 of the cohort as it is encoded."""
        return masks.digest(to_bytes(self))


class EncryptedShares(SumMessage, frozen=True, tag="encrypted-shares"):
    """The shares that a dealer made of its mask secret and of its self-mask, for each other member of the cohort."""

    shares: Annotated[tuple[EncryptedPair, ...], PerMember]


class Opening(SumMessage, frozen=True, tag="opening"):
    """The question of the sum, its dealers (U2), and the encrypted shares of each other dealer for this trainer."""

    question: Digest
    length: Annotated[int, Meta(ge=1, le=LENGTH_MAX)]  # numbers of an answer
    dealers: Bitmap
    shares: Annotated[tuple[EncryptedPair, ...], PerMember]


class MaskedInput(SumMessage, frozen=True, tag="masked-input"):
    """A trainer's answer under its masks, uint64."""

    values: Values


class QuestionSpent(SumMessage, frozen=True, tag="spent"):
    """In place of a masked input or of shares: the trainer has helped to open this question, or has lost the shares."""


class SharesRefused(SumMessage, frozen=True, tag="shares-refused"):
    """In place of a masked input: the trainer cannot decrypt the shares of this dealer, so it is not in the sum."""

    dealer: Annotated[int, Meta(ge=0, lt=MEMBERS_MAX)]


class Survivors(SumMessage, frozen=True, tag="survivors"):
    """U3: the members whose masked inputs are in the total."""

    survivors: Bitmap


class ListSignature(SumMessage, frozen=True, tag="list-signature"):
    """A survivor's signature of the list of survivors (`list_text`)."""

    signature: Signature


class SignedSurvivors(SumMessage, frozen=True, tag="signed-survivors"):
    """U4: the survivors that signed the list, and their signatures in order."""

    survivors: Bitmap
    signers: Bitmap
    signatures: Annotated[tuple[Signature, ...], PerMember]


class RevealedShares(SumMessage, frozen=True, tag="revealed-shares"):
    """For each dealer in order one share: of its self-mask if it survived, else of its mask secret."""

    shares: Annotated[tuple[Share, ...], PerMember]


class Opened(SumMessage, frozen=True, tag="opened"):
    """A record of the aggregator, never sent: the question, and its dealers."""

    question: Digest
    length: int
    dealers: Bitmap


class OpenedTotal(SumMessage, frozen=True, tag="total"):
    """A record of the aggregator, never sent: the names of the survivors, and the sum of their answers, int64."""

    question: Digest
    survivors: tuple[str, ...]
    values: bytes


class Abandoned(SumMessage, frozen=True, tag="abandoned"):
    """A record of the aggregator, never sent: the sum has ended without a total."""

    why: str


FromTrainer = Keys | EncryptedShares | MaskedInput | QuestionSpent | SharesRefused | ListSignature | RevealedShares
FromAggregator = Cohort | Opening | Survivors | SignedSurvivors
Record = Cohort | EncryptedShares | Opened | MaskedInput | Survivors | SignedSurvivors | OpenedTotal | Abandoned

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[FromTrainer | FromAggregator] = msgspec.msgpack.Decoder(FromTrainer | FromAggregator)
_parts_decoder: msgspec.msgpack.Decoder[tuple[bytes, ...]] = msgspec.msgpack.Decoder(Parts)


def to_bytes(message: SumMessage) -> bytes:
    """Return the bytes of a message: equal messages have equal bytes."""
    return _encoder.encode(message)


def from_bytes(data: bytes) -> FromTrainer | FromAggregator:
    """Return the message.

    Raises:
        Rejected: these bytes are no message of a secure sum; a record of the aggregator is none.
    """
    try:
        return _decoder.decode(data)
    except MALFORMED as error:
        raise Rejected("header", f"expected a message of a secure sum: {one_line(error)}") from None


def parts_to_bytes(messages: Iterable[FromTrainer | FromAggregator]) -> bytes:
    """Return the bytes of the array `parts` of a SumRequest, a SumReply or a Result: a list of messages."""
    return _encoder.encode([to_bytes(message) for message in messages])


def parts_from_bytes(data: bytes) -> list[FromTrainer | FromAggregator]:
    """Return the messages, in order.

    Raises:
        Rejected: these bytes are no list of at most `PARTS_MAX` messages of a secure sum.
    """
    try:
        parts = _parts_decoder.decode(data)
    except MALFORMED as error:
        raise Rejected("header", f"expected messages of secure sums: {one_line(error)}") from None
    return [from_bytes(part) for part in parts]


_PURPOSE = b"fedmq secure sum, version 1\0"  # first in all that is signed, so that a signature is valid nowhere else


def keys_text(sum_id: bytes, share_key: bytes, mask_key: bytes) -> bytes:
    """Return what a trainer signs to advertise its keys."""
    return _PURPOSE + masks.digest(b"keys", sum_id, share_key, mask_key)


def keys_are_shared(members: Collection[Member]) -> bool:
    """Return whether one of the keys that members have for a sum, or have to sign, is there twice."""
    of_sum = {key for one in members for key in (one.share_key, one.mask_key)}
    return len(of_sum) < 2 * len(members) or len({one.identity.signing for one in members}) < len(members)


def list_text(cohort: Cohort, opening: Opening | Opened, survivors: bytes) -> bytes:
    """Return what a survivor signs: the list, and all that it belongs to."""
    return _PURPOSE + masks.digest(
        b"survivors", cohort.sum, cohort.digest, opening.question, opening.dealers, survivors
    )
