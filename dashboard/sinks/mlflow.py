"""The sink for MLflow: one MLflow run for each run. The only module that imports mlflow.

A tag of the MLflow run holds the name of ours, so that a restarted sink continues it.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
from mlflow.entities import Metric, Param, RunTag
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from fedmq.dashboard.sinks.runner import AnyReport, figures_of, settings_of
from fedmq.errors import Unreachable, one_line
from fedmq.observe.events import RunFinished
from fedmq.observe.run_state import RoundRecord, RunState
from fedmq.runtime.run_folder import REPORT

RUN_TAG = "fedmq.run"
BATCH_METRICS_MAX = 1000  # the limit of MLflow


class Experiment:
    """An experiment of a tracking server, by URI.

    Raises:
        Unreachable: the server does not answer, or rejects a request; also from `TrackedRun`.
    """

    def __init__(self, uri: str, name: str) -> None:
        with self.talking():
            self.client = MlflowClient(tracking_uri=uri)
            known = self.client.get_experiment_by_name(name)
            self.id = self.client.create_experiment(name) if known is None else known.experiment_id

    @contextmanager
    def talking(self) -> Iterator[None]:
        """Translate MLflow's exceptions into one line."""
        try:
            yield
        except MlflowException as error:
            line = re.sub(r"//[^/@\s]*@", "//", one_line(error))  # an address may hold a password
            raise Unreachable(f"--to: expected an MLflow server that accepts requests, got {line:.300}") from error


class TrackedRun:
    """One MLflow run; see `Sink`."""

    def __init__(self, experiment: Experiment, run_state: RunState) -> None:
        self._experiment, self._client = experiment, experiment.client
        with experiment.talking():
            found = self._client.search_runs([experiment.id], f"tags.`{RUN_TAG}` = '{run_state.run}'", max_results=1)
            if found:
                run = found[0]
            else:
                started, name = int(run_state.started_at * 1000), run_state.run
                run = self._client.create_run(experiment.id, started, {RUN_TAG: name}, run_name=name)
            self._id: str = run.info.run_id
            self.last = int(run.data.metrics.get("round", 0))
            if not found:
                settings = [Param(key, value) for key, value in settings_of(run_state).items()]
                self._client.log_batch(self._id, params=settings)

    def write(self, rounds: list[RoundRecord]) -> None:
        metrics = []
        for one in rounds:
            at = int((one.closed_at or 0.0) * 1000)
            figures = {**figures_of(one), "round": one.round}
            metrics += [Metric(name, float(value), at, one.round) for name, value in figures.items()]
        with self._experiment.talking():
            for start in range(0, len(metrics), BATCH_METRICS_MAX):
                self._client.log_batch(self._id, metrics=metrics[start : start + BATCH_METRICS_MAX])

    def finish(self, finished: RunFinished, report: AnyReport | None) -> None:
        tags = {"fedmq.solved": str(finished.solved).lower(), "fedmq.rounds": str(finished.rounds)}
        if report is not None and report.model_sha256:
            tags["fedmq.model_sha256"] = report.model_sha256
        with self._experiment.talking():
            self._client.log_batch(self._id, tags=[RunTag(key, value) for key, value in tags.items()])
            if report is not None:
                self._client.log_dict(self._id, msgspec.to_builtins(report), REPORT)
            self._client.set_terminated(self._id)

    def close(self) -> None: ...


def experiment(uri: str, name: str) -> Callable[[RunState], TrackedRun]:
    """Return the function that opens the sink of a run in the experiment of that name."""
    found = Experiment(uri, name)
    return lambda run_state: TrackedRun(found, run_state)
