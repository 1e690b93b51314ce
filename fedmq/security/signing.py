"""Signatures end to end: who says what, so that neither the broker nor another member can say it in their name.

Signed is the header as it was sent, never a re-serialisation: it names run, term, round, trainer, and the SHA-256 of
every array. Before it stands what the signature is for, and the federation, so that none is good anywhere else. Knows
nothing of sockets or of what follows from a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from fedmq.errors import Rejected
from fedmq.protocol import topics
from fedmq.protocol.codec import Packet
from fedmq.protocol.messages import FromTrainer, Presence

if TYPE_CHECKING:
    from fedmq.security.keyring import Credentials, Members
    from fedmq.security.keys import PublicIdentity

PURPOSE = b"fedmq message, version 1\0"


class Signing(Protocol):
    """Signs what one party says, and checks what it hears."""

    def sign(self, header: bytes) -> bytes:
        """The signature frame for this header."""
        ...

    def check(self, packet: Packet, now: float) -> None:
        """Nothing, if the message was said by who alone may say it.

        Raises:
            Rejected: `signature` or `sender`.
        """
        ...

    def fingerprint(self, name: str) -> str:
        """Of the key of a trainer that has been heard; "" where there are no keys."""
        ...


class NoSigning:
    """Without keys: nothing is signed, and everybody on this machine is believed."""

    def sign(self, header: bytes) -> bytes:
        """See `Seal`."""
        return b""

    def check(self, packet: Packet, now: float) -> None:
        """See `Seal`."""

    def fingerprint(self, name: str) -> str:
        """See `Seal`."""
        return ""


class _KeySigning:
    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._purpose = PURPOSE + credentials.federation.id

    def sign(self, header: bytes) -> bytes:
        """See `Seal`."""
        return self._credentials.identity.sign(self._purpose + header)

    def fingerprint(self, name: str) -> str:
        """See `Seal`; only the aggregator's knows the others' keys."""
        return ""

    def _check_signature(self, packet: Packet, public: PublicIdentity) -> None:
        if not public.verifies(packet.frames[2], self._purpose + packet.frames[1]):
            kind = type(packet.message).__name__
            raise Rejected("signature", f"expected a {kind} signed by the {public.role} with key {public.fingerprint}")


class TrainerSigning(_KeySigning):
    """A trainer's, or an operator's: it heeds what the aggregator's pinned key has signed."""

    def signer(self, packet: Packet) -> str | None:
        """The fingerprint of the pinned key, if it has signed this; else None."""
        aggregator = self._credentials.federation.aggregator
        signed = aggregator.verifies(packet.frames[2], self._purpose + packet.frames[1])
        return aggregator.fingerprint if signed else None

    def check(self, packet: Packet, now: float) -> None:
        """See `Seal`."""
        self._check_signature(packet, self._credentials.federation.aggregator)


class AggregatorSigning(_KeySigning):
    """The aggregator's: what a trainer says is signed by the member of that name, and came over its own connection.

    An operator holds the aggregator's own key. Of presence the broker's word is taken: it decides nothing but pace.
    """

    def __init__(self, credentials: Credentials, members: Members) -> None:
        super().__init__(credentials)
        self._members = members

    def fingerprint(self, name: str) -> str:
        """See `Seal`."""
        member = self._members.of_name(name)
        return "" if member is None else member.fingerprint

    def check(self, packet: Packet, now: float) -> None:
        """See `Seal`."""
        self._members.refresh(now)
        message = packet.message
        if isinstance(message, Presence):
            if packet.topic != topics.presence_of(message.trainer):
                raise Rejected("sender", f"expected the broker's word on {message.trainer}, it came as {packet.topic}")
            return
        if not isinstance(message, FromTrainer):
            self._check_signature(packet, self._credentials.federation.aggregator)
            return
        member = self._members.of_name(message.trainer)
        if member is None or member.role != "trainer":
            raise Rejected("sender", f"expected a trainer that is a member, got {message.trainer}; see fedmq keys ls")
        if packet.topic.rpartition("/")[2] != message.trainer:
            raise Rejected("sender", f"expected {message.trainer} itself, it came as {packet.topic}")
        self._check_signature(packet, member)
