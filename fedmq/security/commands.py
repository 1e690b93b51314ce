"""The commands `fedmq keys ...` and `fedmq trainer join`."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmq.cli.echo import echo, echo_json
from fedmq.cli.options import (
    FOLDER,
    SECONDS_MAX,
    FiniteRange,
    check_name,
    keys_folder_option,
    log_options,
    option,
    timeout_option,
    together,
)
from fedmq.errors import BadConfiguration

if TYPE_CHECKING:
    from fedmq.security.enrollment import RequestStatus
    from fedmq.security.keys import PublicIdentity

HOURS_MAX = 24 * 365
POLL_S = 0.1
STANDARD_INPUT = "-"
TOKEN_VARIABLE = "FEDMQ_TOKEN"  # noqa: S105 - a name
TOKEN_CHARACTERS_MAX = 2048  # of the text around a token, too
HOURS = FiniteRange(0, HOURS_MAX, min_open=True)
WAIT_S = FiniteRange(0, SECONDS_MAX)

folder_options = together(keys_folder_option, log_options)
trainer_options = together(keys_folder_option, timeout_option, log_options)


@click.group()
def keys() -> None:
    """Create the keys of a federation, and manage its members.

    \b
    Examples:
      fedmq keys init --broker tcp://192.0.2.1:5550
      fedmq keys token
      fedmq keys accept k7fq
      fedmq keys observer wall --out wall
      fedmq keys ls
    """


@keys.command()
@option("--broker", required=True, metavar="ADDRESS", help="tcp://HOST:PORT, the first of five ports, for trainers.")
@folder_options
def init(broker: str, keys: Path) -> None:
    """Create a federation: the keys of its broker and its aggregator, on the machine where both run.

    \b
    Examples:
      fedmq keys init --broker tcp://192.0.2.1:5550
      fedmq keys init --broker tcp://broker.example.org:7000 --keys /etc/fedmq/keys
    """
    from fedmq.security.membership import make_federation
    from fedmq.transport.address import full_address, parse_address

    broker, (host, _) = full_address(broker), parse_address(broker)
    if host == "0.0.0.0":  # noqa: S104 - refused, not bound
        raise BadConfiguration(f"expected an address that trainers can connect to, got {broker}: name this machine")
    federation = make_federation(keys, broker)
    echo(f"federation {federation.id.hex()[:8]}, broker at {broker}")
    for role, fingerprint in federation.fingerprints.items():
        echo(f"{role:<11} {fingerprint}")
    echo(f"secret: {keys}/broker.key and {keys}/aggregator.key; they stay on this machine")
    bind = "" if host.replace(".", "").isdecimal() else " --bind 0.0.0.0"  # an IPv4 address can be bound itself
    echo(f"next: fedmq broker --keys {keys}{bind}; then, for each new machine: fedmq keys token{_where(keys)}")


def _where(keys: Path) -> str:
    return "" if keys == Path("keys") else f" --keys {keys}"


@keys.command()
@option("--name", callback=check_name, metavar="NAME", help="The only name that may join with it. [default: any]")
@option("--hours", type=HOURS, default=24.0, metavar="HOURS", help="How long the token is valid.")
@folder_options
def token(name: str | None, hours: float, keys: Path) -> None:
    """Print a token: one line, to paste on one new machine.

    A token allows one request for membership. The machine becomes a member when you accept the request. The next step
    is printed on stderr.

    \b
    Examples:
      fedmq keys token
      fedmq keys token --name clinic-7 --hours 1
    """
    from fedmq.security.membership import issue_token
    from fedmq.security.tokens import format_time

    now = time.time()
    expires = int(now + hours * 3600)
    echo(issue_token(keys, expires, name, now))
    echo(f"valid for one machine until {format_time(expires)}; on it: fedmq trainer join, then paste it", err=True)


@keys.command()
@click.argument("name", callback=check_name)
@option("--out", required=True, type=FOLDER, metavar="DIR", help="Folder to create, with all files of the observer.")
@folder_options
def observer(name: str, out: Path, keys: Path) -> None:
    """Create a key for an observer NAME, which can watch every run and change nothing.

    Move the folder DIR to the machine of the observer, and keep it secret on the way. fedmq keys revoke NAME ends its
    access.

    \b
    Examples:
      fedmq keys observer wall --out wall
    """
    from fedmq.security.membership import add_observer, name_and_fingerprint

    public = add_observer(keys, name, out)
    echo(f"observer {name_and_fingerprint(public)} is a member; move the folder {out} to its machine")


@keys.command()
@option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@folder_options
def ls(as_json: bool, keys: Path) -> None:
    """List the federation's own keys, members, waiting requests, revoked keys and valid tokens.

    \b
    Examples:
      fedmq keys ls
      fedmq keys ls --json
    """
    from msgspec.structs import asdict

    from fedmq.security.keyring import read_federation
    from fedmq.security.membership import read_membership
    from fedmq.security.tokens import format_time

    federation, membership = read_federation(keys), read_membership(keys, time.time())
    if as_json:
        names = ("role", "name", "fingerprint")
        publics = {
            kind: [{name: getattr(one, name) for name in names} for one in getattr(membership, kind)]
            for kind in ("members", "requests", "revoked")
        }
        tokens = [{"token": key.hex()[:8], **asdict(issued)} for key, issued in membership.tokens.items()]
        echo_json({"own": federation.fingerprints, **publics, "tokens": tokens})
        return
    for role, fingerprint in federation.fingerprints.items():
        echo(f"own      {fingerprint}  {role}")
    titles = {"member": membership.members, "waiting": membership.requests, "revoked": membership.revoked}
    for title, identities in titles.items():
        for one in identities:
            echo(f"{title:<8} {one.fingerprint}  {one.role} {one.name}")
    for key, issued in membership.tokens.items():
        use = f"used by {issued.used_by}" if issued.used_by else f"for {issued.name or 'any name'}"
        echo(f"token    {key.hex()[:8]}, valid until {format_time(issued.expires)}, {use}")
    if not any(membership):
        echo(f"no members yet; for each new machine: fedmq keys token{_where(keys)}")


@keys.command()
@click.argument("member")
@click.argument("fingerprint", required=False)
@option("--wait", type=WAIT_S, default=0.0, metavar="SECONDS", help="How long to wait for the request, for scripts.")
@folder_options
def accept(member: str, fingerprint: str | None, wait: float, keys: Path) -> None:
    """Accept a request. MEMBER is the fingerprint on the new machine's screen, a prefix of it, or the name.

    The name and a prefix prove nothing: another machine may have used the token first. With them, the command shows the
    whole fingerprint and asks, unless FINGERPRINT is the expected one.

    \b
    Examples:
      fedmq keys accept k7fq-2mzt-x4wd-hb3p
      fedmq keys accept clinic-7
      fedmq keys accept clinic-7 k7fq-2mzt-x4wd-hb3p
    """
    from fedmq.security.membership import (
        accept_request,
        find_request,
        is_fingerprint,
        matching,
        name_and_fingerprint,
        read_membership,
    )

    give_up_at = time.monotonic() + wait
    while time.monotonic() < give_up_at and not matching(member, read_membership(keys, time.time()).requests):
        time.sleep(POLL_S)
    public = find_request(keys, member, time.time())
    if fingerprint is not None and not is_fingerprint(fingerprint, public):
        raise BadConfiguration(
            f"expected a request of {member} with the fingerprint {fingerprint}, got {name_and_fingerprint(public)}: "
            f"if it is another machine's, fedmq keys reject {public.fingerprint}"
        )
    if not is_fingerprint(fingerprint or member, public):
        _confirm(public)
    accept_request(keys, public.fingerprint, time.time())
    run = f"fedmq aggregator --keys {keys} --task xor"
    echo(f"accepted {public.role} {name_and_fingerprint(public)}; next: {run}")


def _confirm(public: PublicIdentity) -> None:
    """Ask whether the fingerprint of a request is the right one; end the command if it is not."""
    from fedmq.security.membership import name_and_fingerprint

    echo(f"{public.role} {name_and_fingerprint(public)} requests membership")
    echo("does the new machine show this fingerprint? yes or no:")
    answer = sys.stdin.readline()
    if not answer:  # the standard input has ended
        raise BadConfiguration(
            f"expected an answer, or the fingerprint as an argument, got neither: fedmq keys accept {public.name} "
            "FINGERPRINT"
        )
    if answer.strip().lower() not in ("y", "yes"):
        echo(f"not accepted; to end the request: fedmq keys reject {public.fingerprint}", err=True)
        raise SystemExit(1)


@keys.command()
@click.argument("member")
@folder_options
def reject(member: str, keys: Path) -> None:
    """Reject the request of MEMBER. Its token cannot be used again.

    \b
    Examples:
      fedmq keys reject k7fq
    """
    from fedmq.security.membership import name_and_fingerprint, reject_request

    public = reject_request(keys, member, time.time())
    echo(f"rejected {public.role} {name_and_fingerprint(public)}")


@keys.command()
@click.argument("member")
@folder_options
def revoke(member: str, keys: Path) -> None:
    """Revoke the key of MEMBER: the broker disconnects it within a second, and never accepts this key again.

    \b
    Examples:
      fedmq keys revoke clinic-7
    """
    from fedmq.security.membership import name_and_fingerprint, revoke_member

    public = revoke_member(keys, member, time.time())
    again = "fedmq keys observer" if public.role == "observer" else "fedmq keys token"
    echo(f"revoked {public.role} {name_and_fingerprint(public)}; for a new key: {again}")


@keys.command()
@click.argument("role", type=click.Choice(["trainer", "broker", "aggregator"]), default="trainer")
@trainer_options
def rotate(role: str, keys: Path, connect_timeout: float | None) -> None:
    """Replace the keys of this machine's ROLE: trainer (the default), broker or aggregator.

    The broker accepts a trainer's new key because the old key signs it. After new keys of the broker or the aggregator
    each trainer joins again with a new token; its own key stays accepted.

    \b
    Examples:
      fedmq keys rotate
      fedmq keys rotate aggregator --keys keys
    """
    from fedmq.security.keyring import read_federation
    from fedmq.security.membership import renew_key
    from fedmq.security.trainer_keys import replace_trainer_key

    if role != "trainer":
        renew_key(keys, role)
        fingerprint = read_federation(keys).fingerprints[role]
        echo(f"{role}, new fingerprint {fingerprint}; restart the broker and the aggregator")
        echo(f"each trainer has to join again: fedmq keys token{_where(keys)}, then fedmq trainer join --replace-keys")
        echo(f"each observer needs the new {keys}/federation.json in its folder")
        return

    def on_waiting(status: RequestStatus) -> None:
        echo(f"waiting: {status.detail}")

    identity = replace_trainer_key(keys, on_waiting, connect_timeout)
    echo(f"trainer {identity.name}, new fingerprint {identity.public.fingerprint}; restart fedmq trainer")


@click.command()
@click.argument("file", required=False)
@option("--name", callback=check_name, metavar="NAME", help="This trainer. [default: the token's name, or the host's]")
@option("--replace-keys", is_flag=True, help="Trust the token's keys of broker and aggregator instead of earlier ones.")
@trainer_options
def join(file: str | None, name: str | None, replace_keys: bool, keys: Path, connect_timeout: float | None) -> None:
    """Join a federation with a token from fedmq keys token.

    The token is read from FILE, or else from $FEDMQ_TOKEN, or else from the standard input (-), where it can be pasted.
    It is no argument, because every user of a machine can read the arguments of its processes.

    Creates this machine's keys, which never leave it, prints their fingerprint, and waits until a user accepts it. The
    user compares the fingerprint first. After an interruption, the same command continues to wait. Exit code 0 when the
    key is accepted, 77 when it is rejected or the token has expired, 1 after an interruption.

    \b
    Examples:
      fedmq trainer join
      fedmq trainer join - < token
      fedmq trainer join token --name clinic-7 --keys /etc/fedmq/keys
    """
    from fedmq.security.tokens import decode_token, format_time
    from fedmq.security.trainer_keys import check_federation, identity_to_join, join_federation

    pasted = decode_token(_token_text(file))
    check_federation(keys, pasted, replace_keys=replace_keys)
    identity = identity_to_join(keys, pasted, name)
    fingerprint = identity.public.fingerprint

    def on_waiting(_status: RequestStatus) -> None:
        echo(
            f"waiting until {format_time(pasted.expires)}; on the machine with the federation's keys, compare the "
            f"fingerprint, then: fedmq keys accept {fingerprint}"
        )

    echo(f"trainer {identity.name}, fingerprint {fingerprint}")
    join_federation(keys, pasted, identity, on_waiting, connect_timeout)
    echo(f"accepted; next: fedmq trainer --keys {keys} --data xor:1/2")


def _token_text(file: str | None) -> str:
    """Return the text of a token; a terminal asks for it and does not show it."""
    from fedmq.runtime.safe_files import read_regular
    from fedmq.security.tokens import PREFIX

    if file is None and (text := os.environ.get(TOKEN_VARIABLE)):
        return text
    if file in (None, STANDARD_INPUT):
        if sys.stdin.isatty():
            return str(click.prompt("token", hide_input=True, err=True))
        return sys.stdin.read(TOKEN_CHARACTERS_MAX)
    if file.startswith(PREFIX):
        raise click.UsageError(
            "expected a FILE with the token, or - for the standard input, got the token itself, which every user of "
            "this machine can read in the list of processes: run fedmq trainer join, then paste it"
        )
    try:
        return read_regular(Path(file), TOKEN_CHARACTERS_MAX).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"{file}: expected a file with a token, got: {error}") from error
