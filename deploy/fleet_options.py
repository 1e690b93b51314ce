"""Shared parts of the commands `fedmq deploy`: options, the selected hosts, and running work on each host."""

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
    from fedmq.deploy.rollout import HostProgress, OnProgress, Rollout

LIMIT = 8
Command = TypeVar("Command", bound=Callable[..., Any])


class HostsFailed(FedmqError):
    """At least one host failed; the error of each host was printed."""


def fleet_options(command: Command) -> Command:
    """Add --inventory, --ssh-config, --limit and the log options."""
    path = click.Path(path_type=Path, dir_okay=False)
    for decorate in (
        option("--inventory", type=path, default=INVENTORY, metavar="FILE", help="Hosts and their services, in TOML."),
        option("--ssh-config", type=path, metavar="FILE", help="Use FILE instead of ~/.ssh/config."),
        option("--limit", type=COUNT, default=LIMIT, metavar="N", help="Maximum number of hosts at the same time."),
    ):
        command = decorate(command)
    return log_options(command)


def hosts_of(path: Path, given: tuple[str, ...]) -> list[str]:
    """Return the given hosts, or all hosts of the inventory."""
    hosts = list(given) or read_inventory(path).hosts
    if not hosts:
        raise BadConfiguration(f"expected hosts, or some in {path}, got none; name hosts or another --inventory")
    return hosts


def run_rollout(
    work: Callable[[Rollout], Coroutine[Any, Any, None]],
    ssh_config: Path | None,
    limit: int,
    on_progress: OnProgress | None = None,
) -> dict[str, str]:
    """Run `work` and return the error of each host that failed; without `on_progress` show a table of progress."""
    from fedmq.deploy.rollout import Rollout
    from fedmq.deploy.status_table import ProgressTable

    with ProgressTable() if on_progress is None else nullcontext(on_progress) as callback:
        rollout = Rollout(ssh_config, limit, callback)
        asyncio.run(work(rollout))
    return rollout.failed


def ignore_progress(progress: HostProgress) -> None:
    """Discard a report of progress."""


def run_on_hosts(
    hosts: list[str],
    work: Callable[..., Any],
    ssh_config: Path | None,
    limit: int,
    on_progress: OnProgress | None = None,
) -> None:
    """Run `work(rollout, host)` on each host.

    Raises:
        HostsFailed: at least one host failed.
    """

    async def each(rollout: Rollout) -> None:
        await rollout.each(hosts, lambda host: work(rollout, host))

    raise_if_failed(run_rollout(each, ssh_config, limit, on_progress), len(hosts))


def raise_if_failed(failed: dict[str, str], count: int) -> None:
    """Raise if a host failed.

    Raises:
        HostsFailed: names the hosts, and the error of the first.
    """
    if failed:
        which = ", ".join(failed)
        raise HostsFailed(
            f"expected {count} hosts to succeed, {len(failed)} failed: {which}; {next(iter(failed.values()))}"
        )
