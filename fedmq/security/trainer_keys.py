"""A trainer's keys: create them and join a federation with a token, or replace them.

A new key is `trainer.key.next` until the broker has accepted it. After an interruption or a crash, the same command
continues with the same key.
"""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from fedmq.errors import BadConfiguration, FedmqError, NotAuthorized
from fedmq.names import NAME_PATTERN
from fedmq.security.enrollment import RequestState, RequestStatus, encode_request
from fedmq.security.enrollment_client import EnrollmentClient
from fedmq.security.keyring import (
    FEDERATION,
    NEXT_SUFFIX,
    adopt_next,
    drop_next,
    read_credentials,
    read_federation,
    read_identity,
    write_federation,
    write_identity,
)
from fedmq.security.keys import Identity, transport_public
from fedmq.security.tokens import Token, format_time

if TYPE_CHECKING:
    from fedmq.security.keyring import FederationInfo

Attempt = tuple[bytes, tuple[Identity, ...], float | None]  # secret of the connection, signers, expiry of the token


class Interrupted(FedmqError):
    """A signal ended the request before its final answer; the same command continues it."""


def check_federation(folder: Path, token: Token, *, replace_keys: bool) -> None:
    """Check that a token has the keys of the federation that this machine has joined, if it has joined one.

    The id of a federation is no secret: a token with this id and other keys may be a member's forgery, unless the
    user has compared the new keys.

    Raises:
        BadConfiguration: it is another federation's, or it has other keys and `replace_keys` is false.
    """
    if not (folder / FEDERATION).exists():
        return
    known, new = read_federation(folder), token.federation
    if known.id != new.id:
        raise BadConfiguration(
            f"--keys {folder}: expected a token of the federation in it, got another's: choose another"
        )
    if (known.broker_key, known.aggregator) != (new.broker_key, new.aggregator) and not replace_keys:
        raise BadConfiguration(
            f"--keys {folder}: expected a token with the keys in it ({_listed(known)}), got one with other keys "
            f"({_listed(new)}): if they were replaced, compare them with fedmq keys ls where the federation was "
            "created, then add --replace-keys"
        )


def _listed(federation: FederationInfo) -> str:
    return ", ".join(f"{role} {fingerprint}" for role, fingerprint in federation.fingerprints.items())


def identity_to_join(folder: Path, token: Token, wanted: str | None) -> Identity:
    """Return this machine's identity: the current one, the one that waits for acceptance, or a new one.

    Raises:
        BadConfiguration: the name is not the token's or the existing key's.
        NotAuthorized: there is no key yet, and the token has expired.
    """
    found = read_identity(folder, "trainer") or read_identity(folder, "trainer", NEXT_SUFFIX)
    name = wanted or token.name or (found.name if found else socket.gethostname().split(".")[0])
    if token.name not in (None, name):
        raise BadConfiguration(f"expected --name {token.name}, the name of the token, got {name}: omit --name")
    if found is not None:
        if found.name != name:
            raise BadConfiguration(
                f"--keys {folder}: expected --name {found.name}, the name of the key in it, got {name}: choose another"
            )
        return found
    if token.expires <= time.time():
        raise _expired(token)
    if not re.match(NAME_PATTERN, name):
        raise BadConfiguration(f"expected a name of letters, digits and . _ -, got {name!r}: choose one with --name")
    identity = Identity.new("trainer", name)
    write_identity(folder, identity, NEXT_SUFFIX)
    return identity


def join_federation(
    folder: Path,
    token: Token,
    identity: Identity,
    on_waiting: Callable[[RequestStatus], None],
    timeout_s: float | None,
) -> None:
    """Request membership for an identity until a user accepts it; then adopt the key.

    The request travels over the token's key, and after the token's expiry over the identity's own key, which may have
    been accepted meanwhile.

    Raises:
        Interrupted: a signal ended the wait.
        NotAuthorized: the request was rejected, or the token is not valid.
        Unreachable: the broker did not answer within `timeout_s`.
    """
    federation = token.federation
    attempts: list[Attempt] = [(identity.transport_secret, (identity,), None)]
    if token.expires > time.time():
        attempts.insert(0, (token.secret, (identity,), token.expires))
    status = _request(federation, attempts, on_waiting, timeout_s, retry_after="expired")
    if status is None or status.state == "expired":
        raise _expired(token)
    is_next = read_identity(folder, "trainer", NEXT_SUFFIX) == identity
    if status.state != "accepted":
        if is_next:
            drop_next(folder, "trainer")  # it is never accepted; the next attempt makes a new one
        raise NotAuthorized(
            f"expected trainer {identity.name} to become a member, got: {status.detail or status.state}: "
            "ask for a new token"
        )
    write_federation(folder, federation)
    if is_next:
        adopt_next(folder, "trainer")


def replace_trainer_key(folder: Path, on_waiting: Callable[[RequestStatus], None], timeout_s: float | None) -> Identity:
    """Replace a trainer's key by a new one; return the new identity.

    The request travels over the old key, or over the new one if only the answer to an earlier request was lost.

    Raises:
        BadConfiguration: there is no trainer's key in the folder.
        Interrupted: a signal ended the wait.
        NotAuthorized: the broker accepts neither key, or refused the new one.
        Unreachable: the broker did not answer within `timeout_s`.
    """
    federation, old = read_credentials(folder, "trainer")
    new = read_identity(folder, "trainer", NEXT_SUFFIX)
    if new is None:
        new = Identity.new(old.role, old.name)
        write_identity(folder, new, NEXT_SUFFIX)
    attempts: list[Attempt] = [(old.transport_secret, (new, old), None), (new.transport_secret, (new,), None)]
    status = _request(federation, attempts, on_waiting, timeout_s, retry_after="rejected")
    if status is not None and status.state == "accepted":
        adopt_next(folder, "trainer")
        return new
    if status is not None:
        drop_next(folder, "trainer")
    reason = (
        "the broker accepts neither the old key nor the new one" if status is None else status.detail or status.state
    )
    way_out = "" if status is not None and status.state == "refused" else ": join with a new token"
    raise NotAuthorized(f"expected a new key for trainer {new.name}, got: {reason}{way_out}")


def _request(
    federation: FederationInfo,
    attempts: list[Attempt],
    on_waiting: Callable[[RequestStatus], None],
    timeout_s: float | None,
    *,
    retry_after: RequestState,
) -> RequestStatus | None:
    """Request membership for the first signer; return the first final answer, or None without one.

    Try the next attempt without an answer, and after `retry_after`.
    """
    from fedmq.runtime.clock import SystemClock
    from fedmq.runtime.loop import serve
    from fedmq.transport.zeromq import JoinSockets, TransportKeys

    clock, answer = SystemClock(), None
    for secret, signers, expires in attempts:
        keys = TransportKeys(transport_public(secret), secret, federation.broker_key)
        with closing(JoinSockets(federation.broker, keys)) as link:
            client = EnrollmentClient(
                link,
                encode_request(federation.id, keys.public, *signers),
                clock=clock,
                broker=federation.broker,
                connect_timeout_s=timeout_s,
                expires=expires,
                on_waiting=on_waiting,
            )
            serve(client, link, clock)
        if client.interrupted:
            raise Interrupted("interrupted before the key was accepted: the same command continues")
        answer = client.answer
        if answer is not None and answer.state != retry_after:
            break
    return answer


def _expired(token: Token) -> NotAuthorized:
    return NotAuthorized(
        f"expected a valid token, got one that expired at {format_time(token.expires)} or has been used (this clock is "
        f"at {format_time(time.time())}): create a new one with fedmq keys token"
    )
