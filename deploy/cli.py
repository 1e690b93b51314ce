"""The commands `fedmq deploy …`: read the desired state from options and inventory; `rollout` applies it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmq.cli.options import COUNT, FILE, option, require
from fedmq.deploy import inventory as inventories
from fedmq.deploy import operations
from fedmq.deploy.fleet_options import Fleet, fleet_options
from fedmq.deploy.inventory import BrokerHost, Inventory, Setting, TrainerHost
from fedmq.errors import BadConfiguration
from fedmq.transport.address import DEFAULT_PORT, PORTS

if TYPE_CHECKING:
    from fedmq.deploy.rollout import DesiredState


PORT = click.IntRange(1, 65536 - PORTS)
package_option = option(
    "--package", type=FILE, metavar="FILE.deb", help="Package built by make deb. [default: the newest in dist/]"
)


@click.group()
def deploy() -> None:
    """Install and operate fedmq on hosts over SSH, as systemd services.

    Names, users, keys and jump hosts come from ~/.ssh/config; a host whose key is not in known_hosts is refused. Log in
    as root, or as a user with sudo without a password. Commands can be repeated: they change only what differs from the
    desired state.

    \b
    Examples:
      fedmq deploy broker north
      fedmq deploy trainers south east --data rows.csv
      fedmq deploy aggregator --task parity4
      fedmq deploy status
    """
    require("asyncssh", "deploy")


@deploy.command()
@package_option
@fleet_options
def up(fleet: Fleet, package: Path | None) -> None:
    """Apply the whole inventory: the broker, the aggregator and all trainers.

    \b
    Examples:
      fedmq deploy up
      fedmq deploy up --inventory clinics.toml
    """
    known = inventories.read_inventory(fleet.inventory)
    wanted = inventories.instances(known)
    desired = _desired_state(known, package)._replace(with_broker=True, aggregator=known.aggregator, trainers=wanted)
    _converge(fleet, desired._replace(hosts=known.hosts))


@deploy.command()
@click.argument("host", required=False)
@option("--address", metavar="HOST", help="Its address for other hosts. [default: the host name]")
@option("--port", type=PORT, metavar="PORT", help=f"The first of five ports. [default: {DEFAULT_PORT}]")
@package_option
@fleet_options
def broker(fleet: Fleet, host: str | None, address: str | None, port: int | None, package: Path | None) -> None:
    """Set up the broker on HOST: the package, the keys of a federation, and the service.

    Without HOST, use the broker of the inventory. A new HOST is added to the inventory.

    \b
    Examples:
      fedmq deploy broker north
      fedmq deploy broker admin@north --address 192.0.2.1
    """
    from fedmq.deploy.package import find_package

    known = inventories.read_inventory(fleet.inventory)
    if host is not None:
        wanted = BrokerHost(host, address, port or DEFAULT_PORT)
        if known.broker is None:
            find_package(package)  # fails before the inventory is written
            known = _append_section(fleet.inventory, inventories.section(wanted))
        elif known.broker != wanted and (known.broker.host != host or address or port):
            raise BadConfiguration(
                f"{fleet.inventory}: expected this broker or none, got {known.broker.host}; edit the file"
            )
    desired = _desired_state(known, package)
    _converge(fleet, desired._replace(hosts=[desired.broker.host], with_broker=True))


@deploy.command()
@click.argument("host", required=False)
@option("--task", metavar="NAME", help="Task to train: xor, parity4, linear. [default: from the inventory]")
@click.option("--set", "more", multiple=True, metavar="KEY=VALUE", help="Another setting of fedmq aggregator.")
@package_option
@fleet_options
def aggregator(fleet: Fleet, host: str | None, task: str | None, more: tuple[str, ...], package: Path | None) -> None:
    """Start a run: set up the aggregator on the broker's HOST.

    \b
    Examples:
      fedmq deploy aggregator --task parity4
      fedmq deploy aggregator --task parity4 --set min_trainers=4 --set seed=7
    """
    known = inventories.read_inventory(fleet.inventory)
    desired = _desired_state(known, package)
    if host not in (None, desired.broker.host):
        raise BadConfiguration(f"expected the broker's host {desired.broker.host}, got {host}; both use the same keys")
    if more and task is None:
        raise BadConfiguration(
            f"expected --task with --set, got --set only; to change a setting edit {fleet.inventory}"
        )
    if task is not None:
        settings: dict[str, Setting] = {"task": task, **dict(map(_setting, more))}
        if known.aggregator is None:
            known = _append_section(fleet.inventory, inventories.section(settings))
        elif known.aggregator != settings:
            raise BadConfiguration(f"{fleet.inventory}: expected this aggregator or none, got another; edit the file")
    if known.aggregator is None:
        raise BadConfiguration(f"expected --task, or [aggregator] in {fleet.inventory}, got neither")
    _converge(fleet, desired._replace(hosts=[desired.broker.host], aggregator=known.aggregator))


@deploy.command()
@click.argument("hosts", nargs=-1)
@option(
    "--data",
    metavar="SPEC",
    help="Rows on each host, as for fedmq trainer; {part}, {parts}, {n} and {name} are replaced. "
    "[default: from the inventory]",
)
@option("--count", type=COUNT, metavar="N", help="Number of trainers on each new host. [default: 1]")
@option("--label", metavar="LABEL", help="Only the hosts with this label.")
@package_option
@fleet_options
def trainers(
    fleet: Fleet,
    hosts: tuple[str, ...],
    data: str | None,
    count: int | None,
    label: str | None,
    package: Path | None,
) -> None:
    """Set up trainers on HOSTS: the package, a key for each, accepted by the broker, and the services.

    Without HOSTS, set up all trainers of the inventory. With --data new HOSTS are added to it.

    \b
    Examples:
      fedmq deploy trainers south east --data /srv/rows.csv
      fedmq deploy trainers south --count 2 --data parity4:{part}/{parts}
      fedmq deploy trainers --label clinic
    """
    known = inventories.read_inventory(fleet.inventory)
    desired = _desired_state(known, package)
    known = _with_trainers(fleet.inventory, known, hosts, data, count)
    chosen = inventories.choose(known, hosts, label)
    every = list(dict.fromkeys([desired.broker.host, *chosen]))
    wanted = [one for one in inventories.instances(known) if one.host in chosen]
    _converge(fleet, desired._replace(hosts=every, trainers=wanted))


@deploy.command()
@click.argument("hosts", nargs=-1)
@package_option
@fleet_options
def upgrade(fleet: Fleet, hosts: tuple[str, ...], package: Path | None) -> None:
    """Install the package where another version is installed; services restart and continue their work.

    \b
    Examples:
      fedmq deploy upgrade
      fedmq deploy upgrade south --package dist/fedmq_0.2.0-1_amd64.deb
    """
    known = inventories.read_inventory(fleet.inventory)
    _converge(fleet, _desired_state(known, package)._replace(hosts=fleet.hosts(hosts)))


def _with_trainers(
    path: Path, known: Inventory, hosts: tuple[str, ...], data: str | None, count: int | None
) -> Inventory:
    """Add new hosts to the inventory; return all of it."""
    if data is None and count is None:
        return known
    if data is None or not hosts:
        raise BadConfiguration(f"expected HOSTS and --data for new trainers, got no {'HOSTS' if data else '--data'}")
    wanted = [TrainerHost(host, data, count or 1) for host in hosts]
    for one in wanted:
        present = [(other.data, other.count) for other in known.trainers if other.host == one.host]
        if present and (data, count or present[0][1]) not in present:
            raise BadConfiguration(f"{path}: expected these trainers or none on {one.host}, got others; edit the file")
    listed = {other.host for other in known.trainers}
    new = [one for one in wanted if one.host not in listed]
    return _append_section(path, "".join(map(inventories.section, new))) if new else known


def _setting(pair: str) -> tuple[str, Setting]:
    """Parse KEY=VALUE; a value of TOML keeps its type, any other is a string."""
    import tomllib

    key, equals, value = pair.partition("=")
    if not equals or not key.isidentifier():
        raise BadConfiguration(f"expected --set KEY=VALUE, got {pair!r}")
    try:
        found = tomllib.loads(f"value = {value}")["value"]
    except (tomllib.TOMLDecodeError, RecursionError):
        return key, value
    if isinstance(found, float) and not math.isfinite(found):
        raise BadConfiguration(f"expected --set {key}=NUMBER, got {value}; omit it for no limit")
    return key, found if isinstance(found, str | int | float | bool) else value


def _append_section(path: Path, section: str) -> Inventory:
    """Append a section to the inventory; the file is written only if the result is valid."""
    from fedmq.runtime.atomic_files import SHARED_FILE, write_whole

    before = path.read_text(encoding="utf-8-sig") if path.exists() else ""
    gap = "\n" if before and not before.endswith("\n\n") else ""
    after = before + gap + section
    known = inventories.parse_inventory(path, after)
    write_whole(path, after.encode(), mode=SHARED_FILE)
    return known


def _desired_state(known: Inventory, package: Path | None) -> DesiredState:
    """Return a state without hosts; the inventory must have a broker."""
    from fedmq.deploy.package import find_package
    from fedmq.deploy.rollout import DesiredState

    if known.broker is None:
        raise BadConfiguration("expected a broker in the inventory, got none; first run fedmq deploy broker HOST")
    return DesiredState(find_package(package), known.broker, [])


def _converge(fleet: Fleet, desired: DesiredState) -> None:
    fleet.run_all(lambda rollout: rollout.converge(desired), len(desired.hosts))


for command in (operations.status, operations.logs, operations.stop, operations.remove):
    deploy.add_command(command)
