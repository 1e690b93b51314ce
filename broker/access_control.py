"""Access control: which key may use which port of the broker, and how much.

A revoked member is refused at every new connection, and its messages over open connections are dropped.
"""

import logging
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

from fedmq.runtime.clock import Clock
from fedmq.security.keyring import Credentials, Members
from fedmq.security.keys import PublicIdentity
from fedmq.security.tokens import IssuedTokens
from fedmq.transport.link import Port

ROLES = {
    Port.PUBLISH: {"aggregator"},
    Port.SUBSCRIBE: {"trainer", "observer", "aggregator"},  # a control client has the aggregator's key
    Port.PUSH: {"trainer", "aggregator"},
    Port.COLLECT: {"aggregator"},
    Port.JOIN: {"trainer"},  # to learn that it is accepted, and to replace its key; other keys need a token
}
CONNECTIONS_MAX = 32  # open ones of a key: a trainer has two, an observer one for each terminal
BLOCKED_S = 60.0  # after a violation
# Quotas of a key: at once, and a second. A member makes two handshakes.
HANDSHAKES, HANDSHAKES_S = 60.0, 5.0
MESSAGES, MESSAGES_S = 2_000.0, 500.0
MEBIBYTES, MEBIBYTES_S = 256.0, 64.0
REQUESTS, REQUESTS_S = 20.0, 3.0  # each costs two signatures; a client sends two a second
# Quotas of all keys together: many that request at once delay no round. Members leave room for the holders of tokens.
ALL_REQUESTS, ALL_REQUESTS_S = 200.0, 100.0
MEMBER_REQUESTS, MEMBER_REQUESTS_S = 40.0, 10.0  # a member only ever replaces its key
LOGGED_AGAIN_S = 60.0
# Reasons of refusals. Those of connections are counted on a thread of their own: each counter has one writer.
REFUSALS = ("connection-key", "connection-rate", "message-key", "message-rate")

log = logging.getLogger(__name__)


@dataclass
class Bucket:
    """A token bucket: `most` at once, `rate` a second."""

    most: float
    rate: float
    level: float = 0.0  # taken and not refilled yet
    at: float = 0.0

    def take(self, amount: float, now: float) -> bool:
        """Take an amount; return False, and take nothing, if the bucket has less."""
        self.level, self.at = max(0.0, self.level - self.rate * (now - self.at)), now
        if self.level + amount > self.most:
            return False
        self.level += amount
        return True


@dataclass
class Usage:
    """The quotas that one key has used."""

    handshakes: Bucket = field(default_factory=lambda: Bucket(HANDSHAKES, HANDSHAKES_S))
    messages: Bucket = field(default_factory=lambda: Bucket(MESSAGES, MESSAGES_S))
    mebibytes: Bucket = field(default_factory=lambda: Bucket(MEBIBYTES, MEBIBYTES_S))
    requests: Bucket = field(default_factory=lambda: Bucket(REQUESTS, REQUESTS_S))
    blocked_until: float = 0.0
    logged_at: float = -LOGGED_AGAIN_S


class TokenHolder(NamedTuple):
    """A machine with a token, which has no name yet."""

    fingerprint: str
    role: str = "holder of token"
    name: str = ""


class KeyAccessControl:
    """The access control of a broker with keys; see `link.AccessControl`. Without `tokens` there is no enrollment."""

    def __init__(
        self, credentials: Credentials, members: Members, clock: Clock, tokens: IssuedTokens | None = None
    ) -> None:
        self.secret = credentials.identity.transport_secret
        self._aggregator = credentials.federation.aggregator
        self._members, self._tokens, self._clock = members, tokens, clock
        self.refused = dict.fromkeys(REFUSALS, 0)
        self._requests = Bucket(ALL_REQUESTS, ALL_REQUESTS_S)
        self._member_requests = Bucket(MEMBER_REQUESTS, MEMBER_REQUESTS_S)
        self._usage: defaultdict[bytes, Usage] = defaultdict(Usage)  # of members and tokens only, so it is bounded

    def allows(self, port: Port, key: bytes) -> bool:
        owner, now = self._owner(port, key), self._clock.now()
        if owner is None or now < (usage := self._usage[key]).blocked_until:
            self.refused["connection-key"] += 1
            return False
        if not usage.handshakes.take(1.0, now):
            self.refused["connection-rate"] += 1
            self._log(owner, usage, now, "connects too often")
            return False
        return True

    def sender(self, port: Port, key: bytes, size: int) -> str | None:
        owner, now = self._owner(port, key), self._clock.now()
        if owner is None or now < (usage := self._usage[key]).blocked_until:
            self.refused["message-key"] += 1
            return None
        if port is Port.JOIN:
            within = (
                usage.requests.take(1.0, now)
                and (isinstance(owner, TokenHolder) or self._member_requests.take(1.0, now))
                and self._requests.take(1.0, now)
            )
        else:
            within = owner.role == "aggregator" or (
                usage.messages.take(1.0, now) and usage.mebibytes.take(size / 2**20, now)
            )
        if within:
            # Only a trainer has an inbox: to the port of the inboxes, other roles have no name.
            return owner.name if owner.role == "trainer" or port is not Port.SUBSCRIBE else ""
        self.refused["message-rate"] += 1
        self._log(owner, usage, now, "sends too much; some messages are dropped")
        return None

    def connections_max(self, key: bytes) -> int | None:
        return None if key == self._aggregator.transport else CONNECTIONS_MAX

    def block(self, key: bytes) -> None:
        public = self._aggregator if key == self._aggregator.transport else self._members.of_key(key)
        if public is None:
            return  # revoked: it is refused anyway, and its usage is forgotten
        usage, now = self._usage[key], self._clock.now()
        usage.blocked_until = now + BLOCKED_S
        self._log(public, usage, now, f"violated the protocol and is blocked for {BLOCKED_S:g} s")

    def refresh(self) -> list[PublicIdentity]:
        """Read members and tokens again; return the identities that are no longer members."""
        for key in set() if self._tokens is None else self._tokens.refresh(self._clock.now()):
            self._usage.pop(key, None)
        removed = self._members.refresh(self._clock.now())
        for public in removed:
            log.warning("%s %s (%s) is no longer a member", public.role, public.name, public.fingerprint)
            self._usage.pop(public.transport, None)
        return removed

    def _owner(self, port: Port, key: bytes) -> PublicIdentity | TokenHolder | None:
        if key == self._aggregator.transport:
            public: PublicIdentity | None = self._aggregator
        else:  # a member is never the aggregator, whatever role is in its file
            public = self._members.of_key(key)
            public = None if public is not None and public.role == "aggregator" else public
        if public is not None:
            return public if public.role in ROLES[port] else None
        issued = self._tokens.by_key.get(key) if port is Port.JOIN and self._tokens is not None else None
        return None if issued is None or issued.expires <= self._clock.wall() else TokenHolder(key.hex()[:8])

    @staticmethod
    def _log(owner: PublicIdentity | TokenHolder, usage: Usage, now: float, violation: str) -> None:
        if now >= usage.logged_at + LOGGED_AGAIN_S:
            usage.logged_at = now
            log.warning("%s %s (%s) %s", owner.role, owner.name, owner.fingerprint, violation)
