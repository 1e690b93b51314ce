"""Inject the faults of a schedule into a federation, and record violations.

Every coroutine here leaves its target running.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import zmq
import zmq.asyncio
from disk import STORE_FILES, Damage, Disk, copy_run, draw_damage
from federation import YOUNG_S, Federation, Service, run_fedmq
from proxy import Direction
from schedule import AGGREGATOR, BROKER, Fault

from fedmq.runtime.descriptors import descriptor_limit, open_descriptors
from fedmq.runtime.rng import derive_rng
from fedmq.transport.link import Port

STOP_S = 5.0  # time limit of a service after SIGTERM
STOP_SLACK_S = 1.0  # for a busy machine
REFUSES_S = 20.0  # time limit for an aggregator to reject a damaged store
FULL_S = 6.0  # how long a disk stays full if the aggregator does not notice
LATE_S = (0.1, 0.5)
SLOW_BYTES_PER_S = (4_000, 40_000)
CONNECTIONS = 1_000
RESERVED = 200  # descriptors that this process keeps for itself
BROKER_PORTS = 4  # without keys
MESSAGES = 30_000
WRONG_TASK_CODES = (70, 75)  # all trainers declined, or too few were there to try
TRIES = 20  # to find a damage that is detected
STOPPED_CODES = {BROKER: 0, AGGREGATOR: 1}  # after a clean stop; of a trainer 0

CUTS: dict[str, tuple[Direction, ...]] = {"cut up": ("up",), "cut down": ("down",), "cut both ways": ("up", "down")}

Act = Callable[[Fault, np.random.Generator], Awaitable[None]]


class Faults:
    """Injects faults; counts them by kind, and collects `violations`."""

    def __init__(self, federation: Federation, disk: Disk, note: Callable[[str], None]) -> None:
        self.done: Counter[str] = Counter()
        self.violations: list[str] = []
        self.stops_s: list[float] = []
        self.unnoticed_full = self.unused_bytes = 0
        self._federation, self._disk, self._note = federation, disk, note
        self._copies = federation.folder / "copies"
        self._copies.mkdir()
        self._acts: dict[str, Act] = {
            "kill all": self._kill_all,
            "kill": self._kill,
            "sigterm": self._terminate,
            "pause": self._pause,
            "late link": self._late,
            "slow link": self._slow,
            "drop connections": self._drop,
            "cut": self._cut,
            "many connections": self._many_connections,
            "stalled reader": self._stalled_reader,
            "wrong task": self._wrong_task,
            "full disk": self._full_disk,
            "damaged copy": self._damaged_copy,
            "damaged store": self._damaged_store,
        }

    async def inject(self, fault: Fault) -> None:
        """Inject `fault`; return when its target is healthy again."""
        act = self._acts.get(fault.kind) or self._acts[fault.kind.split()[0]]
        self._note(f"{fault.kind}: {fault.target} for {fault.seconds:.1f} s")
        await act(fault, derive_rng(fault.draw, "fault"))
        self.done[fault.kind] += 1

    def report_violation(self, line: str) -> None:
        """Record a violation."""
        self.violations.append(line)
        self._note(f"VIOLATION: {line}")

    async def revive(self, service: Service) -> None:
        """Report a service that ended without a fault, and restart it."""
        async with service.lock:
            if service.pid is None:
                lines = service.error_lines(0)[-1:]
                self.report_violation(
                    f"{service.name} ended without a fault, exit code {service.code}: {' '.join(lines)}"
                )
                await service.start()

    # --- processes ----------------------------------------------------------------------------------------------

    async def _kill(self, fault: Fault, _draws: np.random.Generator) -> None:
        service = self._federation.services[fault.target]
        async with service.lock:
            await service.kill()
            await asyncio.sleep(fault.seconds)
            await service.start()

    async def _kill_all(self, fault: Fault, _draws: np.random.Generator) -> None:
        """Kill all services at once, as in a power cut; the page cache survives."""
        services = list(self._federation.services.values())
        async with contextlib.AsyncExitStack() as stack:
            for service in services:
                await stack.enter_async_context(service.lock)
            await asyncio.gather(*(service.kill() for service in services))
            await asyncio.sleep(fault.seconds)
            for service in services:
                await service.start()

    async def _terminate(self, fault: Fault, _draws: np.random.Generator) -> None:
        service = self._federation.services[fault.target]
        async with service.lock:
            age_s, sent_at = service.age_s, time.monotonic()
            service.send(signal.SIGTERM)
            code = await service.wait(STOP_S + STOP_SLACK_S)
            self.stops_s.append(time.monotonic() - sent_at)
            expected = {STOPPED_CODES.get(service.name, 0)} | ({-signal.SIGTERM} if age_s < YOUNG_S else set())
            if code is None:
                self.report_violation(f"{service.name} still runs {self.stops_s[-1]:.1f} s after SIGTERM")
                await service.kill()
            elif code not in expected:
                self.report_violation(
                    f"{service.name} ended with {code} after SIGTERM, expected one of {sorted(expected)}"
                )
            await asyncio.sleep(fault.seconds)
            await service.start()

    async def _pause(self, fault: Fault, _draws: np.random.Generator) -> None:
        service = self._federation.services[fault.target]
        async with service.lock:
            service.send(signal.SIGSTOP)
            try:
                await asyncio.sleep(fault.seconds)
            finally:
                service.send(signal.SIGCONT)
                service.paused(fault.seconds)

    # --- links --------------------------------------------------------------------------------------------------

    async def _late(self, fault: Fault, draws: np.random.Generator) -> None:
        more_s = float(draws.uniform(*LATE_S))
        proxy = self._federation.proxies[fault.target]
        proxy.delay_s += more_s
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            proxy.delay_s -= more_s

    async def _slow(self, fault: Fault, draws: np.random.Generator) -> None:
        proxy = self._federation.proxies[fault.target]
        proxy.bytes_per_s = float(draws.uniform(*SLOW_BYTES_PER_S))
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            proxy.bytes_per_s = None

    async def _drop(self, fault: Fault, _draws: np.random.Generator) -> None:
        self._federation.proxies[fault.target].drop()

    async def _cut(self, fault: Fault, _draws: np.random.Generator) -> None:
        proxy = self._federation.proxies[fault.target]
        directions = CUTS[fault.kind]
        proxy.cut(*directions)
        try:
            await asyncio.sleep(fault.seconds)
        finally:
            proxy.heal(*directions)

    async def _many_connections(self, fault: Fault, _draws: np.random.Generator) -> None:
        """Open more silent connections than the broker has descriptors, but leave some to this process."""
        available = descriptor_limit() - open_descriptors() - RESERVED
        with contextlib.ExitStack() as stack:
            for number in range(min(CONNECTIONS, available)):
                peer = stack.enter_context(socket.socket())
                peer.setblocking(False)
                peer.connect_ex(("127.0.0.1", self._federation.port + number % BROKER_PORTS))
                if number % 100 == 0:
                    await asyncio.sleep(0)
            await asyncio.sleep(fault.seconds)

    async def _stalled_reader(self, fault: Fault, draws: np.random.Generator) -> None:
        """Stop an edge while more messages arrive at the aggregator than its queue holds."""
        flood = asyncio.create_task(self._flood())
        try:
            await self._pause(fault, draws)
        finally:
            flood.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await flood

    async def _flood(self) -> None:
        with zmq.asyncio.Context() as context, context.socket(zmq.PUSH) as push:
            push.linger = 0
            push.connect(f"tcp://127.0.0.1:{self._federation.port + Port.PUSH}")
            for _ in range(MESSAGES):
                await push.send_multipart([b"up/chaos", b"garbage"])
            await asyncio.Event().wait()

    async def _wrong_task(self, fault: Fault, _draws: np.random.Generator) -> None:
        """Publish a run that the rows do not fit: every trainer declines it and stays."""
        run = f"wrong-{fault.draw}"
        code, _, errors = await run_fedmq(
            self._federation.folder,
            *("aggregator", "--task", "xor", "--run", run, "--out", str(self._copies / run), "--wait", "5"),
            *("--broker", f"tcp://127.0.0.1:{self._federation.port}"),
        )
        if code not in WRONG_TASK_CODES:
            self.report_violation(
                f"{run}: expected an exit code of {WRONG_TASK_CODES}, got {code}: {errors.strip()[-300:]}"
            )

    # --- the disk -----------------------------------------------------------------------------------------------

    async def _full_disk(self, fault: Fault, _draws: np.random.Generator) -> None:
        """An aggregator that cannot write exits with a one-line error; with free space it resumes."""
        service = self._federation.services[AGGREGATOR]
        async with service.lock:
            since, pid = service.err.stat().st_size, service.pid
            self._disk.fill(pid)
            try:
                code = await service.wait(FULL_S)
            finally:
                self._disk.free(pid if service.pid else None)
            if code is None:  # no write happened, or it fitted into allocated space
                self.unnoticed_full += 1
                return
            self._check_refusal(service, code, since, "a full disk", "make room")
            await asyncio.sleep(fault.seconds)
            await service.start()

    async def _damaged_copy(self, fault: Fault, draws: np.random.Generator) -> None:
        """`runs verify` detects any damage to a copy, unless it is in unused bytes."""
        service = self._federation.services[AGGREGATOR]
        async with service.lock:
            await service.kill()
            intact = copy_run(self._disk.folder, self._copies / f"{fault.draw}-intact")
            await asyncio.sleep(fault.seconds)
            await service.start()
        copy = copy_run(intact, self._copies / f"{fault.draw}-damaged")
        damage = draw_damage(copy, draws)
        damage.apply(copy)
        if await self._verifies(copy, damage):
            before, after = await self._replayed(intact), await self._replayed(copy)
            if before != after:
                self.report_violation(f"{damage}: not detected, and the replay gives {after} instead of {before}")
            self.unused_bytes += 1

    async def _damaged_store(self, fault: Fault, draws: np.random.Generator) -> None:
        """An aggregator rejects a damaged store with a one-line error; with the old bytes it resumes."""
        service, folder = self._federation.services[AGGREGATOR], self._disk.folder
        async with service.lock:
            await service.kill()
            damage = await self._detected_damage(folder, fault, draws)
            if damage is None:
                self.report_violation(f"no damage was detected in {TRIES} tries")
            else:
                saved = {path.name: path.read_bytes() for name in STORE_FILES if (path := folder / name).exists()}
                damage.apply(folder)
                since = service.err.stat().st_size
                await service.start()
                code = await service.wait(REFUSES_S)
                if code is None:
                    self.report_violation(f"{damage}: the aggregator continues with it")
                    await service.kill()
                else:
                    self._check_refusal(service, code, since, str(damage), "damaged")
                for path in (*(folder / name for name in STORE_FILES), *folder.glob("*-shm")):
                    path.unlink(missing_ok=True)
                for name, content in saved.items():
                    (folder / name).write_bytes(content)
            await asyncio.sleep(fault.seconds)
            await service.start()

    async def _detected_damage(self, folder: Path, fault: Fault, draws: np.random.Generator) -> Damage | None:
        for attempt in range(TRIES):
            copy = copy_run(folder, self._copies / f"{fault.draw}-{attempt}")
            damage = draw_damage(copy, draws)
            damage.apply(copy)
            if not await self._verifies(copy, damage):
                return damage
        return None

    async def _verifies(self, folder: Path, damage: Damage) -> bool:
        """Return whether `fedmq runs verify` accepts the run; any other failure is a violation."""
        code, out, errors = await run_fedmq(self._federation.folder, "runs", "verify", str(folder))
        if code not in (0, 78) or "Traceback" in out + errors or "unexpected" in errors:
            self.report_violation(f"{damage}: runs verify ended with {code}: {errors.strip()[-300:]}")
        return code == 0

    async def _replayed(self, folder: Path) -> str:
        code, out, errors = await run_fedmq(self._federation.folder, "runs", "replay", str(folder))
        return out.strip() if code == 0 else f"exit code {code}: {errors.strip()[-300:]}"

    def _check_refusal(self, service: Service, code: int, since: int, what: str, named: str) -> None:
        lines = service.error_lines(since)
        if code != 78 or len(lines) != 1 or named not in lines[0]:
            self.report_violation(
                f"{what}: expected exit code 78 and one line with {named!r} of the {service.name}, got {code} and "
                f"{len(lines)} lines: {' / '.join(lines)[-600:]}"
            )


async def watch(federation: Federation, faults: Faults, finished: Callable[[], bool]) -> None:
    """Until canceled: report and restart services that end without a fault; an aggregator may end with its run."""
    while True:
        for service in federation.services.values():
            gone = service.pid is None and not service.lock.locked()
            if gone and not (service.name == AGGREGATOR and finished()):
                await faults.revive(service)
        await asyncio.sleep(0.1)


async def follow(schedule: list[Fault], faults: Faults) -> None:
    """Inject every fault at its time; return when all targets are healthy again."""
    began = time.monotonic()
    tasks = []
    for fault in schedule:
        await asyncio.sleep(max(0.0, began + fault.at_s - time.monotonic()))
        tasks.append(asyncio.create_task(faults.inject(fault)))
    try:
        await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
        raise
