"""The roll of a federation: who asks to be let in, who is in, who was; and who is meant by a part of a fingerprint.

Works on the federation's folder of keys alone; a broker that runs there sees what is done within a quarter of a second.
Knows nothing of the network.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import NamedTuple

from fedmq.errors import BadConfiguration
from fedmq.security.keyring import (
    FEDERATION,
    KEY_SUFFIX,
    MEMBERS,
    NEXT_SUFFIX,
    REQUESTS,
    REVOKED,
    FederationInfo,
    adopt_next,
    move_public,
    public_path,
    read_federation,
    read_identity,
    read_publics,
    write_federation,
    write_identity,
    write_public,
)
from fedmq.security.keys import Identity, PublicIdentity, transport_pair
from fedmq.security.tokens import (
    TOKENS,
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
AT_HOME = ("broker", "aggregator")  # the roles whose keys lie where the federation was made


class Membership(NamedTuple):
    """Everybody who is known, and the tokens that are outstanding, by their public keys."""

    members: list[PublicIdentity]
    requests: list[PublicIdentity]
    revoked: list[PublicIdentity]
    tokens: dict[bytes, IssuedToken]


def make_federation(folder: Path, broker: str) -> FederationInfo:
    """Make a federation: the keys of its broker and its aggregator, and the folders of its roll.

    Raises:
        BadConfiguration: there is one already, or the folder cannot be written.
    """
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
        (folder / name).mkdir(mode=0o700, exist_ok=True)
    write_federation(folder, federation)  # the last: with it the folder is one
    return federation


def read_federation_home(folder: Path) -> FederationInfo:
    """The federation that was made in this folder.

    Raises:
        BadConfiguration: none was.
    """
    federation = read_federation(folder)
    if not (folder / MEMBERS).is_dir():
        raise BadConfiguration(
            f"--keys {folder}: expected the folder where the federation was made (it has {MEMBERS}/), got that of a "
            "trainer; go to the broker's machine"
        )
    return federation


def issue_token(folder: Path, expires: int, name: str | None, now: float) -> str:
    """A new token's line; the folder keeps what the broker has to know of it.

    Raises:
        BadConfiguration: too many are outstanding, or the name is another one's.
    """
    federation, membership = read_federation_home(folder), read_membership(folder, now)
    if sum(issued.used_by is None for issued in membership.tokens.values()) >= TOKENS_MAX:
        raise BadConfiguration(f"expected less than {TOKENS_MAX} tokens outstanding; wait until some have expired")
    if name is not None and any(one.name == name for one in (*membership.members, federation.aggregator)):
        raise BadConfiguration(f"--name {name}: another one is named so already; choose another, fedmq keys ls")
    public, secret = transport_pair()
    write_issued_token(folder, public, IssuedToken(expires, name))
    return encode_token(make_token(federation, secret, expires, name))


def add_observer(folder: Path, name: str, out: Path) -> PublicIdentity:
    """Let in somebody who may only watch: a new key of that name, with the federation, in the folder `out`.

    Raises:
        BadConfiguration: a member is named so already, or there is anything in `out`.
    """
    federation = read_federation_home(folder)
    if any(one.name == name for one in (*read_publics(folder, MEMBERS), federation.aggregator)):
        raise BadConfiguration(f"{name}: another one is named so already; choose another, fedmq keys ls")
    if out.is_dir() and any(out.iterdir()):
        raise BadConfiguration(f"--out {out}: expected a new folder, all of which is given away; choose another")
    identity = Identity.new("observer", name)
    write_identity(out, identity)
    write_federation(out, federation)
    write_public(folder, MEMBERS, identity.public)
    return identity.public


def read_membership(folder: Path, now: float) -> Membership:
    """The roll at `now`, seconds since 1970. What has expired goes: tokens, and the requests that came with them."""
    read_federation_home(folder)
    tokens = read_issued_tokens(folder)
    requests = read_publics(folder, REQUESTS)
    for key, issued in tokens.items():
        if issued.expires <= now:
            for public in requests:
                if public.fingerprint == issued.used_by:
                    public_path(folder, REQUESTS, public).unlink(missing_ok=True)
            issued_token_path(folder, key).unlink(missing_ok=True)
    good = {key: issued for key, issued in tokens.items() if issued.expires > now}
    return Membership(
        read_publics(folder, MEMBERS), read_publics(folder, REQUESTS), read_publics(folder, REVOKED), good
    )


def accept(folder: Path, who: str, now: float) -> PublicIdentity:
    """Let in who asks.

    Raises:
        BadConfiguration: nobody is meant, or several, or one who has a member's name, or is in already.
    """
    membership = read_membership(folder, now)
    if not matching(who, membership.requests) and (there := matching(who, membership.members)):
        raise BadConfiguration(f"{name_and_fingerprint(there[0])} is accepted already; fedmq keys ls")
    public = _only(who, membership.requests, "who asks to be let in")
    if any(one.name == public.name for one in membership.members):
        raise BadConfiguration(
            f"expected a new name, got {name_and_fingerprint(public)}: another one is named so already; "
            f"fedmq keys revoke it, or "
            f"fedmq keys reject {public.fingerprint}"
        )
    move_public(folder, public, REQUESTS, MEMBERS)
    return public


def reject(folder: Path, who: str, now: float) -> PublicIdentity:
    """Do not let in who asks.

    Raises:
        BadConfiguration: nobody is meant, or several.
    """
    public = _only(who, read_membership(folder, now).requests, "who asks to be let in")
    public_path(folder, REQUESTS, public).unlink(missing_ok=True)
    return public


def revoke(folder: Path, who: str, now: float) -> PublicIdentity:
    """Let a member in no more.

    Raises:
        BadConfiguration: nobody is meant, or several, or one who is revoked already.
    """
    membership = read_membership(folder, now)
    if not matching(who, membership.members) and (there := matching(who, membership.revoked)):
        raise BadConfiguration(f"{name_and_fingerprint(there[0])} is revoked already; fedmq keys ls")
    public = _only(who, membership.members, "who is let in")
    move_public(folder, public, MEMBERS, REVOKED)
    return public


def renew_key(folder: Path, role: str) -> PublicIdentity:
    """A new key for the broker or the aggregator of the federation that was made in this folder.

    Raises:
        BadConfiguration: the key is not there.
    """
    federation = read_federation_home(folder)
    is_broker = role == "broker"
    old = read_identity(folder, "broker" if is_broker else "aggregator")
    if old is None:
        raise BadConfiguration(f"--keys {folder}: expected {role}{KEY_SUFFIX} in it, got none")
    new = read_identity(folder, old.role, NEXT_SUFFIX) or Identity.new(old.role, old.name)
    if not (folder / f"{role}{NEXT_SUFFIX}").exists():  # else of a crash
        write_identity(folder, new, NEXT_SUFFIX)
    adopt_next(folder, old.role)
    write_federation(
        folder,
        FederationInfo(
            federation.id,
            federation.broker,
            new.public.transport if is_broker else federation.broker_key,
            federation.aggregator if is_broker else new.public,
        ),
    )
    return new.public


def matching(who: str, among: list[PublicIdentity]) -> list[PublicIdentity]:
    """Who is meant by a name, a fingerprint, or the beginning of one; dashes and capitals do not matter."""
    letters = who.replace("-", "").lower()
    begins = len(letters) >= PREFIX_CHARACTERS_MIN
    return [
        one for one in among if one.name == who or (begins and one.fingerprint.replace("-", "").startswith(letters))
    ]


def name_and_fingerprint(public: PublicIdentity) -> str:
    """For people: `alice (k7fq-2mzt-x4wd-hb3p)`."""
    return f"{public.name} ({public.fingerprint})"


def _only(who: str, among: list[PublicIdentity], kind: str) -> PublicIdentity:
    found = matching(who, among)
    if len(found) == 1:
        return found[0]
    there = ", ".join(map(name_and_fingerprint, found or among)) or "nobody"
    if found:
        raise BadConfiguration(f"expected one {kind}, {who} can be each of {there}; give more of the fingerprint")
    raise BadConfiguration(
        f"expected the name or fingerprint (at least {PREFIX_CHARACTERS_MIN} characters) of one {kind}, got {who}; "
        f"that is: {there}"
    )
