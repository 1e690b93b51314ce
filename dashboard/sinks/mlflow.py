"""The sink for MLflow: a run of an experiment for each run. The only module that imports mlflow.

Knows nothing of where rounds come from. Whoever starts again goes on with the runs that are there: each has the name of
ours as a tag.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from fedmq.dashboard.sinks.runner import Report, figures_of, parameters_of
from fedmq.errors import Unreachable, one_line
from fedmq.observe.events import RunFinished
from fedmq.observe.run_state import RoundRecord, RunState
from fedmq.runtime.run_folder import REPORT

RUN_TAG = "fedmq.run"
METRICS_AT_ONCE_MAX = 1000  # as MLflow has it


class Experiment:
    """An experiment on a tracking server, or wherever the URI leads.

    Raises (from all that is done with it):
        Unreachable: the server is not there, or does not do what it is asked.
    """

    def __init__(self, uri: str, name: str) -> None:
        with self.talking():
            self.client = MlflowClient(tracking_uri=uri)
            known = self.client.get_experiment_by_name(name)
            self.id = self.client.create_experiment(name) if known is None else known.experiment_id

    @contextmanager
    def talking(self) -> Iterator[None]:
        """What MLflow raises, in one line."""
        try:
            yield
        except MlflowException as error:
            line = re.sub(r"//[^/@\s]*@", "//", one_line(error))  # an address may hold a password
            raise Unreachable(f"--to: expected an MLflow that takes what comes, got {line:.300}") from error


class TrackedRun:
    """One run of an experiment; see `Sink`."""

    def __init__(self, experiment: Experiment, view: RunState) -> None:
        self._experiment, self._client = experiment, experiment.client
        with experiment.talking():
            found = self._client.search_runs([experiment.id], f"tags.`{RUN_TAG}` = '{view.run}'", max_results=1)
            if found:
                run = found[0]
            else:
                began = int(view.started_at * 1000)
                run = self._client.create_run(experiment.id, began, {RUN_TAG: view.run}, run_name=view.run)
            self._id: str = run.info.run_id
            self.last = int(run.data.metrics.get("round", 0))
            if not found:
                parameters = [Param(key, value) for key, value in parameters_of(view).items()]
                self._client.log_batch(self._id, params=parameters)

    def take(self, rounds: list[RoundRecord]) -> None:
        metrics = []
        for one in rounds:
            at = int((one.closed_at or 0.0) * 1000)
            figures = {**figures_of(one), "round": one.round}
            metrics += [Metric(name, float(value), at, one.round) for name, value in figures.items()]
        with self._experiment.talking():
            for start in range(0, len(metrics), METRICS_AT_ONCE_MAX):
                self._client.log_batch(self._id, metrics=metrics[start : start + METRICS_AT_ONCE_MAX])

    def finish(self, finished: RunFinished, report: Report | None) -> None:
        tags = {"fedmq.solved": str(finished.solved).lower(), "fedmq.rounds": str(finished.rounds)}
        if report is not None and report.get("model_sha256"):
            tags["fedmq.model_sha256"] = str(report["model_sha256"])
        with self._experiment.talking():
            self._client.log_batch(self._id, tags=[RunTag(key, value) for key, value in tags.items()])
            if report is not None:
                self._client.log_dict(self._id, report, REPORT)
            self._client.set_terminated(self._id)

    def close(self) -> None: ...


def experiment(uri: str, name: str) -> Callable[[RunState], TrackedRun]:
    """What opens the sink of a run in the experiment of that name."""
    known = Experiment(uri, name)
    return lambda view: TrackedRun(known, view)
