"""The broker's rules of enrollment: what a token allows, and the status of a request.

A user decides, with `fedmq keys`, by moving files in the folder of keys. The broker records requests and reports their
status:

    connection key    request                          answer
    a token           the first with this token        record the request, and bind the token to its key
                      the same key again               waiting, accepted or rejected: by the folder of its file
                      another key                      refused
    a member          for the member's own key         accepted
                      for a new key, signed by both    the new key replaces the old one, which is revoked

A moved file exists in its new folder before it is missing in the old one. Looking in the order of the moves (requests,
members, revoked) therefore always finds it.
"""

import logging
import re
from pathlib import Path

from fedmq.errors import BadConfiguration, Rejected
from fedmq.protocol.codec import Frames
from fedmq.runtime.clock import Clock
from fedmq.runtime.rate_limit import RateLimited
from fedmq.security.enrollment import RequestStatus, SignedRequest, decode_request, encode_status
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

KEY_AGE_MIN_S = 10.0  # before a key is replaced: a replacement drops every connection
FINGERPRINT_LIKE = re.compile(r"[a-z2-7]{4}(-[a-z2-7]{4})+\Z", re.IGNORECASE)

log = logging.getLogger(__name__)


class Admission:
    """Answer requests for membership in the federation of a folder of keys."""

    def __init__(self, folder: Path, federation: FederationInfo, members: Members, clock: Clock) -> None:
        self._folder, self._federation, self._members, self._clock = folder, federation, members, clock
        self._limited = RateLimited(log, clock)

    def answer(self, key: bytes, frames: Frames) -> Frames | None:
        """Return the answer to frames from a connection with this key; None if they are not a request.

        What the answer reports is on disk.
        """
        try:
            request = decode_request(self._federation.id, key, frames)
            self._check(request.is_signed_by(request.public, 0), "signed by its own key")
            return encode_status(self._status(key, request))
        except Rejected as rejected:
            line = "a request with the key %s… is dropped: %s"
            self._limited.warning(f"dropped {rejected.reason}", line, key.hex()[:8], rejected)
        except BadConfiguration as error:
            self._limited.warning("waits", "a request waits: %s", error)
        return None

    @staticmethod
    def _check(condition: bool, expected: str) -> None:
        if not condition:
            raise Rejected("signature", f"expected a request {expected}")

    def _status(self, key: bytes, request: SignedRequest) -> RequestStatus:
        member = self._members.of_key(key)
        if member == request.public:
            return RequestStatus(state="accepted")
        if member is not None:
            return self._replace(member, request)
        issued = read_issued_token(self._folder, key)
        if issued is None or issued.expires <= self._clock.wall():
            return RequestStatus(state="expired")
        if issued.used_by is None:
            return self._use_token(key, issued, request.public)
        if issued.used_by != request.public.fingerprint:
            return RequestStatus(state="refused", detail="the token has been used: it is valid for one machine")
        return self._recorded(request.public)

    def _use_token(self, key: bytes, issued: IssuedToken, public: PublicIdentity) -> RequestStatus:
        if reason := self._why_impossible(issued, public):
            return RequestStatus(state="refused", detail=reason)
        is_recorded = any(self._is_in(kind, public) for kind in (REQUESTS, MEMBERS))
        if not is_recorded:
            write_public(self._folder, REQUESTS, public)
        # After the request: a crash in between leaves the token unused, and the same key requests again.
        write_issued_token(self._folder, key, IssuedToken(issued.expires, issued.name, public.fingerprint))
        if is_recorded:
            return self._recorded(public)
        log.warning(
            "%s %s requests membership until %s; if its own screen shows this fingerprint: fedmq keys accept %s",
            public.role,
            public.name,
            format_time(issued.expires),
            public.fingerprint,
        )
        return RequestStatus(state="waiting")

    def _why_impossible(self, issued: IssuedToken, public: PublicIdentity) -> str | None:
        """Return why a user could not accept this request; None if it is possible."""
        if public.role != "trainer":
            return f"expected a trainer, got a key of role {public.role}"
        if issued.name not in (None, public.name):
            return f"the token is for the name {issued.name}, got {public.name}"
        if FINGERPRINT_LIKE.match(public.name):
            return f"expected a name that does not look like a fingerprint, got {public.name}"
        others = [self._federation.aggregator, *self._all(MEMBERS), *self._all(REQUESTS)]
        if any(one.name == public.name for one in others if one != public):
            return f"the name {public.name} is taken; choose another with --name"
        return self._why_unusable(public)

    def _why_unusable(self, public: PublicIdentity) -> str | None:
        """Return why these keys cannot become a member's; None if no other identity has or had one of them."""
        if any(_share_a_key(one, public) for one in self._all(REVOKED)):
            return "the key has been revoked; a new one is needed"
        others = [self._federation.aggregator, *self._all(MEMBERS), *self._all(REQUESTS)]
        if any(_share_a_key(one, public) for one in others if one != public):
            return "the key belongs to another member; a new one is needed"
        return None

    def _recorded(self, public: PublicIdentity) -> RequestStatus:
        if self._is_in(REQUESTS, public):
            return RequestStatus(state="waiting")
        if self._is_in(MEMBERS, public):  # accepted once the list of members is refreshed
            return RequestStatus(state="waiting" if self._members.of_key(public.transport) is None else "accepted")
        return RequestStatus(state="rejected")

    def _replace(self, member: PublicIdentity, request: SignedRequest) -> RequestStatus:
        public, is_in = request.public, self._is_in(MEMBERS, request.public)
        self._check(request.is_signed_by(member, 1), "signed by the key to replace")
        if not self._is_in(MEMBERS, member):
            return RequestStatus(state="rejected")
        if (public.role, public.name) != (member.role, member.name):
            return RequestStatus(state="refused", detail=f"expected a new key of {member.role} {member.name}")
        if not is_in and (reason := self._why_unusable(public)):
            return RequestStatus(state="refused", detail=reason)
        if not is_in and 0 <= self._age(member) < KEY_AGE_MIN_S:
            return RequestStatus(state="waiting", detail=f"a key is replaced after {KEY_AGE_MIN_S:g} s at the earliest")
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
