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
members, revoked) therefore always finds it. Answers come from memory: a request reads no file, and writes one only if
it changes something.
"""

import itertools
import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path

from fedmq.errors import BadConfiguration, Rejected
from fedmq.protocol.codec import Frames
from fedmq.runtime.atomic_files import writing
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
    watch_publics,
    write_public,
)
from fedmq.security.keys import PublicIdentity
from fedmq.security.tokens import IssuedToken, IssuedTokens, format_time

KEY_AGE_MIN_S = 4 * 3600.0  # of a key that has replaced another, before it is replaced
REVOKED_MAX = 3  # of one name; older ones are forgotten: to be members again, they need a token, as any other key
FINGERPRINT_LIKE = re.compile(r"[a-z2-7]{4}(-[a-z2-7]{4})+\Z", re.IGNORECASE)

log = logging.getLogger(__name__)


class Admission:
    """Answer requests for membership in the federation of a folder of keys."""

    def __init__(
        self, folder: Path, federation: FederationInfo, members: Members, tokens: IssuedTokens, clock: Clock
    ) -> None:
        self._folder, self._federation, self._members, self._clock = folder, federation, members, clock
        self._tokens = tokens
        self._requests, self._revoked = watch_publics(folder, REQUESTS), watch_publics(folder, REVOKED)
        self._limited = RateLimited(log, clock)

    def answer(self, key: bytes, frames: Frames) -> Frames | None:
        """Return the answer to frames from a connection with this key; None if they are not a request.

        What the answer reports is on disk.
        """
        self._requests.refresh(self._clock.now())
        self._revoked.refresh(self._clock.now())
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
        issued = self._tokens.by_key.get(key)
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
            self._requests.expire()
        # After the request: a crash in between leaves the token unused, and the same key requests again.
        self._tokens.write(key, IssuedToken(issued.expires, issued.name, public.fingerprint))
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
        if any(one.name == public.name for one in self._others(public)):
            return f"the name {public.name} is taken; choose another with --name"
        return self._why_unusable(public)

    def _why_unusable(self, public: PublicIdentity) -> str | None:
        """Return why these keys cannot become a member's; None if no other identity has or had one of them."""
        if any(_share_a_key(one, public) for one in self._revoked.files.values()):
            return "the key has been revoked; a new one is needed"
        if any(_share_a_key(one, public) for one in self._others(public)):
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
        if not is_in and (reason := self._why_too_soon(member)):
            return RequestStatus(state="refused", detail=reason)
        if not is_in:
            write_public(self._folder, MEMBERS, public)
        move_public(self._folder, member, MEMBERS, REVOKED)
        self._members.expire()
        self._forget_revoked(member)
        log.warning("%s %s has a new key: %s", public.role, public.name, public.fingerprint)
        return RequestStatus(state="accepted")

    def _why_too_soon(self, member: PublicIdentity) -> str | None:
        """Return why this member's key cannot be replaced yet; None if it can. Its first one can at any time."""
        if all(one.name != member.name for one in self._revoked.files.values()):
            return None
        age_s = self._clock.wall() - self._changed_at(MEMBERS, member)
        if not 0 <= age_s < KEY_AGE_MIN_S:  # a clock that was wrong does not count
            return None
        left_min = math.ceil((KEY_AGE_MIN_S - age_s) / 60)
        return (
            f"a key that has replaced another is replaced after {KEY_AGE_MIN_S / 3600:g} hours at the earliest: try "
            f"again in {left_min} minutes"
        )

    def _forget_revoked(self, member: PublicIdentity) -> None:
        """Delete all but the newest revoked keys of a name: replacing a key again and again must not fill the disk."""
        self._revoked.expire()
        self._revoked.refresh(self._clock.now())
        of_name = [one for one in self._revoked.files.values() if one.name == member.name and one != member]
        of_name.sort(key=lambda one: self._changed_at(REVOKED, one), reverse=True)
        for one in of_name[REVOKED_MAX - 1 :]:
            with writing(public_path(self._folder, REVOKED, one)):
                public_path(self._folder, REVOKED, one).unlink(missing_ok=True)

    def _changed_at(self, kind: str, public: PublicIdentity) -> float:
        """Return when the key was accepted, in seconds since 1970."""
        try:
            return public_path(self._folder, kind, public).stat().st_mtime
        except FileNotFoundError:
            return self._clock.wall()

    def _others(self, public: PublicIdentity) -> Iterator[PublicIdentity]:
        """Yield the aggregator, all members and all requests, without this identity."""
        known = itertools.chain([self._federation.aggregator], self._members.files, self._requests.files.values())
        return (one for one in known if one != public)

    def _is_in(self, kind: str, public: PublicIdentity) -> bool:
        return public_path(self._folder, kind, public).exists()


def _share_a_key(one: PublicIdentity, other: PublicIdentity) -> bool:
    return one.transport == other.transport or one.signing == other.signing
