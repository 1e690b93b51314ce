"""The commands `fedmq keys …`: a federation's keys, and who is let in.

Says what was done and what to do next; `roll` does it.
"""

from __future__ import annotations

import ipaddress
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmq.cli.options import (
    SECONDS_MAX,
    FiniteRange,
    check_name,
    keys_folder_option,
    log_options,
    option,
    timeout_option,
)
from fedmq.errors import BadConfiguration, NotAuthorized

if TYPE_CHECKING:
    from fedmq.security.keys import PublicIdentity

HOURS_MAX = 24 * 365
POLL_S = 0.1


@click.group()
def keys() -> None:
    """Make a federation's keys, and say who is let in.

    \b
    Examples:
      fedmq keys init --broker tcp://192.0.2.1:5550
      fedmq keys token
      fedmq keys accept k7fq
      fedmq keys observer wall --out wall
      fedmq keys ls
    """


@keys.command()
@option(
    "--broker",
    required=True,
    metavar="ADDRESS",
    help="Where the trainers will find the broker: tcp://HOST:PORT, the first of five ports.",
)
@keys_folder_option
@log_options
def init(broker: str, keys: Path) -> None:
    """Make a federation: the keys of its broker and its aggregator, on the machine where both run.

    \b
    Examples:
      fedmq keys init --broker tcp://192.0.2.1:5550
      fedmq keys init --broker tcp://broker.example.org:7000 --keys /etc/fedmq/keys
    """
    from fedmq.security.keyring import read_credentials
    from fedmq.security.membership import make_federation
    from fedmq.transport.address import parse_address

    host, _ = parse_address(broker)
    if host == "0.0.0.0":  # noqa: S104 - refused, not bound
        raise BadConfiguration(f"expected an address that trainers can connect to, got {broker}; name this machine")
    federation = make_federation(keys, broker)
    click.echo(f"federation {federation.id.hex()[:8]}, broker at {broker}")
    click.echo(f"broker      {read_credentials(keys, 'broker').identity.public.fingerprint}")
    click.echo(f"aggregator  {federation.aggregator.fingerprint}")
    click.echo(f"secret: {keys}/broker.key and {keys}/aggregator.key; they stay on this machine")
    bind = "" if _is_numeric(host) else " --bind 0.0.0.0"
    click.echo(f"next: fedmq broker --keys {keys}{bind}; then, for each new machine: fedmq keys token{_where(keys)}")


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _where(keys: Path) -> str:
    return "" if keys == Path("keys") else f" --keys {keys}"


@keys.command()
@option("--name", callback=check_name, metavar="NAME", help="The only name that may join with it. [default: any]")
@option(
    "--hours",
    type=FiniteRange(0, HOURS_MAX, min_open=True),
    default=24.0,
    metavar="HOURS",
    help="How long it is good.",
)
@keys_folder_option
@log_options
def token(name: str | None, hours: float, keys: Path) -> None:
    """Print a token: one line, to be pasted on one new machine.

    Who has it may ask to be let in, once; nobody is let in before you accept. What to do with it is said on stderr.

    \b
    Examples:
      fedmq keys token
      fedmq keys token --name clinic-7 --hours 1
    """
    from fedmq.security.membership import issue_token
    from fedmq.security.tokens import format_time

    now = time.time()
    expires = int(now + hours * 3600)
    click.echo(issue_token(keys, expires, name, now))
    click.echo(f"good for one machine until {format_time(expires)}; there: fedmq trainer join TOKEN", err=True)


@keys.command()
@click.argument("name", callback=check_name)
@option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Folder to make, with all that the observer needs.",
)
@keys_folder_option
@log_options
def observer(name: str, out: Path, keys: Path) -> None:
    """Let in an observer NAME: who has its key can watch every run, and change nothing.

    The key is in the folder DIR, which is all that is needed where it is watched from: take it there, and keep it
    secret on the way. fedmq keys revoke NAME ends it.

    \b
    Examples:
      fedmq keys observer wall --out wall
    """
    from fedmq.security.membership import add_observer, name_and_fingerprint

    public = add_observer(keys, name, out)
    click.echo(
        f"observer {name_and_fingerprint(public)} is let in; its secret key is in {out}, which goes where it is used"
    )


@keys.command()
@option("--json", "as_json", is_flag=True, help="One JSON object.")
@keys_folder_option
@log_options
def ls(as_json: bool, keys: Path) -> None:
    """List who is let in, who asks to be, who was, and the tokens that are outstanding.

    \b
    Examples:
      fedmq keys ls
      fedmq keys ls --json
    """
    import msgspec

    from fedmq.security.membership import read_membership
    from fedmq.security.tokens import format_time

    membership = read_membership(keys, time.time())
    tokens = [
        {"token": key.hex()[:8], "expires": issued.expires, "name": issued.name, "used_by": issued.used_by}
        for key, issued in membership.tokens.items()
    ]
    if as_json:
        publics = {
            kind: [_told(one) for one in getattr(membership, kind)] for kind in ("members", "requests", "revoked")
        }
        click.echo(msgspec.json.encode({**publics, "tokens": tokens}).decode())
        return
    for title, publics_of_kind in (
        ("members", membership.members),
        ("waiting", membership.requests),
        ("revoked", membership.revoked),
    ):
        for one in publics_of_kind:
            click.echo(f"{title:<8} {one.fingerprint}  {one.role} {one.name}")
    for key, issued in membership.tokens.items():
        use = f"used by {issued.used_by}" if issued.used_by else f"for {issued.name or 'any name'}"
        click.echo(f"token    {key.hex()[:8]}, good until {format_time(issued.expires)}, {use}")
    if not any(membership):
        click.echo(f"nobody yet; for each new machine: fedmq keys token{_where(keys)}")


def _told(public: PublicIdentity) -> dict[str, str]:
    return {"role": public.role, "name": public.name, "fingerprint": public.fingerprint}


@keys.command()
@click.argument("who")
@option(
    "--wait",
    type=FiniteRange(0, SECONDS_MAX),
    default=0.0,
    metavar="SECONDS",
    help="Wait so long for the request to come: for scripts.",
)
@keys_folder_option
@log_options
def accept(who: str, wait: float, keys: Path) -> None:
    """Let in WHO asks: the fingerprint that its own screen shows, or its beginning, or its name.

    \b
    Examples:
      fedmq keys accept k7fq-2mzt-x4wd-hb3p
      fedmq keys accept k7fq
    """
    from fedmq.security import membership

    give_up_at = time.monotonic() + wait
    while time.monotonic() < give_up_at and not membership.matching(
        who, membership.read_membership(keys, time.time()).requests
    ):
        time.sleep(POLL_S)
    public = membership.accept(keys, who, time.time())
    click.echo(
        f"{public.role} {membership.name_and_fingerprint(public)} "
        f"is let in; next: fedmq aggregator --keys {keys} --task xor"
    )


@keys.command()
@click.argument("who")
@keys_folder_option
@log_options
def reject(who: str, keys: Path) -> None:
    """Do not let in WHO asks; its token is used up.

    \b
    Examples:
      fedmq keys reject k7fq
    """
    from fedmq.security import membership

    public = membership.reject(keys, who, time.time())
    click.echo(f"{public.role} {membership.name_and_fingerprint(public)} is not let in")


@keys.command()
@click.argument("who")
@keys_folder_option
@log_options
def revoke(who: str, keys: Path) -> None:
    """Let WHO in no more: within a second, and not with this key again.

    \b
    Examples:
      fedmq keys revoke clinic-7
    """
    from fedmq.security import membership

    public = membership.revoke(keys, who, time.time())
    again = "fedmq keys observer" if public.role == "observer" else "fedmq keys token"
    click.echo(
        f"{public.role} {membership.name_and_fingerprint(public)} is not let in any more; a new key can be: {again}"
    )


@keys.command()
@click.argument("role", type=click.Choice(["trainer", "broker", "aggregator"]), default="trainer")
@keys_folder_option
@timeout_option
@log_options
def rotate(role: str, keys: Path, connect_timeout: float | None) -> None:
    """Make new keys in place of those of this machine's ROLE: trainer (when not given), broker or aggregator.

    A trainer's new key is let in by the old one, through the broker; nobody has to accept it. When the keys of the
    broker or the aggregator change, each trainer has to be told by a new token; its own key stays accepted.

    \b
    Examples:
      fedmq keys rotate
      fedmq keys rotate aggregator --keys keys
    """
    from fedmq.security import membership
    from fedmq.security.rotation import rotate_trainer

    if role != "trainer":
        public = membership.renew_key(keys, role)
        click.echo(f"{role}, new fingerprint {public.fingerprint}; restart the broker and the aggregator")
        click.echo(
            f"each trainer has to join again: fedmq keys token{_where(keys)}, and there fedmq trainer join TOKEN"
        )
        click.echo(f"each observer needs the new {keys}/federation.json in its folder")
        return
    identity, evaluation = rotate_trainer(keys, connect_timeout)
    if evaluation is None or evaluation.state != "accepted":
        why = "the broker does not let in the old key, nor the new one" if evaluation is None else evaluation.detail
        raise NotAuthorized(f"expected trainer {identity.name} to have its key replaced: {why or evaluation}")
    click.echo(f"trainer {identity.name}, new fingerprint {identity.public.fingerprint}; restart fedmq trainer")
