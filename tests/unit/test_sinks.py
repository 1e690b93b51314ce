"""Sinks: rounds and end of a fake run, in memory, in event files of TensorBoard and in a store of MLflow."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from publisher_scene import Publisher
from tensorboardX.proto.event_pb2 import Event

from fedmq.dashboard.live_runs import LiveRuns
from fedmq.dashboard.sinks.runner import BATCH_MAX, REPORT_S, Sink, SinkRunner
from fedmq.dashboard.sinks.tensorboard import event_files
from fedmq.deploy.processes import free_port
from fedmq.errors import Unreachable
from fedmq.observe import events
from fedmq.observe.run_state import RoundRecord, RunState
from fedmq.protocol.codec import Frames
from fedmq.runs.report import Report
from fedmq.simulation.clock import VirtualClock
from fedmq.testing import run_config, run_started
from fedmq.transport.link import Delivered, LinkEvent

REPORT = Report(
    config=run_config("r", seed=7),
    solved=True,
    rounds=1,
    value=1.0,
    train_s=0.5,
    wall_s=1.0,
    round_s_median=0.5,
    trainers=[],
    rejections={},
    bytes_up=1,
    bytes_down=1,
    model="model.npz",
    model_sha256="ab" * 32,
)


class Run:
    """A run that publishes events, and the link of its observer."""

    def __init__(self, folder: Path, name: str = "r") -> None:
        self.clock, self.folder, self.name = VirtualClock(), folder, name
        self._publisher, self._sent, self._round = Publisher(), deque[LinkEvent](), 0
        self._publish(
            run_started(
                run=name, term=1, round=1, task="xor", algorithm="evolution", seed=7, metric="accuracy", target=1.0
            )
        )

    def rounds(self, count: int) -> None:
        for _ in range(count):
            self._round += 1
            figures = {"coverage": 1.0, "fitness_mean": -2.0, "fitness_worst": -3.0, "diversity": 0.1}
            best = events.Best(value=0.75, fitness=-1.0 / self._round, **figures)
            self._publish(events.RoundPublished(round=self._round, invited=2))
            self._publish(
                events.RoundClosed(
                    round=self._round, why="complete", results=2, round_s=0.5, present=2, best=best, late=1, rejected=3
                )
            )

    def finish(self, *, report: bool = True) -> None:
        self._publish(events.RunFinished(solved=True, rounds=self._round, value=1.0))
        if report:
            path = self.folder / "runs" / self.name / "report.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(msgspec.json.encode(REPORT))

    def _publish(self, event: events.AnyEvent) -> None:
        self._publisher.report(self.clock.wall() + self._round, event)

    def receive(self) -> Iterator[LinkEvent]:
        """Return pending events, with a snapshot after a reconnect."""
        self._sent += map(Delivered, self._publisher.due(self.clock.now(), last=True))
        while self._sent:
            yield self._sent.popleft()

    def send(self, frames: Frames) -> bool:
        raise AssertionError("an observer says nothing")

    def runner(self, open_sink: Any, only: str | None = None) -> SinkRunner:
        self._publisher.on_broker()
        return SinkRunner(LiveRuns(self, clock=self.clock), open_sink, self.clock, self.folder / "runs", only)


class MemorySink:
    """A sink in memory."""

    def __init__(self, _view: RunState, last: int = 0) -> None:
        self.last, self.written, self.calls, self.closed = last, list[int](), 0, False
        self.ended: tuple[events.RunFinished, Any] | None = None

    def write(self, rounds: list[RoundRecord]) -> None:
        self.written += [one.round for one in rounds]
        self.calls += 1

    def finish(self, finished: events.RunFinished, report: Any) -> None:
        self.ended = finished, report

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def watched(run: Run, sink: Sink, only: str | None = None) -> SinkRunner:
    runner = run.runner(lambda _: sink, only)
    runner.step()
    return runner


# --- the runner ---------------------------------------------------------------------------------------------------


def test_sink_receives_earlier_rounds_and_each_later_round_once(run: Run) -> None:
    run.rounds(3)
    sink = MemorySink(RunState())
    runner = watched(run, sink)
    assert sink.written == [1, 2, 3]
    run.rounds(2)
    runner.step()
    runner.step()
    assert sink.written == [1, 2, 3, 4, 5]


def test_sink_receives_only_rounds_it_does_not_have(run: Run) -> None:
    run.rounds(5)
    sink = MemorySink(RunState(), last=3)
    watched(run, sink)
    assert sink.written == [4, 5]


def test_long_history_is_written_in_batches_before_the_end(run: Run) -> None:
    run.rounds(2 * BATCH_MAX + 1)
    run.finish()
    sink = MemorySink(RunState())
    runner = watched(run, sink)
    assert (len(sink.written), sink.ended) == (BATCH_MAX, None)
    assert runner.wake_at == run.clock.now(), "more rounds are pending"
    runner.step()
    runner.step()
    assert sink.written == list(range(1, 2 * BATCH_MAX + 2))
    assert sink.ended is not None


def test_sink_of_one_run_ends_with_it(run: Run, tmp_path: Path) -> None:
    run.rounds(1)
    sink, other = MemorySink(RunState()), MemorySink(RunState())
    runner, elsewhere = watched(run, sink, "r"), watched(run, other, "another")
    run.finish()
    for one in (runner, elsewhere):
        run._publisher.on_broker()
        one.step()
    assert runner.done
    assert sink.ended is not None
    assert (sink.ended[1], sink.closed) == (REPORT, True)
    assert not elsewhere.done
    assert (other.written, other.ended) == ([], None)


def test_sink_of_all_runs_continues_and_finishes_each_run_once(run: Run) -> None:
    run.rounds(1)
    run.finish()
    opened = list[MemorySink]()

    def open_sink(run_state: RunState) -> MemorySink:
        opened.append(MemorySink(run_state))
        return opened[-1]

    runner = run.runner(open_sink)
    runner.step()
    run._publisher.on_broker()  # sends the snapshot again
    runner.step()
    assert not runner.done
    assert len(opened) == 1


def test_missing_report_is_awaited_for_a_bounded_time(run: Run) -> None:
    run.rounds(1)
    run.finish(report=False)
    sink = MemorySink(RunState())
    runner = watched(run, sink, "r")
    assert sink.ended is None
    assert runner.wake_at is not None
    run.clock.move_to(run.clock.now() + REPORT_S)
    runner.step()
    assert sink.ended is not None
    assert sink.ended[1] is None
    assert runner.done


# --- TensorBoard ---------------------------------------------------------------------------------------------------


def events_in(folder: Path) -> list[Event]:
    """Read event files (TFRecord: length, its checksum, event, its checksum)."""
    found = []
    for path in folder.glob("events.out.tfevents.*"):
        content = path.read_bytes()
        while content:
            (length,) = struct.unpack_from("<Q", content)
            found.append(Event.FromString(content[12 : 12 + length]))
            content = content[12 + length + 4 :]
    return found


def test_tensorboard_has_each_round_at_its_step_and_time(run: Run, tmp_path: Path) -> None:
    run.rounds(3)
    run.finish()
    runner = run.runner(event_files(tmp_path / "tb"), "r")
    runner.step()
    runner.close()
    found = events_in(tmp_path / "tb" / "r")
    points = {
        (one.summary.value[0].tag, one.step): (one.summary.value[0].simple_value, one.wall_time)
        for one in found
        if one.summary.value and one.summary.value[0].HasField("simple_value")
    }
    assert [points["fitness/best", step] for step in (1, 2, 3)] == [
        (pytest.approx(-1.0 / step), 1e9 + step) for step in (1, 2, 3)
    ]
    expected = {"value": 0.75, "round_s": 0.5, "results": 2, "late": 1, "rejected": 3}
    assert {name: points[f"rounds/{name}", 2][0] for name in expected} == expected
    texts_found = [value for one in found for value in one.summary.value if value.tensor.string_val]
    texts = {value.tag: value.tensor.string_val[0].decode() for value in texts_found}
    assert "| seed | 7 |" in next(text for tag, text in texts.items() if tag.startswith("parameters"))
    assert REPORT.model_sha256 in next(text for tag, text in texts.items() if tag.startswith("report"))


# --- MLflow --------------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URI of a file store, which needs neither a server nor a database."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return f"file:{tmp_path}/mlruns"


@pytest.mark.filterwarnings("default")  # MLflow raises warnings of its own
def test_restarted_mlflow_sink_continues_its_run(run: Run, store: str) -> None:
    from mlflow.tracking import MlflowClient

    from fedmq.dashboard.sinks.mlflow import experiment

    run.rounds(2)
    run.runner(experiment(store, "clinics")).step()
    run.rounds(1)
    run.finish()
    runner = run.runner(experiment(store, "clinics"), "r")  # a restart
    runner.step()
    assert runner.done

    client = MlflowClient(tracking_uri=store)
    known = client.get_experiment_by_name("clinics")
    assert known is not None
    (one,) = client.search_runs([known.experiment_id])
    assert (one.info.run_name, one.info.status) == ("r", "FINISHED")
    assert one.data.params == {
        "task": "xor", "algorithm": "evolution", "seed": "7", "metric": "accuracy", "target": "1.0",
        "rounds_max": "200", "min_trainers": "2",
    }  # fmt: skip
    history = client.get_metric_history(one.info.run_id, "fitness_best")
    assert [(point.step, point.value) for point in history] == [(1, -1.0), (2, -0.5), (3, -1.0 / 3)]
    assert one.data.metrics["late"] == 1
    assert (one.data.tags["fedmq.solved"], one.data.tags["fedmq.model_sha256"]) == ("true", REPORT.model_sha256)


@pytest.mark.filterwarnings("default")
def test_mlflow_error_is_one_line_without_the_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from fedmq.dashboard.sinks.mlflow import experiment

    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(Unreachable, match="--to: expected an MLflow server") as error:
        experiment(f"http://me:geheim@127.0.0.1:{free_port()}", "clinics")
    assert "\n" not in str(error.value)
    assert "geheim" not in str(error.value)
