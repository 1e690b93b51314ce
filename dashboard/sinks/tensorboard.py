"""The sink for TensorBoard: a folder with an event file for each run. The only module that imports tensorboardX.

Knows nothing of where rounds come from.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
from tensorboardX import SummaryWriter

from fedmq.dashboard.sinks.runner import Report, figures_of, parameters_of
from fedmq.observe.events import RunFinished
from fedmq.observe.run_state import RoundRecord, RunState
from fedmq.runtime.atomic_files import writing

NAMES = {"fitness_best": "fitness/best", "fitness_mean": "fitness/mean", "fitness_worst": "fitness/worst"}


class EventFile:
    """Of one run, in a folder of its name. Whoever starts again writes another file, with the same points."""

    def __init__(self, out: Path, view: RunState) -> None:
        self.last = 0
        with writing(f"--out {out}"):
            self._writer = SummaryWriter(str(out / view.run))
        table = "| | |\n|---|---|\n" + "".join(f"| {key} | {value} |\n" for key, value in parameters_of(view).items())
        self._writer.add_text("parameters", table, 0, view.started_at)

    def take(self, rounds: list[RoundRecord]) -> None:
        for one in rounds:
            for name, value in figures_of(one).items():
                self._writer.add_scalar(NAMES.get(name, f"rounds/{name}"), value, one.round, one.closed_at)
        self._writer.flush()

    def finish(self, finished: RunFinished, report: Report | None) -> None:
        words = msgspec.to_builtins(finished) if report is None else report
        self._writer.add_text("report", f"```json\n{msgspec.json.format(msgspec.json.encode(words)).decode()}\n```")

    def close(self) -> None:
        self._writer.close()


def event_files(out: Path) -> Callable[[RunState], EventFile]:
    """What opens the sink of a run in the folder `out`."""
    return lambda view: EventFile(out, view)
