"""The sink for TensorBoard: an event file in a folder for each run. The only module that imports tensorboardX."""

from collections.abc import Callable
from pathlib import Path

import msgspec
from tensorboardX import SummaryWriter

from fedmq.dashboard.sinks.runner import AnyReport, figures_of, settings_of
from fedmq.observe.events import RunFinished
from fedmq.observe.run_state import RoundRecord, RunState
from fedmq.runtime.atomic_files import writing

NAMES = {"fitness_best": "fitness/best", "fitness_mean": "fitness/mean", "fitness_worst": "fitness/worst"}


class EventFile:
    """The event file of one run, in a folder of its name. A restarted sink writes a new file with the same points."""

    def __init__(self, out: Path, run_state: RunState) -> None:
        self.last = 0
        with writing(f"--out {out}"):
            self._writer = SummaryWriter(str(out / run_state.run))
        rows = "".join(f"| {key} | {value} |\n" for key, value in settings_of(run_state).items())
        self._writer.add_text("parameters", f"| | |\n|---|---|\n{rows}", 0, run_state.started_at)

    def write(self, rounds: list[RoundRecord]) -> None:
        for one in rounds:
            for name, value in figures_of(one).items():
                self._writer.add_scalar(NAMES.get(name, f"rounds/{name}"), value, one.round, one.closed_at)
        self._writer.flush()

    def finish(self, finished: RunFinished, report: AnyReport | None) -> None:
        encoded = msgspec.json.encode(finished if report is None else report)
        self._writer.add_text("report", f"```json\n{msgspec.json.format(encoded).decode()}\n```")

    def close(self) -> None:
        self._writer.close()


def event_files(out: Path) -> Callable[[RunState], EventFile]:
    """Return the function that opens the sink of a run in the folder `out`."""
    return lambda run_state: EventFile(out, run_state)
