"""Changes to the folder of keys where the federation was created: invite, accept, reject and revoke members.

A broker that runs with this folder applies changes within REFRESH_S.

Functions raise BadConfiguration for a folder without a federation, a taken name, or an ambiguous member.
"""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from fedmq.errors import BadConfiguration
from fedmq.runtime.safe_files import make_private_folder
from fedmq.security.keyring import (
    FEDERATION,
    KEY_SUFFIX,
    MEMBERS,
    NEXT_SUFFIX,
    REQUESTS,
    REVOKED,
    TOKENS,
    FederationInfo,
    adopt_next,
    move_public,
    public_path,
    read_credentials,
    read_federation,
    read_identity,
    read_publics,
    write_federation,
    write_identity,
    write_public,
)
from fedmq.security.keys import Identity, PublicIdentity, transport_pair
from fedmq.security.tokens import (
    TOKENS_MAX,
    IssuedToken,
    encode_token,
    issued_token_path,
    make_token,
    read_issued_tokens,
    write_issued_token,
)

FOLDERS = (MEMBERS, REQUESTS, REVOKED, TOKENS)
PREFIX_CHARACTERS_MIN = 4
AT_HOME = ("broker", "aggregator")  # their keys are in the folder where the federation was created


class Membership(NamedTuple):
    """All keys of a federation by status, and the issued tokens by public key."""

    members: list[PublicIdentity]
    requests: list[PublicIdentity]
    revoked: list[PublicIdentity]
    tokens: dict[bytes, IssuedToken]


def make_federation(folder: Path, broker: str) -> FederationInfo:
    """Create a federation: the keys of its broker and its aggregator, and the folders for its members."""
    for name in (FEDERATION, *(f"{role}{KEY_SUFFIX}" for role in AT_HOME)):
        if (folder / name).exists():
            raise BadConfiguration(
                f"--keys {folder}: expected a folder without {name}: keys are never overwritten; choose another folder"
            )
    below, above = Identity.new("broker", "broker"), Identity.new("aggregator", "aggregator")
    federation = FederationInfo(secrets.token_bytes(16), broker, below.public.transport, above.public)
    write_identity(folder, below)
    write_identity(folder, above)
    for name in FOLDERS:
        make_private_folder(folder / name)
    write_federation(folder, federation)  # last: it makes the folder a federation's
    return federation


def read_federation_home(folder: Path) -> FederationInfo:
    """Read the federation that was created in this folder."""
    federation = read_federation(folder)
    if not (folder / MEMBERS).is_dir():
        raise BadConfiguration(
            f"--keys {folder}: expected the folder where the federation was created, with {MEMBERS}/ in it, got a "
            "trainer's: run this on the broker's machine"
        )
    return federation


def issue_token(folder: Path, expires: int, name: str | None, now: float) -> str:
    """Create a token and its record; return its line."""
    federation, membership = read_federation_home(folder), read_membership(folder, now)
    if sum(issued.used_by is None for issued in membership.tokens.values()) >= TOKENS_MAX:
        raise BadConfiguration(f"expected fewer than {TOKENS_MAX} unused tokens: wait until some have expired")
    if name is not None and any(one.name == name for one in (*membership.members, federation.aggregator)):
        raise BadConfiguration(f"--name {name}: expected a new name, got a member's (fedmq keys ls): choose another")
    public, secret = transport_pair()
    write_issued_token(folder, public, IssuedToken(expires, name))
    return encode_token(make_token(federation, secret, expires, name))


def add_observer(folder: Path, name: str, out: Path) -> PublicIdentity:
    """Create an observer's key, with the federation, in the folder `out`; make it a member."""
    federation = read_federation_home(folder)
    if any(one.name == name for one in (*read_publics(folder, MEMBERS), federation.aggregator)):
        raise BadConfiguration(f"{name}: expected a new name, got a member's (fedmq keys ls): choose another")
    if out.is_dir() and any(out.iterdir()):
        raise BadConfiguration(f"--out {out}: expected a new folder, to hand over as a whole: choose another")
    identity = Identity.new("observer", name)
    write_identity(out, identity)
    write_federation(out, federation)
    write_public(folder, MEMBERS, identity.public)
    return identity.public


def read_membership(folder: Path, now: float) -> Membership:
    """Read members, requests, revoked keys and tokens at `now`, in seconds since 1970.

    Deletes expired tokens and the requests that came with them.
    """
    read_federation_home(folder)
    tokens = read_issued_tokens(folder)
    requests = read_publics(folder, REQUESTS)
    for key, issued in tokens.items():
        if issued.expires <= now:
            for public in requests:
                if public.fingerprint == issued.used_by:
                    public_path(folder, REQUESTS, public).unlink(missing_ok=True)
            issued_token_path(folder, key).unlink(missing_ok=True)
    valid = {key: issued for key, issued in tokens.items() if issued.expires > now}
    return Membership(
        read_publics(folder, MEMBERS), read_publics(folder, REQUESTS), read_publics(folder, REVOKED), valid
    )


def find_request(folder: Path, wanted: str, now: float) -> PublicIdentity:
    """Return the key of a request that can be accepted."""
    membership = read_membership(folder, now)
    public = _only(wanted, membership.requests, "request", membership.members, "member")
    if any(one.name == public.name for one in membership.members):
        raise BadConfiguration(
            f"expected a new name, got {name_and_fingerprint(public)}, the name of a member: fedmq keys revoke the "
            f"member, or fedmq keys reject {public.fingerprint}"
        )
    return public


def accept_request(folder: Path, wanted: str, now: float) -> PublicIdentity:
    """Make the requesting key a member."""
    public = find_request(folder, wanted, now)
    move_public(folder, public, REQUESTS, MEMBERS)
    return public


def reject_request(folder: Path, wanted: str, now: float) -> PublicIdentity:
    """Delete a request."""
    public = _only(wanted, read_membership(folder, now).requests, "request")
    public_path(folder, REQUESTS, public).unlink(missing_ok=True)
    return public


def revoke_member(folder: Path, wanted: str, now: float) -> PublicIdentity:
    """Revoke a member's key."""
    membership = read_membership(folder, now)
    public = _only(wanted, membership.members, "member", membership.revoked, "revoked key")
    move_public(folder, public, MEMBERS, REVOKED)
    return public


def renew_key(folder: Path, role: str) -> PublicIdentity:
    """Replace the key of the broker or the aggregator of the federation that was created in this folder."""
    read_federation_home(folder)
    federation, old = read_credentials(folder, "broker" if role == "broker" else "aggregator")
    new = read_identity(folder, old.role, NEXT_SUFFIX) or Identity.new(old.role, old.name)
    if not (folder / f"{role}{NEXT_SUFFIX}").exists():  # else an earlier attempt crashed
        write_identity(folder, new, NEXT_SUFFIX)
    adopt_next(folder, old.role)
    change = {"broker_key": new.public.transport} if role == "broker" else {"aggregator": new.public}
    write_federation(folder, replace(federation, **change))
    return new.public


def matching(wanted: str, among: Sequence[PublicIdentity]) -> list[PublicIdentity]:
    """Return the identities with this name, fingerprint, or prefix of it; dashes and capitals do not matter."""
    letters = _letters(wanted)
    is_prefix = len(letters) >= PREFIX_CHARACTERS_MIN
    return [one for one in among if one.name == wanted or (is_prefix and _letters(one.fingerprint).startswith(letters))]


def is_fingerprint(text: str, public: PublicIdentity) -> bool:
    """Return whether this is the whole fingerprint of an identity; dashes and capitals do not matter."""
    return _letters(text) == _letters(public.fingerprint)


def _letters(fingerprint: str) -> str:
    return fingerprint.replace("-", "").lower()


def name_and_fingerprint(public: PublicIdentity) -> str:
    """Return text such as `alice (k7fq-2mzt-x4wd-hb3p)`."""
    return f"{public.name} ({public.fingerprint})"


def _only(
    wanted: str, among: list[PublicIdentity], kind: str, others: Sequence[PublicIdentity] = (), other_kind: str = ""
) -> PublicIdentity:
    found = matching(wanted, among)
    if len(found) == 1:
        return found[0]
    if not found and (other := matching(wanted, others)):
        got = name_and_fingerprint(other[0])
        raise BadConfiguration(f"expected a {kind}, got {got}, a {other_kind}; see fedmq keys ls")
    listed = ", ".join(map(name_and_fingerprint, found or among)) or "none"
    if found:
        raise BadConfiguration(
            f"expected one {kind}, got {wanted}, which matches {listed}: give more of the fingerprint"
        )
    raise BadConfiguration(
        f"expected the name or the fingerprint (at least {PREFIX_CHARACTERS_MIN} characters) of a {kind}, "
        f"got {wanted}: choose one of: {listed}"
    )
