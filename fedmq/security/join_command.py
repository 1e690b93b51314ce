"""The command `fedmq trainer join`: makes this machine's keys, and asks with a token for them to be let in."""

from __future__ import annotations

import re
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmq.cli.options import check_name, keys_folder_option, log_options, option, timeout_option
from fedmq.errors import BadConfiguration, NotAuthorized
from fedmq.names import NAME_PATTERN

if TYPE_CHECKING:
    from fedmq.security.enrollment import RequestStatus
    from fedmq.security.enrollment_client import EnrollmentClient
    from fedmq.security.keyring import FederationInfo
    from fedmq.security.keys import Identity
    from fedmq.security.tokens import Token

STANDARD_INPUT = "-"


@click.command()
@click.argument("token")
@option(
    "--name",
    callback=check_name,
    metavar="NAME",
    help="Who this trainer is. [default: the name that the token is for, or the host's]",
)
@keys_folder_option
@timeout_option
@log_options
def join(token: str, name: str | None, keys: Path, connect_timeout: float | None) -> None:
    """Join a federation with a TOKEN from fedmq keys token; - reads it from the standard input.

    Makes this machine's keys, which never leave it, prints their fingerprint and waits until somebody who sees the same
    fingerprint accepts it. It can be interrupted: the same command goes on waiting. Exit code 0 when it is accepted, 77
    when it is rejected or the token is not good any more, 1 when it was interrupted.

    \b
    Examples:
      fedmq trainer join fedmq1-…
      fedmq trainer join fedmq1-… --name clinic-7 --keys /etc/fedmq/keys
      fedmq trainer join - < token
    """
    from fedmq.security.tokens import decode_token

    pasted = decode_token(sys.stdin.read(2048) if token == STANDARD_INPUT else token)
    _check_federation(keys, pasted.federation)
    identity = _identity(keys, pasted, name)
    click.echo(f"trainer {identity.name}, fingerprint {identity.public.fingerprint}")
    last = _ask(pasted, identity, connect_timeout)
    if last.interrupted:
        click.echo("not accepted yet; the same command goes on waiting", err=True)
        raise SystemExit(1)
    _end(keys, pasted, identity, last.answer)
    click.echo(f"accepted; next: fedmq trainer --keys {keys} --data xor:1/2")


def _check_federation(keys: Path, federation: FederationInfo) -> None:
    """A folder of keys is for one federation; the same one may have new keys."""
    from fedmq.security.keyring import FEDERATION, read_federation

    if (keys / FEDERATION).exists() and read_federation(keys).id != federation.id:
        raise BadConfiguration(
            f"--keys {keys}: expected a token of the federation there, got another's; choose another"
        )


def _identity(keys: Path, pasted: Token, wanted: str | None) -> Identity:
    """Who this machine is: the one that it is already, the one that has asked to be let in, or a new one."""
    from fedmq.security.keyring import NEXT_SUFFIX, read_identity, write_identity
    from fedmq.security.keys import Identity

    found = read_identity(keys, "trainer") or read_identity(keys, "trainer", NEXT_SUFFIX)
    name = wanted or pasted.name or (found.name if found else socket.gethostname().split(".")[0])
    if pasted.name not in (None, name):
        raise BadConfiguration(f"expected --name {pasted.name}, for whom the token is, got {name}; leave --name out")
    if found is not None:
        if found.name != name:
            raise BadConfiguration(
                f"--keys {keys}: expected --name {found.name}, whose key is there, got {name}; choose another folder"
            )
        return found
    if pasted.expires <= time.time():
        raise _expired(pasted)
    if not re.match(NAME_PATTERN, name):
        raise BadConfiguration(f"expected a name of letters, digits and . _ -, got {name!r}; choose one with --name")
    identity = Identity.new("trainer", name)
    write_identity(keys, identity, NEXT_SUFFIX)
    return identity


def _ask(pasted: Token, identity: Identity, timeout_s: float | None) -> EnrollmentClient:
    """The last attempt: over the token's key, or over the own one, which may have been accepted meanwhile."""
    from fedmq.security.enrollment_client import ask_broker
    from fedmq.security.tokens import format_time, public_half
    from fedmq.transport.zeromq import TransportKeys

    def tell(_standing: RequestStatus) -> None:
        click.echo(
            f"waiting until {format_time(pasted.expires)}; where the federation's keys are, compare the fingerprint, "
            f"then: "
            f"fedmq keys accept {identity.public.fingerprint}"
        )

    federation = pasted.federation
    own = TransportKeys(identity.public.transport, identity.transport_secret, federation.broker_key)
    attempts: list[tuple[TransportKeys, float | None]] = [(own, None)]
    if pasted.expires > time.time():
        keys = TransportKeys(public_half(pasted), pasted.secret, federation.broker_key)
        attempts.insert(0, (keys, pasted.expires))
    for keys, expires in attempts:
        last = ask_broker(federation, keys, (identity,), tell, timeout_s=timeout_s, expires=expires)
        if last.interrupted or (last.answer is not None and last.answer.state != "expired"):
            break
    return last


def _end(keys: Path, pasted: Token, identity: Identity, status: RequestStatus | None) -> None:
    """Keep what was accepted, and say in one line what was not.

    Raises:
        NotAuthorized: it was not accepted.
    """
    from fedmq.security.keyring import NEXT_SUFFIX, adopt_next, drop_next, read_identity, write_federation

    state = "expired" if status is None else status.state
    if state == "expired":
        raise _expired(pasted)
    is_next = read_identity(keys, "trainer", NEXT_SUFFIX) == identity
    if status is not None and state != "accepted":
        if is_next:
            drop_next(keys, "trainer")  # it is good for nothing any more; the next attempt makes a new one
        said = "somebody has rejected it" if state == "rejected" else status.detail
        raise NotAuthorized(f"the federation does not let in trainer {identity.name}: {said}")
    write_federation(keys, pasted.federation)
    if is_next:
        adopt_next(keys, "trainer")


def _expired(pasted: Token) -> NotAuthorized:
    from fedmq.security.tokens import format_time

    return NotAuthorized(
        f"expected a token that is still good, got one that was until {format_time(pasted.expires)} or has been used "
        f"(the clock here says {format_time(time.time())}); ask for a new one: fedmq keys token"
    )
