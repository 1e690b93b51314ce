"""What the commands of `fedmq deploy` share: options, the hosts that are meant, and work on each of them.

Knows nothing of what is done there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from fedmq.cli.options import COUNT, log_options, option
from fedmq.deploy.inventory import INVENTORY, read_inventory
from fedmq.errors import BadConfiguration, FedmqError

if TYPE_CHECKING:
    from fedmq.deploy.rollout import News, Rollout, Tell

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
        option("--limit", type=COUNT, default=LIMIT, metavar="N", help="So many hosts at once."),
    ):
        command = decorate(command)
    return log_options(command)


def hosts_of(path: Path, given: tuple[str, ...]) -> list[str]:
    """These, or all of the inventory."""
    hosts = list(given) or read_inventory(path).hosts
    if not hosts:
        raise BadConfiguration(f"expected hosts, or some in {path}, got none; say them or name another --inventory")
    return hosts


def work_on(
    work: Callable[[Rollout], Coroutine[Any, Any, None]], ssh_config: Path | None, limit: int, tell: Tell | None = None
) -> dict[str, str]:
    """Do it, and `tell` how far it is (None: show it); a line for each host that failed."""
    from fedmq.deploy.rollout import Rollout
    from fedmq.deploy.status_table import Progress

    with Progress() if tell is None else nullcontext(tell) as told:
        rollout = Rollout(ssh_config, limit, told)
        asyncio.run(work(rollout))
    return rollout.failed


def silence(news: News) -> None:
    """Tell nobody."""


def work_on_each(
    hosts: list[str], work: Callable[..., Any], ssh_config: Path | None, limit: int, tell: Tell | None = None
) -> None:
    """Do `work(rollout, host)` on each host.

    Raises:
        HostsFailed: some did.
    """

    async def each(rollout: Rollout) -> None:
        await rollout.each(hosts, lambda host: work(rollout, host))

    end(work_on(each, ssh_config, limit, tell), len(hosts))


def end(failed: dict[str, str], count: int) -> None:
    """Nothing, if no host failed.

    Raises:
        HostsFailed: some did.
    """
    if failed:
        which = ", ".join(failed)
        raise HostsFailed(
            f"expected {count} hosts to be done, {len(failed)} failed: {which}; {next(iter(failed.values()))}"
        )
