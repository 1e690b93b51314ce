"""The commands `fedmq deploy …`: fedmq on many hosts, over SSH.

Says what is wanted, from the command line and the inventory; `rollout` makes it so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from deploy import inventory as inventories
from deploy.inventory import INVENTORY, BrokerHost, Inventory, Setting, TrainerHost
from fedmq.address import DEFAULT_PORT
from fedmq.errors import BadConfiguration, FedmqError
from fedmq.options import log_options, option

if TYPE_CHECKING:
    from deploy.facts import Facts
    from deploy.rollout import Goal, Rollout
    from deploy.ssh import Host

LIMIT = 8
Command = TypeVar("Command", bound=Callable[..., Any])


class HostsFailed(FedmqError):
    """Some hosts failed; each has said why."""


def fleet_options(command: Command) -> Command:
    """--inventory, --ssh-config, --limit and those of the log."""
    path = click.Path(path_type=Path, dir_okay=False)
    for decorate in (
        option("--inventory", type=path, default=INVENTORY, metavar="FILE", help="What runs where, in TOML."),
        option("--ssh-config", type=path, metavar="FILE", help="Instead of ~/.ssh/config."),
        option("--limit", type=click.IntRange(1), default=LIMIT, metavar="N", help="So many hosts at once."),
    ):
        command = decorate(command)
    return log_options(command)


def package_option(command: Command) -> Command:
    """--package."""
    return option(
        "--package",
        type=click.Path(path_type=Path, dir_okay=False),
        metavar="FILE.deb",
        help="What to install, as make deb built it. [default: the newest in dist/]",
    )(command)


@click.group()
def deploy() -> None:
    """Put fedmq on hosts over SSH, as services of systemd, and look after it there.

    Hosts are what ssh knows: names, users, keys and jump hosts come from ~/.ssh/config, and a host whose key is not in
    known_hosts is refused. Log in as root, or as somebody who may use sudo without a password. Each command can be
    repeated: what is as it should be is left alone.

    \b
    Examples:
      fedmq deploy broker north
      fedmq deploy trainers south east --data rows.csv
      fedmq deploy aggregator --task parity4
      fedmq deploy status
    """
    if find_spec("asyncssh") is None:
        raise BadConfiguration("expected asyncssh to be installed, it is not; pip install 'fedmq[deploy]'")


@deploy.command()
@package_option
@fleet_options
def up(inventory: Path, package: Path | None, ssh_config: Path | None, limit: int) -> None:
    """Make everything so as the inventory says: the broker, the aggregator and all trainers.

    \b
    Examples:
      fedmq deploy up
      fedmq deploy up --inventory clinics.toml
    """
    known = inventories.read_inventory(inventory)
    wanted = inventories.instances(known)
    goal = _goal(known, package)._replace(with_broker=True, aggregator=known.aggregator, trainers=wanted)
    _reach(goal._replace(hosts=known.hosts), ssh_config, limit)


@deploy.command()
@click.argument("host", required=False)
@option("--address", metavar="HOST", help="How the others reach it. [default: by the host's name]")
@option("--port", type=click.IntRange(1), metavar="PORT", help=f"The first of five. [default: {DEFAULT_PORT}]")
@package_option
@fleet_options
def broker(
    host: str | None,
    address: str | None,
    port: int | None,
    package: Path | None,
    inventory: Path,
    ssh_config: Path | None,
    limit: int,
) -> None:
    """Make HOST the broker's: the package, a federation's keys, and the service.

    Without HOST it is the one in the inventory; a new one is written there.

    \b
    Examples:
      fedmq deploy broker north
      fedmq deploy broker admin@north --address 192.0.2.1
    """
    known = inventories.read_inventory(inventory)
    if host is not None:
        wanted = BrokerHost(host, address, port or DEFAULT_PORT)
        if known.broker is None:
            known = _remember(inventory, inventories.broker_section(wanted))
        elif known.broker != wanted and (known.broker.host != host or address or port):
            raise BadConfiguration(f"{inventory}: expected no broker, or this one, got {known.broker.host}; edit it")
    goal = _goal(known, package)
    assert goal.broker is not None
    _reach(goal._replace(hosts=[goal.broker.host], with_broker=True), ssh_config, limit)


@deploy.command()
@click.argument("host", required=False)
@option("--task", metavar="NAME", help="What to train: xor, parity4, linear. [default: as the inventory says]")
@click.option("--set", "more", multiple=True, metavar="KEY=VALUE", help="Any other setting of fedmq aggregator.")
@package_option
@fleet_options
def aggregator(
    host: str | None,
    task: str | None,
    more: tuple[str, ...],
    package: Path | None,
    inventory: Path,
    ssh_config: Path | None,
    limit: int,
) -> None:
    """Start a run: the aggregator, on the broker's HOST.

    \b
    Examples:
      fedmq deploy aggregator --task parity4
      fedmq deploy aggregator --task parity4 --set min_trainers=4 --set seed=7
    """
    known = inventories.read_inventory(inventory)
    goal = _goal(known, package)
    assert goal.broker is not None
    if host not in (None, goal.broker.host):
        raise BadConfiguration(
            f"expected the broker's host {goal.broker.host}, got {host}; they share the list of keys"
        )
    if task is not None:
        settings: dict[str, Setting] = {"task": task, **dict(map(_setting, more))}
        if known.aggregator is None:
            known = _remember(inventory, inventories.aggregator_section(settings))
        elif known.aggregator != settings:
            raise BadConfiguration(f"{inventory}: expected no aggregator, or just this one, got another; edit it")
    if known.aggregator is None:
        raise BadConfiguration(f"expected --task, or [aggregator] in {inventory}, got neither")
    _reach(goal._replace(hosts=[goal.broker.host], aggregator=known.aggregator), ssh_config, limit)


@deploy.command()
@click.argument("hosts", nargs=-1)
@option(
    "--data",
    metavar="SPEC",
    help="Where each one's rows are, on its host, as for fedmq trainer; {part}, {parts}, {n} and {name} are filled in. "
    "[default: as the inventory says]",
)
@option("--count", type=click.IntRange(1), default=1, metavar="N", help="So many trainers on each new host.")
@option("--label", metavar="LABEL", help="Only the hosts with this label.")
@package_option
@fleet_options
def trainers(
    hosts: tuple[str, ...],
    data: str | None,
    count: int,
    label: str | None,
    package: Path | None,
    inventory: Path,
    ssh_config: Path | None,
    limit: int,
) -> None:
    """Make trainers run on HOSTS: the package, a key made there and let in at the broker, and the service.

    Without HOSTS all of the inventory; with --data new ones are written there.

    \b
    Examples:
      fedmq deploy trainers south east --data /srv/rows.csv
      fedmq deploy trainers south --count 2 --data parity4:{part}/{parts}
      fedmq deploy trainers --label clinic
    """
    known = inventories.read_inventory(inventory)
    there = {one.host for one in known.trainers}
    for host in hosts:
        if data is not None and host not in there:
            known = _remember(inventory, inventories.trainers_section(TrainerHost(host, data, count)))
    chosen = inventories.choose(known, hosts, label)
    goal = _goal(known, package)
    assert goal.broker is not None
    every = list(dict.fromkeys([goal.broker.host, *chosen]))
    wanted = [one for one in inventories.instances(known) if one.host in chosen]
    _reach(goal._replace(hosts=every, trainers=wanted), ssh_config, limit)


@deploy.command()
@click.argument("hosts", nargs=-1)
@option("--json", "as_json", is_flag=True, help="One JSON object.")
@fleet_options
def status(hosts: tuple[str, ...], as_json: bool, inventory: Path, ssh_config: Path | None, limit: int) -> None:
    """Show how the services stand, on HOSTS or on all of the inventory.

    Exit code 1 when a host cannot be asked or a service has failed.

    \b
    Examples:
      fedmq deploy status
      fedmq deploy status south --json
    """
    from deploy.rollout import Rollout
    from deploy.table import standing

    found: dict[str, Facts] = {}

    async def ask() -> Rollout:
        rollout = Rollout(ssh_config, limit, lambda _news: None)

        async def work(host: Host) -> str:
            found[host.name] = await rollout.ask(host)
            return ""

        await rollout.each(_hosts(inventory, hosts), work)
        return rollout

    rollout = asyncio.run(ask())
    click.echo(standing(found, rollout.failed, as_json=as_json))
    if rollout.failed or any(unit.active == "failed" for facts in found.values() for unit in facts.units.values()):
        raise SystemExit(1)


@deploy.command()
@click.argument("hosts", nargs=-1)
@package_option
@fleet_options
def upgrade(hosts: tuple[str, ...], package: Path | None, inventory: Path, ssh_config: Path | None, limit: int) -> None:
    """Install the package where another version is; what runs is started again, and goes on where it was.

    \b
    Examples:
      fedmq deploy upgrade
      fedmq deploy upgrade south --package dist/fedmq_0.2.0-1_amd64.deb
    """
    known = inventories.read_inventory(inventory)
    _reach(_goal(known, package)._replace(hosts=_hosts(inventory, hosts)), ssh_config, limit)


@deploy.command()
@click.argument("hosts", nargs=-1)
@option("--lines", type=click.IntRange(1), default=20, metavar="N", help="So many of each host.")
@fleet_options
def logs(hosts: tuple[str, ...], lines: int, inventory: Path, ssh_config: Path | None, limit: int) -> None:
    """Show the last lines that the services have logged, on HOSTS or on all of the inventory.

    \b
    Examples:
      fedmq deploy logs
      fedmq deploy logs south --lines 100
    """

    async def work(rollout: Rollout, host: Host) -> str:
        for line in (await rollout.journal(host, lines)).splitlines():
            click.echo(f"{host.name}: {line}")
        return ""

    _work(_hosts(inventory, hosts), work, ssh_config, limit, silent=True)


@deploy.command()
@click.argument("hosts", nargs=-1)
@fleet_options
def stop(hosts: tuple[str, ...], inventory: Path, ssh_config: Path | None, limit: int) -> None:
    """Stop the services, now and at the next boot; keys, settings and state stay.

    \b
    Examples:
      fedmq deploy stop
      fedmq deploy stop south
    """
    from deploy import plan

    async def work(rollout: Rollout, host: Host) -> str:
        return await rollout.carry_out(host, plan.stop(await rollout.ask(host)))

    _work(_hosts(inventory, hosts), work, ssh_config, limit)


@deploy.command()
@click.argument("hosts", nargs=-1, required=True)
@fleet_options
def remove(hosts: tuple[str, ...], inventory: Path, ssh_config: Path | None, limit: int) -> None:
    """Take fedmq from HOSTS: its trainers' keys are revoked, and no file, user or unit of it is left there.

    Take the host from the inventory yourself.

    \b
    Examples:
      fedmq deploy remove south
    """
    from deploy import plan

    at = inventories.read_inventory(inventory).broker

    async def work(rollout: Rollout, host: Host) -> str:
        facts = await rollout.ask(host)
        if facts.trainers and at is not None and at.host not in hosts:
            await rollout.revoke(at.host, sorted(facts.trainers))
        return await rollout.carry_out(host, plan.remove(facts))

    _work(list(hosts), work, ssh_config, limit)


def _setting(pair: str) -> tuple[str, Setting]:
    """KEY=VALUE; a number or a boolean is one."""
    import tomllib

    key, equals, value = pair.partition("=")
    if not equals or not key.isidentifier():
        raise BadConfiguration(f"expected --set KEY=VALUE, got {pair!r}")
    try:
        found = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return key, value
    return key, found if isinstance(found, str | int | float | bool) else value


def _remember(path: Path, section: str) -> Inventory:
    """Put a section at the end of the inventory; all of it."""
    from fedmq.files import write_whole

    before = path.read_text(encoding="utf-8") if path.exists() else ""
    inventories.read_inventory(path)
    gap = "\n" if before and not before.endswith("\n\n") else ""
    write_whole(path, (before + gap + section).encode())
    return inventories.read_inventory(path)


def _hosts(path: Path, given: tuple[str, ...]) -> list[str]:
    hosts = list(given) or inventories.read_inventory(path).hosts
    if not hosts:
        raise BadConfiguration(f"expected hosts, or some in {path}, got none; say them or name another --inventory")
    return hosts


def _goal(known: Inventory, package: Path | None) -> Goal:
    """Nothing yet, for who has a broker."""
    from deploy.package import find_package
    from deploy.rollout import Goal

    if known.broker is None:
        raise BadConfiguration("expected a broker's host in the inventory, got none; first fedmq deploy broker HOST")
    return Goal(find_package(package), known.broker, [])


def _reach(goal: Goal, ssh_config: Path | None, limit: int) -> None:
    from deploy.rollout import Rollout
    from deploy.table import Progress

    async def reach(progress: Progress) -> dict[str, str]:
        rollout = Rollout(ssh_config, limit, progress)
        await rollout.reach(goal)
        return rollout.failed

    with Progress() as progress:
        failed = asyncio.run(reach(progress))
    _end(failed, len(goal.hosts))


def _work(
    hosts: list[str], work: Callable[..., Any], ssh_config: Path | None, limit: int, *, silent: bool = False
) -> None:
    from deploy.rollout import Rollout
    from deploy.table import Progress

    async def each(progress: Progress) -> dict[str, str]:
        rollout = Rollout(ssh_config, limit, (lambda _news: None) if silent else progress)
        await rollout.each(hosts, lambda host: work(rollout, host))
        return rollout.failed

    with Progress() as progress:
        failed = asyncio.run(each(progress))
    _end(failed, len(hosts))


def _end(failed: dict[str, str], count: int) -> None:
    if failed:
        which = ", ".join(failed)
        raise HostsFailed(
            f"expected {count} hosts to be done, {len(failed)} failed: {which}; {next(iter(failed.values()))}"
        )
