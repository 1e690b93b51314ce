"""`make chaos` and `make soak`: run a federation of processes under faults drawn from a seed, and judge the run.

    python tests/chaos/chaos.py --seed 1 --seconds 60 --faults 60

Steps: start, follow the schedule, heal, wait for the target, judge. Exit code 0 if nothing was lost, else 1, and the
folder with all logs is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import signal
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from disk import Disk
from faults import Faults, follow, watch
from federation import Federation, until
from plot import write_plot
from resources import Recorder
from schedule import AGGREGATOR, KINDS, Fault, draw_schedule
from training import latency_for, rounds_for, write_task
from verdict import Verdict, judge

BEGIN_S = 60.0  # limit for the first closed round
END_S = 120.0  # from the last fault to the target
RECOVERS_S = 10.0  # from the last fault to the next closed round
DISK_BYTES = 64 << 20
DISK_BYTES_PER_ROUND = 24_000
RSS_MAX_BYTES = 200_000_000
RSS_GROWTH_MAX_PERCENT = 5.0


class Chaos:
    """One run of the harness in `folder`."""

    def __init__(self, folder: Path, schedule: list[Fault], seconds: float, seed: int) -> None:
        self.schedule = schedule
        self.rounds, self.latency_s = rounds_for(seconds), latency_for(seconds)
        self.disk = Disk(folder / "run", DISK_BYTES + DISK_BYTES_PER_ROUND * self.rounds)
        task = write_task(folder / "task.py", self.rounds)
        self.federation = Federation(folder, self.disk.folder, task, seed, 2 * self.rounds + 100)
        self.faults = Faults(self.federation, self.disk, self._note)
        self.recorder = Recorder(self.federation.services)
        self.recovered_s = self.ended_s = 0.0
        self.closed_under_faults = 0  # rounds
        self._began = time.monotonic()
        self._log = (folder / "chaos.log").open("w")

    def _note(self, line: str) -> None:
        self._log.write(f"{time.monotonic() - self._began:8.3f}  {line}\n")
        self._log.flush()

    def _finished(self) -> bool:
        return (self.disk.folder / "report.json").exists()

    def _closed(self) -> int:
        """Return the number of rounds in the aggregator's output; cheap enough to poll."""
        path = self.federation.services[AGGREGATOR].out
        return path.read_bytes().count(b"\nround ") if path.exists() else 0

    async def run(self) -> Verdict:
        """Start, follow the schedule, heal, wait, judge."""
        tasks = []
        try:
            await self.federation.start()
            for proxy in self.federation.proxies.values():
                proxy.delay_s = self.latency_s
            tasks.append(asyncio.create_task(self.recorder.run()))
            assert await until(lambda: self._closed() > 0, BEGIN_S), "no round was closed before any fault"
            tasks.append(asyncio.create_task(watch(self.federation, self.faults, self._finished)))
            await follow(self.schedule, self.faults)
            await self._end()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self.federation.stop()
        return await judge(self.disk.folder, self.federation.services)

    async def _end(self) -> None:
        """After the last fault: check that a round closes soon, and that the run reaches its target."""
        self._note("all faults are healed")
        healed_at, before = time.monotonic(), self._closed()
        self.closed_under_faults = before
        if self._finished():
            self.faults.report_violation("the run ended before the schedule")
        if not await until(lambda: self._closed() > before or self._finished(), RECOVERS_S):
            self.faults.report_violation(f"no round was closed within {RECOVERS_S:g} s of the end of the faults")
        self.recovered_s = time.monotonic() - healed_at
        for proxy in self.federation.proxies.values():
            proxy.delay_s = 0.0
        if not await until(self._finished, END_S):
            self.faults.report_violation(f"the target was not reached within {END_S:g} s of the end of the faults")
            return
        code = await self.federation.services[AGGREGATOR].wait(10.0)
        self.ended_s = time.monotonic() - healed_at
        if code != 0:
            self.faults.report_violation(f"expected the aggregator to end with exit code 0, got {code}")


def print_table(chaos: Chaos, verdict: Verdict, wrong: list[str], command: str, duration_s: float) -> None:
    """Print the result of a run as a table."""
    faults = chaos.faults
    for kind in KINDS:
        print(f"  {kind.name:<18} {faults.done[kind.name]:>5}")
    stops_s = max(faults.stops_s, default=0.0)
    rows = [
        ("faults", f"{faults.done.total()} of {sum(count > 0 for count in faults.done.values())} kinds"),
        ("full disk by", f"{chaos.disk.how}; {faults.unnoticed_full} ended before a write"),
        ("copies", f"{faults.unused_bytes} damaged in unused bytes"),
        ("rounds", f"{verdict.rounds}, {chaos.closed_under_faults} of them under faults"),
        ("results", f"{verdict.results} in the store, {verdict.seen_accepted} of them logged as accepted by trainers"),
        (
            "terms",
            f"{verdict.terms} in the event log, {chaos.federation.services[AGGREGATOR].lives} starts of the aggregator",
        ),
        ("model", verdict.model_sha256),
        ("after SIGTERM", f"{stops_s:.2f} s at most"),
        ("after healing", f"{chaos.recovered_s:.2f} s to the next closed round, {chaos.ended_s:.1f} s to the end"),
        ("memory", f"{chaos.recorder.rss_max_bytes() / 1e6:.0f} MB at most"),
        ("duration", f"{duration_s:.1f} s"),
        ("verdict", "nothing is lost" if not wrong else f"{len(wrong)} WRONG"),
        ("again", command),
    ]
    for name, value in rows:
        print(f"  {name:<18} {value}")
    for line in wrong:
        print(f"WRONG: {line}", file=sys.stderr)


def print_growth(chaos: Chaos, folder: Path) -> list[str]:
    """Write the CSV and the plot, print the growth of each service; return the violations."""
    folder.mkdir(parents=True, exist_ok=True)
    chaos.recorder.write(folder / "resources.csv")
    write_plot(folder / "resources.svg", chaos.recorder.samples, [fault.at_s for fault in chaos.schedule])
    print(f"  recorded in        {folder}")
    print(f"  {'service':<12} {'RSS max':>9} {'overall':>9} {'in lives':>9} {'descriptors':>12}")
    wrong = []
    for name, grown in chaos.recorder.growth().items():
        print(
            f"  {name:<12} {grown.rss_max_bytes / 1e6:>6.1f} MB {grown.overall_percent:>+7.1f} % "
            f"{grown.within_lives_percent:>+7.1f} % {grown.descriptors_min:>5} to {grown.descriptors_max}"
        )
        if grown.overall_percent > RSS_GROWTH_MAX_PERCENT:
            wrong.append(f"{name} grew by {grown.overall_percent:.1f} % (at most {RSS_GROWTH_MAX_PERCENT:g} %)")
    return wrong


def parse_arguments() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1, help="seed of the schedule")
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the schedule")
    parser.add_argument("--faults", type=int, help="number of faults [default: one a second, at least 60]")
    parser.add_argument(
        "--record", type=Path, metavar="DIR", help="record memory and descriptors, and check their growth"
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder with all logs")
    parser.add_argument("--list", action="store_true", help="only print the schedule")
    return parser.parse_args()


async def run_until_signal(chaos: Chaos) -> Verdict:
    """Run the harness; the first SIGTERM ends it as Ctrl-C does."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    cancel = task.cancel

    def on_signal() -> None:
        loop.remove_signal_handler(signal.SIGTERM)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        cancel()

    loop.add_signal_handler(signal.SIGTERM, on_signal)
    return await chaos.run()


def main() -> int:
    """Run the harness and return the exit code."""
    arguments = parse_arguments()
    count = max(60, int(arguments.seconds)) if arguments.faults is None else arguments.faults
    schedule = draw_schedule(arguments.seed, arguments.seconds, count)
    if arguments.list:
        for fault in schedule:
            print(f"{fault.at_s:8.2f} s  {fault.kind:<18} {fault.target:<12} {fault.seconds:.1f} s")
        return 0
    folder = Path(tempfile.mkdtemp(prefix="fedmq-chaos-"))
    chaos = Chaos(folder, schedule, arguments.seconds, arguments.seed)
    began = time.monotonic()
    kept: Path | None = folder / "run-kept"
    try:
        verdict = asyncio.run(run_until_signal(chaos))
        wrong = [*chaos.faults.violations, *verdict.wrong]
        if chaos.recorder.rss_max_bytes() > RSS_MAX_BYTES:
            wrong.append(f"a service used {chaos.recorder.rss_max_bytes()} bytes (at most {RSS_MAX_BYTES})")
        command = f'make chaos SEED={arguments.seed} SECONDS={arguments.seconds:g} ARGS="--faults {count}"'
        print_table(chaos, verdict, wrong, command, time.monotonic() - began)
        if arguments.record is not None:
            wrong += print_growth(chaos, arguments.record)
        kept = folder / "run-kept" if wrong or arguments.keep else None
        return 1 if wrong else 0
    finally:
        chaos.disk.release(kept)
        if kept is None:
            shutil.rmtree(folder)
        else:
            print(f"all files are in {folder}", file=sys.stderr)


if __name__ == "__main__":
    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(main())
    sys.exit(130)
