"""Benchmark: the page of a run of 10,000 rounds and 1,000 trainers in Chromium, with ten updates a second.

Run it: `python tests/benchmarks/page.py [--json] [--seconds N]`. The events are synthetic, in a run folder; the
dashboard and the browser are real. First paint and the complete curve are measured from the navigation on; the load of
the main thread comes from the browser's own metrics. Exit code 1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fedmq import MLP
from fedmq.observe import events
from fedmq.runtime.lock import FolderLock
from fedmq.runtime.run_folder import EVENTS
from fedmq.testing import run_started

sys.path.insert(0, str(Path(__file__).parents[1] / "browser"))
from chromium import CHROMIUM, MISSING, chromium

ROUNDS, TRAINERS = 10_000, 1_000
ANSWERED_ROUNDS = 4  # the last ones: the page has no results of older rounds
ANSWERS = 100  # in each update
UPDATE_S = 0.1
PAINT_MS_MAX, CURVE_MS_MAX, BUSY_MAX, UPDATES_MIN = 2000.0, 2000.0, 0.5, 8.0
RUN = "crowd"
LARGE = {"width": 1440, "height": 1000}
# Records when the curve has all rounds.
NOTE_CURVE = f"""
new MutationObserver((_, observer) => {{
  if (Number(document.querySelector("#fitness")?.dataset.rounds) < {ROUNDS}) return;
  window.curveDrawnAt = performance.now();
  observer.disconnect();
}}).observe(document, {{ subtree: true, attributes: true, attributeFilter: ["data-rounds"] }});
"""


class Crowd:
    """Writes the events of a run, as an aggregator does."""

    def __init__(self, folder: Path) -> None:
        self._path, self._generator = folder / EVENTS, np.random.default_rng(1)
        self._at, self._round = time.time() - ROUNDS * 0.3, 0
        model = MLP([2, 8, 2], hidden="tanh")
        self._genes = self._generator.normal(0, 1, model.num_parameters)
        with self._path.open("wb") as file:
            started = run_started(
                run=RUN, term=1, round=1, task="xor", algorithm="evolution", seed=1, metric="accuracy",
                target=1.0, rounds_max=20_000, min_trainers=TRAINERS, model=model,
            )  # fmt: skip
            file.write(self._line(started))
            for number in range(TRAINERS):
                file.write(self._line(self._joined(number)))
            for before_last in range(ROUNDS, 0, -1):
                answers = TRAINERS if before_last <= ANSWERED_ROUNDS else 0
                file.writelines(self._round_of(answers, 0.3))

    def continue_run(self, stop: threading.Event) -> None:
        """Write ten rounds a second, each with answers of some trainers, until `stop`."""
        with self._path.open("ab") as file:
            due = time.monotonic()
            while not stop.is_set():
                self._at = time.time() - UPDATE_S
                file.writelines(self._round_of(ANSWERS, UPDATE_S))
                file.flush()
                due += UPDATE_S
                stop.wait(max(0.0, due - time.monotonic()))

    def _joined(self, number: int) -> events.TrainerJoined:
        return events.TrainerJoined(
            trainer=f"site-{number:04d}", num_examples=200 + number, version="0.1.0", labels=("north", "ward-7"),
            fingerprint=f"{number:032x}",
        )  # fmt: skip

    def _round_of(self, answers: int, length_s: float) -> Iterator[bytes]:
        self._round += 1
        yield self._line(events.RoundPublished(round=self._round, invited=TRAINERS))
        first = self._round * ANSWERS % TRAINERS
        for offset in range(answers):
            self._at += length_s / (answers + 1)
            number = (first + offset) % TRAINERS
            yield self._line(
                events.ResultAccepted(
                    round=self._round, trainer=f"site-{number:04d}", staleness=0, train_s=length_s * 0.4,
                    answer_s=length_s * (offset + 1) / (answers + 1), cpu_s=self._round * 0.1, memory=60_000_000,
                )
            )  # fmt: skip
        self._at += length_s / (answers + 1)
        if self._round % 10 == 0:
            self._genes += self._generator.normal(0, 0.05, self._genes.shape)
            yield self._line(events.BestChanged(round=self._round, parameters=self._genes.tobytes()))
        yield self._line(self._closed(answers, length_s))

    def _closed(self, answers: int, length_s: float) -> events.RoundClosed:
        loss = 0.7 * 0.9997**self._round
        noise = self._generator.uniform(1, 1.3, 3).tolist()
        best = events.Best(
            value=1 - loss / 2, coverage=1.0, fitness=-loss, fitness_mean=-2 * loss * noise[0],
            fitness_worst=-6 * loss * noise[1], diversity=0.4,
        )  # fmt: skip
        return events.RoundClosed(
            round=self._round, why="complete", results=answers or TRAINERS, round_s=length_s * noise[2],
            present=TRAINERS, best=best, bytes_up=2_400_000, bytes_down=5_100_000,
        )  # fmt: skip

    def _line(self, event: events.AnyEvent) -> bytes:
        return msgspec.json.encode({"at": self._at, **msgspec.to_builtins(event)}) + b"\n"


@contextmanager
def dashboard(folder: Path) -> Iterator[str]:
    """Serve a dashboard for the runs in that folder, without a broker; yield its address."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("FEDMQ_")}
    arguments = ["dashboard", "--runs", str(folder), "--port", "0"]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "fedmq", *arguments],
        stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True, env={**kept, "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        found = re.search(r"http://\S+", next(line for line in process.stdout if "http://" in line))
        assert found is not None
        yield found[0]
    finally:
        process.terminate()
        process.wait(10)


def measure(address: str, crowd: Crowd, seconds: float) -> dict[str, Any]:
    """Open the page, update it for some seconds, and return the figures."""
    with chromium() as browser:
        page = browser.new_page(viewport=LARGE)
        page.add_init_script(NOTE_CURVE)
        page.goto(f"{address}#run={RUN}")
        page.wait_for_function("() => window.curveDrawnAt > 0")
        painted = page.evaluate("() => performance.getEntriesByName('first-contentful-paint')[0].startTime")
        curve = page.evaluate("() => window.curveDrawnAt")
        session = page.context.new_cdp_session(page)
        session.send("Performance.enable")
        stop = threading.Event()
        writing = threading.Thread(target=crowd.continue_run, args=(stop,))
        writing.start()
        try:
            page.wait_for_timeout(2000)
            before, rounds = metrics(session), page.evaluate(ROUND_SHOWN)
            page.wait_for_timeout(1000 * seconds)
            after, rounds_after = metrics(session), page.evaluate(ROUND_SHOWN)
        finally:
            stop.set()
            writing.join()
        took = after["Timestamp"] - before["Timestamp"]
        return {
            "first_paint_ms": round(painted),
            "curve_ms": round(curve),
            "busy": round((after["TaskDuration"] - before["TaskDuration"]) / took, 3),
            "layout": round((after["LayoutDuration"] - before["LayoutDuration"]) / took, 3),
            "style": round((after["RecalcStyleDuration"] - before["RecalcStyleDuration"]) / took, 3),
            "layouts": (after["LayoutCount"] - before["LayoutCount"]) / took,
            "frames": (after.get("Frames", 0)),
            "script": round((after["ScriptDuration"] - before["ScriptDuration"]) / took, 3),
            "updates_per_s": round((rounds_after - rounds) / took, 1),
            "heap_mb": round(after["JSHeapUsedSize"] / 1e6, 1),
        }


ROUND_SHOWN = "() => Number(document.querySelector('#round').textContent.replaceAll(',', ''))"


def metrics(session: Any) -> dict[str, float]:
    """Return the browser's metrics of this page, in seconds; TaskDuration is the main thread's."""
    return {one["name"]: one["value"] for one in session.send("Performance.getMetrics")["metrics"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--seconds", type=float, default=8.0, help="length of the measurement")
    options = parser.parse_args()
    if not CHROMIUM.exists():
        print(f"skipped: {MISSING}", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / RUN
        folder.mkdir()
        lock = FolderLock(folder)  # so that the run counts as live
        try:
            crowd = Crowd(folder)
            with dashboard(Path(name)) as address:
                figures = measure(address, crowd, options.seconds)
        finally:
            lock.release()
    good = (
        figures["first_paint_ms"] < PAINT_MS_MAX
        and figures["curve_ms"] < CURVE_MS_MAX
        and figures["busy"] < BUSY_MAX
        and figures["updates_per_s"] >= UPDATES_MIN
    )
    if options.json:
        print(json.dumps({**figures, "good": good}))
    else:
        print(f"{ROUNDS} rounds, {TRAINERS} trainers, {ANSWERS / UPDATE_S:.0f} answers a second")
        print(f"first paint          {figures['first_paint_ms']:6d} ms   (target < {PAINT_MS_MAX:.0f})")
        print(f"whole curve drawn    {figures['curve_ms']:6d} ms   (target < {CURVE_MS_MAX:.0f})")
        print(f"updates              {figures['updates_per_s']:6.1f} /s   (target >= {UPDATES_MIN:.0f})")
        print(f"main thread busy     {figures['busy']:6.1%}      (target < {BUSY_MAX:.0%})")
        print(f"  in scripts         {figures['script']:6.1%}")
        print(f"heap                 {figures['heap_mb']:6.1f} MB")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
