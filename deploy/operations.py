"""The commands of `fedmq deploy` that operate deployed hosts: status, logs, stop and remove."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmq.cli.options import COUNT, option
from fedmq.deploy.fleet_options import fleet_options, hosts_of, ignore_progress, run_on_hosts, run_rollout
from fedmq.deploy.inventory import read_inventory

if TYPE_CHECKING:
    from fedmq.deploy.facts import Facts
    from fedmq.deploy.rollout import HostProgress, Rollout
    from fedmq.deploy.ssh import Host


@click.command()
@click.argument("hosts", nargs=-1)
@option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@fleet_options
def status(hosts: tuple[str, ...], as_json: bool, inventory: Path, ssh_config: Path | None, limit: int) -> None:
    """Show the state of the services, on HOSTS or on all hosts of the inventory.

    Exit code 1 if a host is unreachable or a service has failed.

    \b
    Examples:
      fedmq deploy status
      fedmq deploy status south --json
    """
    from fedmq.deploy.status_table import format_status

    found: dict[str, Facts] = {}

    async def collect(rollout: Rollout) -> None:
        async def work(host: Host) -> str:
            found[host.name] = await rollout.facts_of(host)
            return ""

        await rollout.each(hosts_of(inventory, hosts), work)

    failed = run_rollout(collect, ssh_config, limit, ignore_progress)
    click.echo(format_status(found, failed, as_json=as_json))
    if failed or any(unit.active == "failed" for facts in found.values() for unit in facts.units.values()):
        raise SystemExit(1)


@click.command()
@click.argument("hosts", nargs=-1)
@option("--lines", type=COUNT, default=20, metavar="N", help="Number of lines of each host.")
@option("--follow", is_flag=True, help="Continue with new lines, until Ctrl-C.")
@fleet_options
def logs(
    hosts: tuple[str, ...], lines: int, follow: bool, inventory: Path, ssh_config: Path | None, limit: int
) -> None:
    """Show the last log lines of the services, on HOSTS or on all hosts of the inventory.

    With --follow all hosts are followed at the same time. A host that fails is reported; the others continue.

    \b
    Examples:
      fedmq deploy logs
      fedmq deploy logs south --lines 100
      fedmq deploy logs --follow
    """

    async def show(rollout: Rollout, host: Host) -> str:
        for line in (await rollout.journal(host, lines)).splitlines():
            click.echo(f"{host.name}: {line}")
        return ""

    async def follow_host(rollout: Rollout, host: Host) -> str:
        async for line in rollout.follow(host, lines):
            click.echo(f"{host.name}: {line}")
        return ""

    def print_error(progress: HostProgress) -> None:
        if progress.error is not None:
            click.echo(f"fedmq: {progress.host}: {progress.error}", err=True)

    chosen = hosts_of(inventory, hosts)
    if follow:
        run_on_hosts(chosen, follow_host, ssh_config, len(chosen), print_error)
    else:
        run_on_hosts(chosen, show, ssh_config, limit, ignore_progress)


@click.command()
@click.argument("hosts", nargs=-1)
@fleet_options
def stop(hosts: tuple[str, ...], inventory: Path, ssh_config: Path | None, limit: int) -> None:
    """Stop and disable the services; keys, settings and state stay.

    \b
    Examples:
      fedmq deploy stop
      fedmq deploy stop south
    """
    from fedmq.deploy import plan

    async def work(rollout: Rollout, host: Host) -> str:
        return await rollout.execute(host, plan.stop(await rollout.facts_of(host)))

    run_on_hosts(hosts_of(inventory, hosts), work, ssh_config, limit)


@click.command()
@click.argument("hosts", nargs=-1, required=True)
@fleet_options
def remove(hosts: tuple[str, ...], inventory: Path, ssh_config: Path | None, limit: int) -> None:
    """Remove fedmq from HOSTS: revoke the keys of its trainers, and delete all files, users and units.

    The inventory is not changed: delete the host there.

    \b
    Examples:
      fedmq deploy remove south
    """
    from fedmq.deploy import plan

    broker = read_inventory(inventory).broker

    async def work(rollout: Rollout, host: Host) -> str:
        facts = await rollout.facts_of(host)
        try:
            await rollout.execute(host, plan.stop(facts))  # the trainers send Goodbye: no run waits for their rows
        finally:
            if facts.trainers and broker is not None and broker.host not in hosts:
                await rollout.revoke(broker.host, sorted(facts.trainers))
        return await rollout.execute(host, plan.remove(facts))

    run_on_hosts(list(hosts), work, ssh_config, limit)
