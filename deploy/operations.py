"""The commands of `fedmq deploy` that operate deployed hosts: status, logs, stop and remove."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from fedmq.cli.echo import echo
from fedmq.cli.options import COUNT, option
from fedmq.deploy.fleet_options import Fleet, fleet_options
from fedmq.deploy.inventory import instances, read_inventory

if TYPE_CHECKING:
    from fedmq.deploy.facts import Facts
    from fedmq.deploy.rollout import HostProgress, Rollout
    from fedmq.deploy.ssh import Host


@click.command()
@click.argument("hosts", nargs=-1)
@option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@fleet_options
def status(fleet: Fleet, hosts: tuple[str, ...], as_json: bool) -> None:
    """Show the state of the services, on HOSTS or on all hosts of the inventory.

    Exit code 1 if a host is unreachable or a service has failed.

    \b
    Examples:
      fedmq deploy status
      fedmq deploy status south --json
    """
    from fedmq.deploy.status_table import print_status

    found: dict[str, Facts] = {}

    async def collect(rollout: Rollout) -> None:
        async def work(host: Host) -> str:
            found[host.name] = await rollout.facts_of(host)
            return ""

        await rollout.each(fleet.hosts(hosts), work)

    failed = fleet.run(collect, lambda _progress: None)
    print_status(found, failed, as_json=as_json)
    if failed or any(unit.active == "failed" for facts in found.values() for unit in facts.units.values()):
        raise SystemExit(1)


@click.command()
@click.argument("hosts", nargs=-1)
@option("--lines", type=COUNT, default=20, metavar="N", help="Number of lines of each host.")
@option("--follow", is_flag=True, help="Continue with new lines, until Ctrl-C.")
@fleet_options
def logs(fleet: Fleet, hosts: tuple[str, ...], lines: int, follow: bool) -> None:
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
            echo(f"{host.name}: {line}")
        return ""

    async def follow_host(rollout: Rollout, host: Host) -> str:
        async for line in rollout.follow(host, lines):
            echo(f"{host.name}: {line}")
        return ""

    def print_error(progress: HostProgress) -> None:
        if progress.error is not None:
            echo(f"fedmq: {progress.host}: {progress.error}", err=True)

    chosen = fleet.hosts(hosts)
    if follow:
        fleet._replace(limit=len(chosen)).run_each(chosen, follow_host, print_error)
    else:
        fleet.run_each(chosen, show, lambda _progress: None)


@click.command()
@click.argument("hosts", nargs=-1)
@fleet_options
def stop(fleet: Fleet, hosts: tuple[str, ...]) -> None:
    """Stop and disable the services; keys, settings and state stay.

    \b
    Examples:
      fedmq deploy stop
      fedmq deploy stop south
    """
    from fedmq.deploy import plan

    async def work(rollout: Rollout, host: Host) -> str:
        return await rollout.execute(host, plan.stop(await rollout.facts_of(host)))

    fleet.run_each(fleet.hosts(hosts), work)


@click.command()
@click.argument("hosts", nargs=-1, required=True)
@fleet_options
def remove(fleet: Fleet, hosts: tuple[str, ...]) -> None:
    """Remove fedmq from HOSTS: revoke the keys of its trainers, and delete all files, users and units.

    The keys are those of the inventory, which is not changed: delete the host there afterward. Other trainers on the
    host are listed and not revoked, because a host can print any name.

    \b
    Examples:
      fedmq deploy remove south
    """
    from fedmq.deploy import plan

    known = read_inventory(fleet.inventory)
    broker = known.broker

    async def work(rollout: Rollout, host: Host) -> str:
        facts = await rollout.facts_of(host)
        own = [one.name for one in instances(known) if one.host == host.name]
        try:
            await rollout.execute(host, plan.stop(facts))  # the trainers send Goodbye: no run waits for their rows
        finally:
            if own and broker is not None and broker.host not in hosts:
                await rollout.revoke(broker.host, own)
        end = await rollout.execute(host, plan.remove(facts))
        others = ", ".join(sorted(facts.trainers.difference(own)))
        return f"{end}; not in the inventory, and not revoked: {others}" if others else end

    fleet.run_each(list(hosts), work)
