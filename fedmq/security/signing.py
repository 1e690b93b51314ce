"""Message signing: neither the broker nor another member can send a message in a sender's name.

The signature is over the header exactly as it was sent. The header names run, term, round, trainer, and the SHA-256 of
every array. A purpose and the federation's id come first, so that a signature is valid nowhere else.
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
    """Sign the messages of one service, and verify those that it receives."""

    def sign(self, header: bytes) -> bytes:
        """Return the signature frame for this header."""

    def check(self, packet: Packet, now: float) -> str:
        """Verify that the message is from the only sender that may send it.

        Returns the fingerprint of the key that signed it, or "" if no key did.

        Raises:
            Rejected: `signature` or `sender`.
        """


class NoSigning:
    """Without keys: no message is signed, and every message of this machine is accepted."""

    def sign(self, header: bytes) -> bytes:
        return b""

    def check(self, packet: Packet, now: float) -> str:
        """Accept the message."""
        return ""


class _KeySigning:
    def __init__(self, credentials: Credentials) -> None:
        self.use(credentials)

    def use(self, credentials: Credentials) -> None:
        """Sign and verify with these keys from now on."""
        self._credentials = credentials
        self._purpose = PURPOSE + credentials.federation.id

    def sign(self, header: bytes) -> bytes:
        return self._credentials.identity.sign(self._purpose + header)

    def _check_signature(self, packet: Packet, public: PublicIdentity) -> str:
        if not public.verifies(packet.frames[2], self._purpose + packet.frames[1]):
            kind = type(packet.message).__name__
            raise Rejected("signature", f"expected a {kind} signed by the {public.role} with key {public.fingerprint}")
        return public.fingerprint


class TrainerSigning(_KeySigning):
    """For a trainer or a control client: accept messages that the aggregator's pinned key has signed."""

    def signer(self, packet: Packet) -> str | None:
        """Return the fingerprint of the pinned key if it has signed the message, else None."""
        aggregator = self._credentials.federation.aggregator
        signed = aggregator.verifies(packet.frames[2], self._purpose + packet.frames[1])
        return aggregator.fingerprint if signed else None

    def check(self, packet: Packet, now: float) -> str:
        return self._check_signature(packet, self._credentials.federation.aggregator)


class AggregatorSigning(_KeySigning):
    """For the aggregator: accept a trainer's message if the member of that name signed it and sent it itself.

    A control client signs with the aggregator's own key. Presence comes from the broker without a signature: it
    changes only when a round opens and closes.
    """

    def __init__(self, credentials: Credentials, members: Members) -> None:
        super().__init__(credentials)
        self._members = members

    def check(self, packet: Packet, now: float) -> str:
        self._members.refresh(now)
        message = packet.message
        if isinstance(message, Presence):
            if packet.topic != topics.PRESENCE + message.trainer:
                raise Rejected("sender", f"expected the presence of {message.trainer}, got topic {packet.topic}")
            return ""
        if not isinstance(message, FromTrainer):
            return self._check_signature(packet, self._credentials.federation.aggregator)
        member = self._members.of_name(message.trainer)
        if member is None or member.role != "trainer":
            raise Rejected("sender", f"expected a trainer that is a member, got {message.trainer}; see fedmq keys ls")
        if packet.topic.rpartition("/")[2] != message.trainer:
            raise Rejected("sender", f"expected a message from {message.trainer}, got topic {packet.topic}")
        return self._check_signature(packet, member)
