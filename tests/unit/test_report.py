"""The files of a finished run: their fields, and that they are whole or absent."""

from __future__ import annotations

import csv
import hashlib
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from fedmq import load_model
from fedmq.algorithms.base import Evaluation
from fedmq.cli.main import fedmq
from fedmq.errors import BadConfiguration, StoreError
from fedmq.models.trained_model import TrainedModel
from fedmq.observe import events
from fedmq.runs.records import Close
from fedmq.runs.report import EarlierReport, Report, TrainerReport, make_report, read_report, write_report
from fedmq.runtime.run_folder import HISTORY, MODEL, REPORT, STORE
from fedmq.tasks.task_file import find_task
from fedmq.testing import run_config

XOR = find_task("xor")
CONFIG = run_config("run", XOR, "evolution", seed=7, started=1000.0, parameters={"population": 100})
STANDING = Evaluation(np.linspace(-1.0, 1.0, 22), 0.4, 4, 4, 1.0, -0.1, -0.5, -2.0, 0.3)
BEST = events.Best(value=1.0, coverage=1.0, fitness=-0.1, fitness_mean=-0.5, fitness_worst=-2.0, diversity=0.3)
CLOSES = [
    Close(1, "complete", ("alice", "bob"), 2, 0.5, 1001.0, None, bytes(32)),
    Close(2, "deadline", ("alice",), 1, 3.0, 1005.0, BEST, bytes(32)),
    Close(3, "complete", ("alice", "bob"), 3, 0.25, 1006.0, BEST, bytes(32)),
]


TRAINERS = [
    TrainerReport("bob", 3, 3, 1, 2, 4, silent=True),
    TrainerReport("alice", 1, 0, 0, 0, 0, reason="rows", detail="expected 2 columns"),
]


def report_of(
    closes: list[Close] = CLOSES, evaluation: Evaluation | None = STANDING
) -> tuple[Report, TrainedModel | None]:
    return make_report(
        CONFIG,
        closes,
        evaluation,
        TRAINERS,
        why="rounds" if evaluation is None else "solved",
        failure="",
        rejections={"sha256": 2},
        bytes_up=100,
        bytes_down=200,
        ended=1010.0,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_report(tmp_path, *report_of(), CLOSES)
    return tmp_path


# report.json


def test_report_counts_dropped_rounds() -> None:
    late = [msgspec.structs.replace(close, round=close.round + 100) for close in CLOSES]
    assert report_of(late)[0].rounds == 103


def test_report_has_the_documented_fields(folder: Path) -> None:
    content = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    sha256 = hashlib.sha256((folder / MODEL).read_bytes()).hexdigest()
    assert content == {
        "config": json.loads(msgspec.json.encode(CONFIG)),
        "software": [],
        "solved": True,
        "why": "solved",
        "failure": "",
        "rounds": 3,
        "value": 1.0,
        "value_of": "training",
        "held_out": None,
        "training": None,
        "spread": None,
        "baselines": [],
        "train_s": 3.75,  # rounds of 0.5, 3 and 0.25 s; the time in between, when none was open, is not training
        "wall_s": 10.0,
        "round_s_median": 0.5,
        "trainers": [
            {
                "name": "alice",
                "num_examples": 1,
                "results": 0,
                "late": 0,
                "rejected": 0,
                "resent": 0,
                "silent": False,
                "reason": "rows",
                "detail": "expected 2 columns",
                "held_out": None,
                "differences": [],
                "metrics": {},
            },
            {
                "name": "bob",
                "num_examples": 3,
                "results": 3,
                "late": 1,
                "rejected": 2,
                "resent": 4,
                "silent": True,
                "reason": "",
                "detail": "",
                "held_out": None,
                "differences": [],
                "metrics": {},
            },
        ],
        "rejections": {"sha256": 2},
        "bytes_up": 100,
        "bytes_down": 200,
        "epsilon_spent": None,
        "model": "model.npz",
        "model_sha256": sha256,
    }


def test_report_reads_back_as_written(folder: Path) -> None:
    assert read_report(folder) == report_of()[0]


BEFORE = {
    "run": "old", "task": "xor", "strategy": "evolution", "robust": "clip", "seed": 7, "solved": True, "rounds": 4,
    "metric": "accuracy", "value": 1.0, "train_s": 0.1, "wall_s": 0.5, "round_s_median": 0.02, "rejections": {},
    "trainers": [{"name": "bob", "samples": 2, "results": 4, "late": 0, "rejected": 0, "resent": 0}],
    "bytes_up": 1, "bytes_down": 2, "model": None, "model_sha256": None,
}  # fmt: skip


def test_report_of_the_version_before_is_read_and_listed(tmp_path: Path) -> None:
    folder = tmp_path / "old"
    folder.mkdir()
    (folder / REPORT).write_text(json.dumps(BEFORE), encoding="utf-8")
    with closing(sqlite3.connect(folder / STORE)) as connection:
        connection.executescript("CREATE TABLE run (description BLOB, epoch INTEGER); PRAGMA user_version = 3;")
    report = read_report(folder)
    assert isinstance(report, EarlierReport)
    assert (report.algorithm, report.trainers[0].num_examples) == ("evolution", 2)
    (one,) = json.loads(CliRunner().invoke(fedmq, ["runs", "ls", str(tmp_path), "--json"]).stdout)
    assert [one[name] for name in ("run", "task", "algorithm", "state", "rounds", "value", "seed")] == [
        "old", "xor", "evolution", "solved", 4, 1.0, 7,
    ]  # fmt: skip
    shown = CliRunner().invoke(fedmq, ["runs", "show", str(folder)])
    assert (shown.exit_code, "bob: 2 rows" in shown.stdout) == (0, True)


def test_unfinished_run_has_no_report(tmp_path: Path) -> None:
    assert read_report(tmp_path) is None
    (tmp_path / "file").touch()
    assert read_report(tmp_path / "file") is None


@pytest.mark.parametrize(
    "content", ["", "{}", "[1, 2]", '{"run": 7}', "{"], ids=["empty", "no field", "a list", "a number", "cut"]
)
def test_file_that_is_no_report_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / REPORT).write_text(content, encoding="utf-8")
    with pytest.raises(BadConfiguration, match=r"^[^\n]*report.json: expected the report of a run, got [^\n]*$"):
        read_report(tmp_path)


def test_run_without_scores_has_no_model(tmp_path: Path) -> None:
    report, model = report_of([], None)
    write_report(tmp_path, report, model, [])
    content = json.loads((tmp_path / REPORT).read_text(encoding="utf-8"))
    assert [content[name] for name in ("value", "round_s_median", "model", "model_sha256")] == [None] * 4
    assert (content["rounds"], content["train_s"], content["solved"]) == (0, 0.0, False)
    assert not (tmp_path / MODEL).exists()


# model.npz and history.csv


def test_model_file_holds_the_evaluated_model(folder: Path) -> None:
    model = load_model(folder / MODEL)
    assert model.parameters.tobytes() == STANDING.parameters.tobytes()
    assert (model.task, model.predict([[0.0, 1.0]]).shape) == ("xor", (1,))


def test_history_has_a_line_for_each_round(folder: Path) -> None:
    with (folder / HISTORY).open(newline="", encoding="utf-8") as file:
        heading, *lines = csv.reader(file)
    figures = ["value", "coverage", "fitness", "fitness_mean", "fitness_worst", "diversity"]
    figures += ["value_of", "training", "balanced_accuracy", "auc", "log_loss", "rmse", "r2"]
    rest = ["training", *[""] * 6]
    assert heading == ["round", "why", "results", "members", "round_s", "closed", *figures]
    assert lines == [
        ["1", "complete", "2", "2", "0.5", "1001.0", *[""] * 13],
        ["2", "deadline", "1", "1", "3.0", "1005.0", "1.0", "1.0", "-0.1", "-0.5", "-2.0", "0.3", *rest],
        ["3", "complete", "3", "2", "0.25", "1006.0", "1.0", "1.0", "-0.1", "-0.5", "-2.0", "0.3", *rest],
    ]


# Whole or not at all


def test_only_the_documented_files_are_written(folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == sorted([REPORT, MODEL, HISTORY])


def test_files_appear_whole_and_the_report_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, bytes, list[str]]] = []
    replace = Path.replace

    def spied(self: Path, target: Path) -> Path:
        seen.append((target.name, self.read_bytes(), sorted(path.name for path in tmp_path.iterdir())))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", spied)
    write_report(tmp_path, *report_of(), CLOSES)
    assert [name for name, _, _ in seen] == [MODEL, HISTORY, REPORT]
    assert all(name not in there for name, _, there in seen), "the name is not there before the content is"
    assert all(content == (tmp_path / name).read_bytes() for name, content, _ in seen)


def test_failed_write_leaves_the_old_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / REPORT).read_bytes()

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        StoreError, match=r"^[^\n]*history.csv: cannot be written \(No space left[^\n]* make room[^\n]*$"
    ):
        write_report(folder, *report_of([], None), [])
    assert (folder / REPORT).read_bytes() == before
