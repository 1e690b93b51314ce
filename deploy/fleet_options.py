"""Shared parts of the commands `fedmq deploy`: options, the selected hosts, and running work on each host."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fedmq.cli.options import COUNT, FILE, log_options, option, together
from fedmq.deploy.inventory import INVENTORY, read_inventory
from fedmq.errors import BadConfiguration, FedmqError

if TYPE_CHECKING:
    from fedmq.deploy.rollout import OnProgress, Rollout
    from fedmq.deploy.ssh import Host

LIMIT = 8

options = together(
    option("--inventory", type=FILE, default=INVENTORY, metavar="FILE", help="Hosts and their services, in TOML."),
    option("--ssh-config", type=FILE, metavar="FILE", help="Use FILE instead of ~/.ssh/config."),
    option("--limit", type=COUNT, default=LIMIT, metavar="N", help="Maximum number of hosts at the same time."),
    log_options,
)


class HostsFailed(FedmqError):
    """At least one host failed; the error of each host was printed."""


class Fleet(NamedTuple):
    """The file of the inventory, the settings of ssh, and how many hosts work at the same time."""

    inventory: Path
    ssh_config: Path | None
    limit: int

    def hosts(self, given: tuple[str, ...]) -> list[str]:
        """Return the given hosts, or all hosts of the inventory."""
        hosts = list(given) or read_inventory(self.inventory).hosts
        if not hosts:
            raise BadConfiguration(
                f"expected hosts, or some in {self.inventory}, got none; name hosts or another --inventory"
            )
        return hosts

    def run(self, work: Callable[[Rollout], Awaitable[None]], on_progress: OnProgress | None = None) -> dict[str, str]:
        """Run `work`, return the error of each host that failed; without `on_progress` show a table of progress."""
        from fedmq.deploy.rollout import Rollout
        from fedmq.deploy.status_table import ProgressTable

        async def main(callback: OnProgress) -> Rollout:
            rollout = Rollout(self.ssh_config, self.limit, callback)
            await work(rollout)
            return rollout

        with ProgressTable() if on_progress is None else nullcontext(on_progress) as callback:
            return asyncio.run(main(callback)).failed

    def run_all(
        self, work: Callable[[Rollout], Awaitable[None]], count: int, on_progress: OnProgress | None = None
    ) -> None:
        """As `run`, for work on this number of hosts.

        Raises:
            HostsFailed: at least one host failed; names all, and the error of the first.
        """
        if failed := self.run(work, on_progress):
            which, first = ", ".join(failed), next(iter(failed.values()))
            raise HostsFailed(f"expected {count} hosts to succeed, {len(failed)} failed: {which}; {first}")

    def run_each(
        self,
        hosts: list[str],
        work: Callable[[Rollout, Host], Awaitable[str]],
        on_progress: OnProgress | None = None,
    ) -> None:
        """Run `work` on each host; raise as `run_all`."""
        self.run_all(lambda rollout: rollout.each(hosts, lambda host: work(rollout, host)), len(hosts), on_progress)


def fleet_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add --inventory, --ssh-config, --limit and the log options; the command gets them as one `fleet`."""

    @wraps(command)
    def with_fleet(inventory: Path, ssh_config: Path | None, limit: int, **settings: Any) -> None:
        command(Fleet(inventory, ssh_config, limit), **settings)

    return options(with_fleet)
