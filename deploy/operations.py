"""The commands of `fedmq deploy` that look after what is there: status, logs, stop and remove.

Say what is wanted; `rollout` does it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fedmq.cli.options import COUNT, option
from fedmq.deploy.fleet_options import fleet_options, hosts_of, silence, work_on, work_on_each
from fedmq.deploy.inventory import read_inventory

if TYPE_CHECKING:
    from fedmq.deploy.facts import Facts
    from fedmq.deploy.rollout import News, Rollout
    from fedmq.deploy.ssh import Host


@click.command()
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
    from fedmq.deploy.status_table import standing

    found: dict[str, Facts] = {}

    async def ask(rollout: Rollout) -> None:
        async def work(host: Host) -> str:
            found[host.name] = await rollout.ask(host)
            return ""

        await rollout.each(hosts_of(inventory, hosts), work)

    failed = work_on(ask, ssh_config, limit, silence)
    click.echo(standing(found, failed, as_json=as_json))
    if failed or any(unit.active == "failed" for facts in found.values() for unit in facts.units.values()):
        raise SystemExit(1)


@click.command()
@click.argument("hosts", nargs=-1)
@option("--lines", type=COUNT, default=20, metavar="N", help="So many of each host.")
@option("--follow", is_flag=True, help="Go on with new lines as they come, until Ctrl-C.")
@fleet_options
def logs(
    hosts: tuple[str, ...], lines: int, follow: bool, inventory: Path, ssh_config: Path | None, limit: int
) -> None:
    """Show the last lines that the services have logged, on HOSTS or on all of the inventory.

    With --follow all hosts are listened to at once. One that cannot be, or no longer, is told; the others go on.

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

    async def listen(rollout: Rollout, host: Host) -> str:
        async for line in rollout.follow(host, lines):
            click.echo(f"{host.name}: {line}")
        return ""

    def complain(news: News) -> None:
        if news.error is not None:
            click.echo(f"fedmq: {news.host}: {news.error}", err=True)

    chosen = hosts_of(inventory, hosts)
    if follow:
        work_on_each(chosen, listen, ssh_config, len(chosen), complain)
    else:
        work_on_each(chosen, show, ssh_config, limit, silence)


@click.command()
@click.argument("hosts", nargs=-1)
@fleet_options
def stop(hosts: tuple[str, ...], inventory: Path, ssh_config: Path | None, limit: int) -> None:
    """Stop the services, now and at the next boot; keys, settings and state stay.

    \b
    Examples:
      fedmq deploy stop
      fedmq deploy stop south
    """
    from fedmq.deploy import plan

    async def work(rollout: Rollout, host: Host) -> str:
        return await rollout.carry_out(host, plan.stop(await rollout.ask(host)))

    work_on_each(hosts_of(inventory, hosts), work, ssh_config, limit)


@click.command()
@click.argument("hosts", nargs=-1, required=True)
@fleet_options
def remove(hosts: tuple[str, ...], inventory: Path, ssh_config: Path | None, limit: int) -> None:
    """Take fedmq from HOSTS: its trainers' keys are revoked, and no file, user or unit of it is left there.

    Take the host from the inventory yourself.

    \b
    Examples:
      fedmq deploy remove south
    """
    from fedmq.deploy import plan

    at = read_inventory(inventory).broker

    async def work(rollout: Rollout, host: Host) -> str:
        facts = await rollout.ask(host)
        try:
            await rollout.carry_out(host, plan.stop(facts))  # its trainers say goodbye: no run waits for their rows
        finally:
            if facts.trainers and at is not None and at.host not in hosts:
                await rollout.revoke(at.host, sorted(facts.trainers))
        return await rollout.carry_out(host, plan.remove(facts))

    work_on_each(list(hosts), work, ssh_config, limit)
