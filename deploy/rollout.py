"""Carries the plans out: all hosts side by side, up to a limit, each on its own, and tells how far each one is.

One task for each host. Whoever needs the broker waits until its host is done with it; a host that fails, fails alone,
unless it is the broker's. Knows nothing of how it is shown.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

from fedmq.deploy import plan
from fedmq.deploy.facts import QUESTIONS, Facts, read_facts
from fedmq.deploy.inventory import BrokerHost, Instance, Setting
from fedmq.deploy.package import Package
from fedmq.deploy.ssh import Host, HostTrouble, connect

ASK_S = 20.0
INSTALL_S = 300.0
JOIN_S = 30.0
ENROL_HOURS = 0.1  # more than a join may take, and than clocks may differ
REACH_S = 10.0  # from a trainer's host to the broker
JOURNAL_LINES_MAX = 10_000


class News(NamedTuple):
    """What a host is doing, or how it ended: `error` is None when all is well."""

    host: str
    what: str
    done: bool = False
    error: str | None = None


Tell = Callable[[News], None]
Work = Callable[[Host], Awaitable[str]]


class Goal(NamedTuple):
    """What is to be so, and where; None and empty: leave it as it is."""

    package: Package
    broker: BrokerHost | None
    hosts: list[str]
    with_broker: bool = False
    aggregator: dict[str, Setting] | None = None
    trainers: list[Instance] = []  # noqa: RUF012 - of a tuple, and never changed


class Rollout:
    """Work on many hosts; `failed` has a line for each host that failed."""

    def __init__(self, config: Path | None, limit: int, tell: Tell) -> None:
        self.failed: dict[str, str] = {}
        self._config, self._tell = config, tell
        self._limit = asyncio.Semaphore(limit)

    async def each(self, hosts: list[str], work: Work) -> None:
        """Do this on each host, over a connection of its own; what it returns is told as its end."""
        await asyncio.gather(*(self._one(host, work) for host in hosts))

    async def _one(self, name: str, work: Work) -> None:
        async with self._limit:
            self._tell(News(name, "connect"))
            try:
                async with connect(name, self._config) as host:
                    end = await work(host)
            except HostTrouble as trouble:
                self.failed[name] = str(trouble)
                self._tell(News(name, "failed", True, str(trouble)))
            else:
                self._tell(News(name, end, True))

    async def connection(self, goal: Goal) -> None:
        """Make it so."""
        self._federation: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._goal = goal
        await self.each(goal.hosts, self._reach_on)
        if self._federation.done() and not self._federation.cancelled():
            self._federation.exception()  # seen

    async def _reach_on(self, host: Host) -> str:
        goal, start, is_brokers = self._goal, time.monotonic(), self._is_brokers(host.name)
        try:
            facts = await self.ask(host)
            self._check([*plan.problems(facts, goal.package, time.time()), *self._broker_problems(host.name, facts)])
            done = await self._carry_out(host, plan.install(facts, goal.package))
            if is_brokers:
                done += await self._reach_broker(host, facts)
        except HostTrouble:
            if is_brokers and not self._federation.done():
                self._federation.set_exception(HostTrouble(f"expected a broker, but {host.name} failed; see there"))
            raise
        if wanted := [one for one in goal.trainers if one.host == host.name]:
            assert goal.broker is not None
            self._tell(News(host.name, "wait for the broker"))
            federation = await self._federation
            self._check(plan.trainer_problems(facts, federation))
            done += await self._carry_out(host, plan.trainers(facts, wanted, federation, goal.broker.url))
        return _summary(done, start)

    def _is_brokers(self, name: str) -> bool:
        return self._goal.broker is not None and name == self._goal.broker.host

    def _broker_problems(self, name: str, facts: Facts) -> list[str]:
        goal = self._goal
        if goal.broker is None or name != goal.broker.host or not goal.with_broker:
            return []
        return plan.broker_problems(facts, goal.broker)

    async def _reach_broker(self, host: Host, facts: Facts) -> int:
        """The broker and the aggregator, as far as they are wanted; then who waits for the broker goes on."""
        goal = self._goal
        assert goal.broker is not None
        done = 0
        if goal.with_broker:
            done += await self._carry_out(host, plan.broker(facts, goal.broker))
            facts = await self.ask(host) if done else facts
        if facts.federation is None:
            raise HostTrouble(
                f"expected the keys of a federation, got none; fedmq deploy broker {host.name} makes them"
            )
        self._federation.set_result(facts.federation)
        if goal.aggregator is not None:
            done += await self._carry_out(host, plan.aggregator(facts, goal.aggregator, goal.broker.port))
        return done

    async def ask(self, host: Host) -> Facts:
        """The facts of a host."""
        self._tell(News(host.name, "ask"))
        return read_facts((await host.run(QUESTIONS, timeout_s=ASK_S)).text)

    @staticmethod
    def _check(problems: list[str]) -> None:
        if problems:
            raise HostTrouble("; ".join(problems))

    async def carry_out(self, host: Host, steps: list[plan.AnyStep]) -> str:
        """Carry out a plan; its end in words."""
        start = time.monotonic()
        done = await self._carry_out(host, steps)
        return _summary(done, start)

    async def _carry_out(self, host: Host, steps: list[plan.AnyStep]) -> int:
        for step in steps:
            self._tell(News(host.name, step.what))
            try:
                await self._carry_out_one(host, step)
            except HostTrouble as trouble:
                raise HostTrouble(f"{step.what}: {trouble}") from trouble
        return len(steps)

    async def _carry_out_one(self, host: Host, step: plan.AnyStep) -> None:
        if isinstance(step, plan.Install):
            package = await asyncio.to_thread(step.package.path.read_bytes)
            await host.run(plan.install_script(step.package.version), package, INSTALL_S)
        elif isinstance(step, plan.Enrol):
            await self._enrol(host, step.name)
        else:
            await host.run(step.script, step.reads, step.timeout_s)

    async def _enrol(self, host: Host, name: str) -> None:
        """Let a new key in. What was let in by that name before has no key on its host any more: it is revoked.

        The token goes from the broker's host to the trainer's through here, never in the words of a command, and the
        fingerprint that is accepted is the one that the trainer's own host has said.
        """
        assert self._goal.broker is not None
        async with connect(self._goal.broker.host, self._config) as broker:
            await broker.run(f"({plan.keys_command('revoke', name)}) > /dev/null 2>&1 || true")
            token = (
                await broker.run(plan.keys_command("token", "--name", name, "--hours", f"{ENROL_HOURS:g}"))
            ).text.strip()
            async with host.converse(plan.join_script(name, REACH_S), JOIN_S) as join:
                join.write(token)
                found = re.search(r"fingerprint (\S+)", await join.read_line())
                if found is not None:
                    await broker.run(plan.keys_command("accept", found[1], "--wait", f"{REACH_S:g}"))
                await join.end()

    async def revoke(self, broker: str, names: list[str]) -> None:
        """Let these trainers in no more; one that is not let in is none."""
        async with connect(broker, self._config) as host:
            for name in names:
                await host.run(f"({plan.keys_command('revoke', name)}) > /dev/null 2>&1 || true")

    async def journal(self, host: Host, lines: int) -> str:
        """The last lines of what fedmq logged there."""
        return (await host.run(_journal_script(lines))).text

    async def follow(self, host: Host, lines: int) -> AsyncIterator[str]:
        """The same, and then each line as it comes; whoever has heard enough goes, and nothing is left there."""
        # journalctl ends when nobody reads any more; that is in every systemd of SYSTEMD_MIN.
        async with host.converse(f"exec {_journal_script(lines)} --follow", None) as journal:
            async for line in journal.lines():
                yield line
            await journal.end()


def _journal_script(lines: int) -> str:
    return f"journalctl --unit 'fedmq-*' --lines {min(lines, JOURNAL_LINES_MAX)} --no-pager --output short-iso"


def _summary(steps: int, start: float) -> str:
    took = f"{time.monotonic() - start:.1f} s"
    return f"{steps} step{'s' * (steps > 1)}, {took}" if steps else "nothing to do"
