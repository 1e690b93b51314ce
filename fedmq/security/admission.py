"""The broker's rules for who asks to be let in: what a token is good for, and how a request stands.

Knows the folder of keys and no socket. People decide, with `fedmq keys`, by moving files; this only writes down who
asks, and tells them what became of it:

    over a token's key    nobody has asked with it        keep the request, and the token is that key's alone
                          this key has asked              waiting, accepted or rejected: where its file stands now
                          another key has asked           refused
    over a member's key   for itself                      accepted
                          for a new key, signed by both   the new key takes the place of the old one, which is revoked

A file that is moved stands in its new folder before it is missed in the old one, so looking in the order of the moves
(requests, members, revoked) never misses it.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path

from fedmq.errors import BadConfiguration, Rejected
from fedmq.protocol.codec import Frames
from fedmq.runtime.clock import Clock
from fedmq.runtime.rate_limit import RateLimited
from fedmq.security.enrollment import RequestStatus, SignedRequest, answer, decode_request
from fedmq.security.keyring import (
    MEMBERS,
    REQUESTS,
    REVOKED,
    FederationInfo,
    Members,
    move_public,
    public_path,
    read_publics,
    write_public,
)
from fedmq.security.keys import PublicIdentity
from fedmq.security.tokens import IssuedToken, format_time, read_issued_token, write_issued_token

REPLACED_AGAIN_S = 10.0  # a key must be so old before it is replaced: it costs everybody their connections
FINGERPRINT_LIKE = re.compile(r"[a-z2-7]{4}(-[a-z2-7]{4})+\Z", re.IGNORECASE)

log = logging.getLogger(__name__)


class Admission:
    """Who asks for a place in the federation of a folder of keys."""

    def __init__(self, folder: Path, federation: FederationInfo, members: Members, clock: Clock) -> None:
        self._folder, self._federation, self._members, self._clock = folder, federation, members, clock
        self._limited = RateLimited(log, clock)

    def answer(self, key: bytes, frames: Frames) -> Frames | None:
        """What to say to who has sent this over a connection with that key; None: nothing, it is no request.

        What is answered is on disk.
        """
        try:
            request = decode_request(self._federation.id, key, frames)
            self._check(request.is_signed_by(request.public, 0), "signed by its own key")
            return answer(self._standing(key, request))
        except Rejected as rejected:
            said = "a request with the key %s… is dropped: %s"
            self._limited.warning(f"dropped {rejected.reason}", said, key.hex()[:8], rejected)
        except BadConfiguration as error:
            self._limited.warning("waits", "a request waits: %s", error)
        return None

    @staticmethod
    def _check(right: bool, expected: str) -> None:
        if not right:
            raise Rejected("signature", f"expected a request {expected}")

    def _standing(self, key: bytes, request: SignedRequest) -> RequestStatus:
        member = self._members.of_key(key)
        if member == request.public:
            return RequestStatus(state="accepted")
        if member is not None:
            return self._replacement(member, request)
        issued = read_issued_token(self._folder, key)
        if issued is None or issued.expires <= self._clock.wall():
            return RequestStatus(state="expired")
        if issued.used_by is None:
            return self._first(key, issued, request.public)
        if issued.used_by != request.public.fingerprint:
            return RequestStatus(state="refused", detail="the token has been used: it is good for one machine")
        return self._place(request.public)

    def _first(self, key: bytes, issued: IssuedToken, public: PublicIdentity) -> RequestStatus:
        """The request of who is the first to use a token."""
        if why := self._impossible(issued, public):
            return RequestStatus(state="refused", detail=why)
        asks_again = any(self._is_in(kind, public) for kind in (REQUESTS, MEMBERS))
        if not asks_again:
            write_public(self._folder, REQUESTS, public)
        # After the request: in between, the same key asks again, and is bound then.
        write_issued_token(self._folder, key, IssuedToken(issued.expires, issued.name, public.fingerprint))
        if asks_again:
            return self._place(public)
        log.warning(
            "%s %s asks to be let in until %s; if its own screen shows this fingerprint: fedmq keys accept %s",
            public.role,
            public.name,
            format_time(issued.expires),
            public.fingerprint,
        )
        return RequestStatus(state="waiting")

    def _impossible(self, issued: IssuedToken, public: PublicIdentity) -> str | None:
        """Why nobody should be asked about this request; None if it is possible."""
        if public.role != "trainer":
            return f"expected a trainer, got a key of role {public.role}"
        if issued.name not in (None, public.name):
            return f"the token is for the name {issued.name}, got {public.name}"
        if FINGERPRINT_LIKE.match(public.name):
            return f"expected a name that does not look like a fingerprint, got {public.name}"
        others = [self._federation.aggregator, *self._all(MEMBERS), *self._all(REQUESTS)]
        if any(one.name == public.name for one in others if one != public):
            return f"another one is named {public.name} already; choose another name with --name"
        return self._known(public)

    def _known(self, public: PublicIdentity) -> str | None:
        """Why these keys can not be let in; None if nobody has, had or asks with one of them."""
        if any(_share_a_key(one, public) for one in self._all(REVOKED)):
            return "the key has been revoked; a new one is needed"
        others = [self._federation.aggregator, *self._all(MEMBERS), *self._all(REQUESTS)]
        if any(_share_a_key(one, public) for one in others if one != public):
            return "the key is another one's already; a new one is needed"
        return None

    def _place(self, public: PublicIdentity) -> RequestStatus:
        """How a request stands that has been written down."""
        if self._is_in(REQUESTS, public):
            return RequestStatus(state="waiting")
        if self._is_in(MEMBERS, public):  # and let in, once the list has been looked at again
            return RequestStatus(state="waiting" if self._members.of_key(public.transport) is None else "accepted")
        return RequestStatus(state="rejected")

    def _replacement(self, member: PublicIdentity, request: SignedRequest) -> RequestStatus:
        """A member asks for a new key to take its place."""
        public, is_in = request.public, self._is_in(MEMBERS, request.public)
        self._check(request.is_signed_by(member, 1), "signed by the key that it is to replace")
        if not self._is_in(MEMBERS, member):
            return RequestStatus(state="rejected")
        if (public.role, public.name) != (member.role, member.name):
            return RequestStatus(state="refused", detail=f"expected a new key of {member.role} {member.name}")
        if not is_in and (why := self._known(public)):
            return RequestStatus(state="refused", detail=why)
        if not is_in and 0 <= self._age(member) < REPLACED_AGAIN_S:
            return RequestStatus(state="waiting", detail=f"a key has to be {REPLACED_AGAIN_S:g} s old to be replaced")
        if not is_in:
            write_public(self._folder, MEMBERS, public)
        move_public(self._folder, member, MEMBERS, REVOKED)
        log.warning("%s %s has a new key: %s", public.role, public.name, public.fingerprint)
        return RequestStatus(state="accepted")

    def _age(self, member: PublicIdentity) -> float:
        try:
            return self._clock.wall() - public_path(self._folder, MEMBERS, member).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def _all(self, kind: str) -> list[PublicIdentity]:
        return read_publics(self._folder, kind)

    def _is_in(self, kind: str, public: PublicIdentity) -> bool:
        return public_path(self._folder, kind, public).exists()


def _share_a_key(one: PublicIdentity, other: PublicIdentity) -> bool:
    return one.transport == other.transport or one.signing == other.signing
