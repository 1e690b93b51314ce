"""Who may use which of the broker's ports, and how much: the allow-list, and a quota for each key.

Knows nothing of sockets or topics. A member that is revoked is not let in any more, and what still comes over its old
connections is nobody's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple

from fedmq.runtime.clock import Clock
from fedmq.security.keyring import Credentials, Members
from fedmq.security.keys import PublicIdentity
from fedmq.security.tokens import IssuedTokens
from fedmq.transport.link import Port

ROLES = {
    Port.PUBLISH: {"aggregator"},
    Port.SUBSCRIBE: {"trainer", "observer", "aggregator"},  # an operator holds the aggregator's key
    Port.PUSH: {"trainer", "aggregator"},
    Port.COLLECT: {"aggregator"},
    Port.JOIN: {"trainer"},  # to hear that it is accepted, and to have its key replaced; else it takes a token
}
PUNISHED_S = 60.0  # how long a key is shut out whose connection had to be cut
HANDSHAKES, HANDSHAKES_S = 60.0, 5.0  # at once, and a second; a member makes two
MESSAGES, MESSAGES_S = 2_000.0, 500.0
MEBIBYTES, MEBIBYTES_S = 256.0, 64.0
ASKS, ASKS_S = (
    20.0,
    3.0,
)  # at the fifth port, where each costs a signature and some files; who waits asks twice a second
TOLD_AGAIN_S = 60.0
# Why a connection or a message is refused. The former are counted on a thread of their own: each has one writer.
REFUSALS = ("connection-key", "connection-rate", "message-key", "message-rate")

log = logging.getLogger(__name__)


@dataclass
class Bucket:
    """A token bucket: `most` at once, `rate` a second."""

    most: float
    rate: float
    level: float = 0.0  # what has been taken out of it
    at: float = 0.0

    def take(self, amount: float, now: float) -> bool:
        """Take so much; False, and nothing is taken, when there is not so much in it."""
        self.level, self.at = max(0.0, self.level - self.rate * (now - self.at)), now
        if self.level + amount > self.most:
            return False
        self.level += amount
        return True


class Account:
    """What one key has used."""

    def __init__(self) -> None:
        self.handshakes = Bucket(HANDSHAKES, HANDSHAKES_S)
        self.messages = Bucket(MESSAGES, MESSAGES_S)
        self.mebibytes = Bucket(MEBIBYTES, MEBIBYTES_S)
        self.asks = Bucket(ASKS, ASKS_S)
        self.shut_out_until = 0.0
        self.told_at = -TOLD_AGAIN_S


class Bearer(NamedTuple):
    """Who has a token, and no name yet."""

    fingerprint: str
    role: str = "bearer of a token"
    name: str = ""


class KeyAccessControl:
    """The gate of a broker that has keys; see `network.Gate`. Without `tokens` nobody can ask to be let in."""

    def __init__(
        self, credentials: Credentials, members: Members, clock: Clock, tokens: IssuedTokens | None = None
    ) -> None:
        self.secret = credentials.identity.transport_secret
        self._aggregator = credentials.federation.aggregator
        self._members, self._tokens, self._clock = members, tokens, clock
        self.refused = dict.fromkeys(REFUSALS, 0)
        self._accounts: dict[bytes, Account] = {}  # only of those who are let in: bounded as members and tokens are

    def allows(self, port: Port, key: bytes) -> bool:
        """See `network.Gate`."""
        guest = self._guest(port, key)
        if guest is None:
            self.refused["connection-key"] += 1
            return False
        account, now = self._account(key), self._clock.now()
        if now < account.shut_out_until:
            self.refused["connection-key"] += 1
            return False
        if not account.handshakes.take(1.0, now):
            self.refused["connection-rate"] += 1
            self._tell(guest, account, now, "connects too often")
            return False
        return True

    def sender(self, port: Port, key: bytes, size: int) -> str | None:
        """See `network.Gate`."""
        guest = self._guest(port, key)
        if guest is None:
            self.refused["message-key"] += 1
            return None
        account, now = self._account(key), self._clock.now()
        if now < account.shut_out_until:
            self.refused["message-key"] += 1
            return None
        if port is Port.JOIN:
            within = account.asks.take(1.0, now)
        else:
            within = guest.role == "aggregator" or (
                account.messages.take(1.0, now) and account.mebibytes.take(size / 2**20, now)
            )
        if within:
            # An inbox is a trainer's: who has none is nobody there.
            return guest.name if guest.role == "trainer" or port is not Port.SUBSCRIBE else ""
        self.refused["message-rate"] += 1
        self._tell(guest, account, now, "sends too much; some of it is dropped")
        return None

    def block(self, key: bytes) -> None:
        """See `network.Gate`."""
        public = self._aggregator if key == self._aggregator.transport else self._members.of_key(key)
        if public is None:
            return  # it is not let in any more, and nothing is kept of it
        account, now = self._account(key), self._clock.now()
        account.shut_out_until = now + PUNISHED_S
        self._tell(public, account, now, f"did what nobody may, and is shut out for {PUNISHED_S:g} s")

    def refresh(self) -> list[PublicIdentity]:
        """Who was let in until now, and is not any more."""
        for key in set() if self._tokens is None else self._tokens.refresh(self._clock.now()):
            self._accounts.pop(key, None)
        gone = self._members.refresh(self._clock.now())
        for public in gone:
            log.warning("%s %s (%s) is not let in any more", public.role, public.name, public.fingerprint)
            self._accounts.pop(public.transport, None)
        return gone

    def _guest(self, port: Port, key: bytes) -> PublicIdentity | Bearer | None:
        if key == self._aggregator.transport:
            public: PublicIdentity | None = self._aggregator
        else:  # a member is no aggregator, whatever its file says
            public = self._members.of_key(key)
            public = None if public is not None and public.role == "aggregator" else public
        if public is not None:
            return public if public.role in ROLES[port] else None
        expires = self._tokens.expires(key) if port is Port.JOIN and self._tokens is not None else None
        return None if expires is None or expires <= self._clock.wall() else Bearer(key.hex()[:8])

    def _account(self, key: bytes) -> Account:
        return self._accounts.setdefault(key, Account())

    @staticmethod
    def _tell(guest: PublicIdentity | Bearer, account: Account, now: float, what: str) -> None:
        if now >= account.told_at + TOLD_AGAIN_S:
            account.told_at = now
            log.warning("%s %s (%s) %s", guest.role, guest.name, guest.fingerprint, what)
