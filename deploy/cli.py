"""The commands `fedmq deploy …`: fedmq on many hosts, over SSH.

Says what is wanted, from the command line and the inventory; `rollout` makes it so.
"""

from __future__ import annotations

import math
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmq.cli.options import COUNT, option
from fedmq.deploy import inventory as inventories
from fedmq.deploy import operations
from fedmq.deploy.fleet_options import Command, end, fleet_options, hosts_of, work_on
from fedmq.deploy.inventory import BrokerHost, Inventory, Setting, TrainerHost
from fedmq.errors import BadConfiguration
from fedmq.transport.address import DEFAULT_PORT, PORTS

if TYPE_CHECKING:
    from fedmq.deploy.rollout import Goal, Rollout


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
@option(
    "--port",
    type=click.IntRange(1, 65536 - PORTS),
    metavar="PORT",
    help=f"The first of five. [default: {DEFAULT_PORT}]",
)
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
    from fedmq.deploy.package import find_package

    known = inventories.read_inventory(inventory)
    if host is not None:
        wanted = BrokerHost(host, address, port or DEFAULT_PORT)
        if known.broker is None:
            find_package(package)  # before anything is written
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
    if more and task is None:
        raise BadConfiguration(f"expected --task with --set, got --set alone; to change a setting edit {inventory}")
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
@option("--count", type=COUNT, metavar="N", help="So many trainers on each new host. [default: 1]")
@option("--label", metavar="LABEL", help="Only the hosts with this label.")
@package_option
@fleet_options
def trainers(
    hosts: tuple[str, ...],
    data: str | None,
    count: int | None,
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
    goal = _goal(known, package)
    assert goal.broker is not None
    known = _with_trainers(inventory, known, hosts, data, count)
    chosen = inventories.choose(known, hosts, label)
    every = list(dict.fromkeys([goal.broker.host, *chosen]))
    wanted = [one for one in inventories.instances(known) if one.host in chosen]
    _reach(goal._replace(hosts=every, trainers=wanted), ssh_config, limit)


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
    _reach(_goal(known, package)._replace(hosts=hosts_of(inventory, hosts)), ssh_config, limit)


def _with_trainers(
    path: Path, known: Inventory, hosts: tuple[str, ...], data: str | None, count: int | None
) -> Inventory:
    """The inventory with these hosts; the new ones are written there."""
    if data is None and count is None:
        return known
    if data is None or not hosts:
        raise BadConfiguration(f"expected HOSTS and --data for new trainers, got no {'HOSTS' if data else '--data'}")
    wanted = [TrainerHost(host, data, count or 1) for host in hosts]
    for one in wanted:
        there = [(other.data, other.count) for other in known.trainers if other.host == one.host]
        if there and (data, count or there[0][1]) not in there:
            raise BadConfiguration(f"{path}: expected no {one.host}, or just these trainers there, got others; edit it")
    listed = {other.host for other in known.trainers}
    new = [one for one in wanted if one.host not in listed]
    return _remember(path, "".join(map(inventories.trainers_section, new))) if new else known


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
    if isinstance(found, float) and not math.isfinite(found):
        raise BadConfiguration(f"expected --set {key}=NUMBER, got {value}; leave it out for no limit")
    return key, found if isinstance(found, str | int | float | bool) else value


def _remember(path: Path, section: str) -> Inventory:
    """Put a section at the end of the inventory; all of it, which is written only if it is one."""
    from fedmq.runtime.atomic_files import write_whole

    before = path.read_text(encoding="utf-8") if path.exists() else ""
    gap = "\n" if before and not before.endswith("\n\n") else ""
    after = before + gap + section
    known = inventories.parse_inventory(path, after)
    write_whole(path, after.encode())
    return known


def _goal(known: Inventory, package: Path | None) -> Goal:
    """Nothing yet, for who has a broker."""
    from fedmq.deploy.package import find_package
    from fedmq.deploy.rollout import Goal

    if known.broker is None:
        raise BadConfiguration("expected a broker's host in the inventory, got none; first fedmq deploy broker HOST")
    return Goal(find_package(package), known.broker, [])


def _reach(goal: Goal, ssh_config: Path | None, limit: int) -> None:
    async def connection(rollout: Rollout) -> None:
        await rollout.connection(goal)

    end(work_on(connection, ssh_config, limit), len(goal.hosts))


for command in (operations.status, operations.logs, operations.stop, operations.remove):
    deploy.add_command(command)
