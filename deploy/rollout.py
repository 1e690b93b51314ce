"""Execute plans on many hosts at the same time, up to a limit, and report the progress of each host.

One task for each host. Trainers wait until the broker's host has finished. A failed host does not affect others, unless
it is the broker's.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from fedmq.deploy import plan
from fedmq.deploy.facts import FACTS_SCRIPT, Facts, read_facts
from fedmq.deploy.inventory import BrokerHost, Instance, Setting
from fedmq.deploy.package import Package
from fedmq.deploy.ssh import Host, HostError, connect

FACTS_S = 20.0
INSTALL_S = 300.0
JOIN_S = 30.0
ENROL_HOURS = 0.1  # longer than a join takes, and than clocks differ
REACH_S = 10.0  # from a trainer's host to the broker
JOURNAL_LINES_MAX = 10_000


class HostProgress(NamedTuple):
    """The current step of a host, or its end; `error` is None on success."""

    host: str
    step: str
    done: bool = False
    error: str | None = None


OnProgress = Callable[[HostProgress], None]
Work = Callable[[Host], Awaitable[str]]


class DesiredState(NamedTuple):
    """The desired state of some hosts; parts that are None, False or empty stay as they are."""

    package: Package
    broker: BrokerHost
    hosts: list[str]
    with_broker: bool = False
    aggregator: dict[str, Setting] | None = None
    trainers: list[Instance] = []  # noqa: RUF012 - never changed


class Rollout:
    """Work on many hosts; `failed` has the error of each host that failed."""

    def __init__(self, config: Path | None, limit: int, on_progress: OnProgress) -> None:
        self.failed: dict[str, str] = {}
        self._config, self._on_progress = config, on_progress
        self._limit = asyncio.Semaphore(limit)

    async def each(self, hosts: list[str], work: Work) -> None:
        """Run `work` on each host over its own connection; its return value is reported as the final step."""
        await asyncio.gather(*(self._one(host, work) for host in hosts))

    async def _one(self, name: str, work: Work) -> None:
        async with self._limit:
            self._on_progress(HostProgress(name, "connect"))
            try:
                async with connect(name, self._config) as host:
                    end = await work(host)
            except HostError as error:
                self.failed[name] = str(error)
                self._on_progress(HostProgress(name, "failed", True, str(error)))
            else:
                self._on_progress(HostProgress(name, end, True))

    async def converge(self, desired: DesiredState) -> None:
        self._federation: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._desired = desired
        await self.each(desired.hosts, self._converge_host)
        if self._federation.done() and not self._federation.cancelled():
            self._federation.exception()  # retrieved: each host has reported its own

    async def _converge_host(self, host: Host) -> str:
        desired, start = self._desired, time.monotonic()
        is_broker = host.name == desired.broker.host
        try:
            facts = await self.facts_of(host)
            found = plan.problems(facts, desired.package, time.time())
            if is_broker and desired.with_broker:
                found += plan.broker_problems(facts, desired.broker)
            _check(found)
            done = await self._run_steps(host, plan.install(facts, desired.package))
            if is_broker:
                done += await self._converge_broker(host, facts)
        except HostError:
            if is_broker and not self._federation.done():
                self._federation.set_exception(HostError(f"expected a broker, but {host.name} failed: see its error"))
            raise
        if wanted := [one for one in desired.trainers if one.host == host.name]:
            self._on_progress(HostProgress(host.name, "wait for the broker"))
            federation = await self._federation
            _check(plan.trainer_problems(facts, federation))
            done += await self._run_steps(host, plan.trainers(facts, wanted, federation, desired.broker.url))
        return _summary(done, start)

    async def _converge_broker(self, host: Host, facts: Facts) -> int:
        """Set up the broker and the aggregator, then release waiting hosts; return the number of steps."""
        desired = self._desired
        done = 0
        if desired.with_broker:
            done += await self._run_steps(host, plan.broker(facts, desired.broker))
            facts = await self.facts_of(host) if done else facts
        if facts.federation is None:
            raise HostError(f"expected the keys of a federation, got none: run fedmq deploy broker {host.name}")
        self._federation.set_result(facts.federation)
        if desired.aggregator is not None:
            done += await self._run_steps(host, plan.aggregator(facts, desired.aggregator, desired.broker.port))
        return done

    async def facts_of(self, host: Host) -> Facts:
        self._on_progress(HostProgress(host.name, "collect facts"))
        return read_facts(await host.run(FACTS_SCRIPT, timeout_s=FACTS_S))

    async def execute(self, host: Host, steps: list[plan.AnyStep]) -> str:
        start = time.monotonic()
        return _summary(await self._run_steps(host, steps), start)

    async def _run_steps(self, host: Host, steps: list[plan.AnyStep]) -> int:
        for step in steps:
            self._on_progress(HostProgress(host.name, step.what))
            try:
                await self._run_step(host, step)
            except HostError as error:
                raise HostError(f"{step.what}: {error}") from error
        return len(steps)

    async def _run_step(self, host: Host, step: plan.AnyStep) -> None:
        if isinstance(step, plan.Install):
            package = await asyncio.to_thread(step.package.path.read_bytes)
            await host.run(plan.install_script(step.package.version), package, INSTALL_S)
        elif isinstance(step, plan.Enrol):
            await self._enrol(host, step.name)
        else:
            await host.run(step.script, step.reads, step.timeout_s)

    async def _enrol(self, host: Host, name: str) -> None:
        """Enrol a new key of a trainer, and revoke earlier keys of that name, which its host no longer has.

        The token passes through this process on standard input, never on a command line. The accepted fingerprint is
        the one that the trainer's own host printed; nothing else that it prints reaches the broker's host.
        """
        async with connect(self._desired.broker.host, self._config) as broker:
            await broker.run(_revoke_script(name))
            token = await broker.run(plan.keys_command("token", "--name", name, "--hours", f"{ENROL_HOURS:g}"))
            async with host.start(plan.join_script(name, REACH_S), JOIN_S) as join:
                join.write(token.strip())
                if printed := await join.read_line():  # else it has failed
                    accept = plan.accept_command(name, printed, REACH_S)
                    if accept is None:
                        raise HostError(
                            f"expected the fingerprint of trainer {name}, got {printed!r:.80}: no key was accepted; "
                            "check this host"
                        )
                    await broker.run(accept)
                await join.end()

    async def revoke(self, broker: str, names: list[str]) -> None:
        """Revoke the keys of these trainers; unknown names are ignored."""
        async with connect(broker, self._config) as host:
            for name in names:
                await host.run(_revoke_script(name))

    async def journal(self, host: Host, lines: int) -> str:
        return await host.run(_journal_script(lines))

    async def follow(self, host: Host, lines: int) -> AsyncIterator[str]:
        """Yield the last log lines, then new ones; closing the iterator ends journalctl on the host."""
        # journalctl ends when its reader disconnects, in every systemd from SYSTEMD_MIN on.
        async with host.start(f"exec {_journal_script(lines)} --follow", None) as journal:
            async for line in journal.lines():
                yield line
            await journal.end()


def _check(problems: list[str]) -> None:
    if problems:
        raise HostError("; ".join(problems))


def _revoke_script(name: str) -> str:
    return f"({plan.keys_command('revoke', '--', name)}) > /dev/null 2>&1 || true"


def _journal_script(lines: int) -> str:
    return f"journalctl --unit 'fedmq-*' --lines {min(lines, JOURNAL_LINES_MAX)} --no-pager --output short-iso"


def _summary(steps: int, start: float) -> str:
    seconds = time.monotonic() - start
    return f"{steps} step{'s' * (steps > 1)}, {seconds:.1f} s" if steps else "nothing to do"
