"""Training and scoring by code of the site's own."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration, LearnerFailed
from fedmq.models.networks import Linear
from fedmq.observe import events
from fedmq.protocol.run_config import Limits
from fedmq.simulation.federation import Federation
from fedmq.tasks.builtin import BUILTINS
from fedmq.tasks.shipping import ship
from fedmq.tasks.task import Rows, Task
from fedmq.trainer.decline import decline_of
from fedmq.trainer.own_learner import OwnLearner
from fedmq.trainer.round_handler import on_rows

ROWS = Rows(np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0]))
TASK = Task(name="line", model=Linear(1), loss="squared-error", metric="loss", rounds=3)
GOOD = """
import numpy as np

def fit(parameters, data, config, rng):
    x = np.column_stack([data.inputs, np.ones(len(data.inputs))])
    trained = np.linalg.lstsq(x, data.targets, rcond=None)[0]
    return trained, len(data.targets), {"shift": abs(trained - parameters).max(), "rate": config.get("rate", 0)}
"""
EVALUATE = """
def evaluate(parameters, data, config):
    return abs(data.targets - data.inputs[:, 0] * parameters[0] - parameters[1]).mean(), 3, {"round": config["round"]}
"""
HEAD = "def fit(parameters, data, config, rng):\n    "
FAULTS = {
    "raise ValueError(data.targets[0])": "site.py:2: fit raised ValueError",
    "return parameters * float('nan'), 3, {}": "site.py:1: expected parameters from fit that is finite, got NaN or inf",
    "return parameters[:1], 3, {}": "site.py:1: expected parameters of shape (2,) from fit, got (1,)",
    "return 'many', 3, {}": "site.py:1: expected parameters from fit, got str",
    "return parameters, 3": "site.py:1: expected (parameters, num_examples, metrics), got 2 values",
    "return parameters, 4, {}": "site.py:1: expected num_examples from 1 to the rows of data, got another value",
    "return parameters, 3, {'x': float('inf')}": "site.py:1: expected a number for the metric x that is finite, got",
    "return parameters, 3, {'x' * 40: 1}": "site.py:1: expected names of metrics of 1 to 32 characters",
    "return parameters, 3, dict(zip('abcdefghijklmnopq', range(17)))": "site.py:1: expected at most 16 metrics by name",
    "raise SystemExit": "site.py:2: fit raised SystemExit",
}


def learner(folder: Path, text: str, seconds: float = 60.0) -> OwnLearner:
    (folder / "site.py").write_text(text)
    return OwnLearner(f"{folder}/site.py:fit", seconds)


def fit(own: OwnLearner, settings: Mapping[str, Any] | None = None) -> Any:
    round_ = own.on_round(TASK, ROWS, settings or {}, 1, lambda: False)
    return round_.fit(np.zeros(2), np.random.default_rng(0)), round_.outcome


def test_own_fit_trains_and_reports_its_metrics(tmp_path: Path) -> None:
    trained, (rows, metrics) = fit(learner(tmp_path, GOOD), {"rate": 0.5})
    assert trained == pytest.approx([2.0, 1.0])
    assert rows == 3
    assert metrics == pytest.approx({"shift": 2.0, "rate": 0.5})


@pytest.mark.parametrize("body", FAULTS)
def test_own_fit_that_fails_is_one_line_with_file_and_line(tmp_path: Path, body: str) -> None:
    with pytest.raises(LearnerFailed) as caught:
        fit(learner(tmp_path, HEAD + body))
    decline = decline_of(caught.value)
    assert decline.reason == "code"
    assert decline.detail.startswith(FAULTS[body])
    assert "\n" not in str(caught.value)


def test_message_of_an_exception_stays_at_the_site(tmp_path: Path) -> None:
    with pytest.raises(LearnerFailed, match=r"ValueError: 1\.0") as caught:
        fit(learner(tmp_path, HEAD + "raise ValueError(data.targets[0])"))
    assert "1.0" not in caught.value.public


def test_own_fit_that_hangs_is_reported_with_its_line(tmp_path: Path) -> None:
    own = learner(tmp_path, HEAD + "n = 0\n    while True:\n        n += 1", 0.1)
    with pytest.raises(LearnerFailed, match=r"site.py:[34]: expected fit to end within 0.095 s, it still runs"):
        fit(own)


@pytest.mark.parametrize("spec", ["site.py", "other:fit", "missing.py:fit", "site.py:other"])
def test_learner_that_is_not_there_is_refused(tmp_path: Path, spec: str) -> None:
    (tmp_path / "site.py").write_text(GOOD)
    with pytest.raises(BadConfiguration, match=r"expected (FILE.py:NAME|a Python file|a function other)"):
        OwnLearner(str(tmp_path / spec), 1.0)


def test_trainers_with_own_code_train_while_those_that_fail_decline(tmp_path: Path) -> None:
    texts = {
        "good": GOOD,
        "nan": HEAD + "return parameters * float('nan'), 3, {}",
        "raises": HEAD + "return 1 / 0",
        "hangs": HEAD + "while True:\n        pass",
    }
    owns = {}
    for name, text in texts.items():
        (tmp_path / name).mkdir()
        owns[name] = learner(tmp_path / name, text, 0.1 if name == "hangs" else 60.0)
    strategy = find_algorithm("averaging", TASK, {"learner": "own", "config": {"rate": 0.25}})
    federation = Federation(
        TASK,
        strategy,
        dict.fromkeys(owns, ROWS),
        limits=Limits(rounds_max=3, min_trainers=1),
        learn=lambda rows, name: on_rows(rows, name, own=owns[name]),
    )
    model = federation.train()
    assert model.parameters == pytest.approx([2.0, 1.0])
    left = {one.trainer: one.detail for one in federation.events if isinstance(one, events.TrainerLeft) and one.goodbye}
    assert left["raises"] == "site.py:2: fit raised ZeroDivisionError"
    assert left["nan"].startswith("site.py:1: expected parameters from fit that is finite")
    assert re.fullmatch(r"site.py:[23]: expected fit to end within 0.095 s, it still runs", left["hangs"])
    assert "good" not in left
    closed = [one for one in federation.events if isinstance(one, events.RoundClosed)]
    assert (closed[-1].metrics or {})["rate"] == 0.25


def test_own_fit_may_answer_with_sums_and_a_part_of_its_rows(tmp_path: Path) -> None:
    strategy = find_algorithm("averaging", TASK, {"standardize": False})
    part = GOOD.replace("return trained, len(data.targets)", "return trained, 2")
    owns = {}
    for name, text in {"all": GOOD, "part": part}.items():
        (tmp_path / name).mkdir()
        owns[name] = learner(tmp_path / name, text)
    federation = Federation(
        TASK, strategy, dict.fromkeys(owns, ROWS), learn=lambda rows, name: on_rows(rows, name, own=owns[name])
    )
    model = federation.train()
    assert strategy.additive
    assert model.parameters == pytest.approx([2.0, 1.0], abs=2.0**-24)
    closed = [one for one in federation.events if isinstance(one, events.RoundClosed)]
    assert closed[-1].metrics is not None


def test_own_evaluate_scores_a_model_that_only_it_knows(tmp_path: Path) -> None:
    (tmp_path / "site.py").write_text(
        "from fedmq import Code, Task\n"
        "task = Task(name='own', model=Code(2, inputs=1), loss='own', metric='loss', rounds=2)\n" + GOOD + EVALUATE
    )
    shipped = ship(str(tmp_path / "site.py"))
    assert shipped.code is None
    own = OwnLearner(f"{tmp_path}/site.py:fit", 60.0)
    strategy = find_algorithm("averaging", shipped.task, {"learner": "own"})
    federation = Federation(shipped.task, strategy, {"a": ROWS}, learn=lambda rows, name: on_rows(rows, name, own=own))
    federation.train()
    closed = [one for one in federation.events if isinstance(one, events.RoundClosed)]
    assert closed[-1].best is not None
    assert closed[-1].best.value == pytest.approx(0.0, abs=1e-4)
    assert (closed[-1].metrics or {})["round"] == 2.0


def test_trainer_without_own_code_declines_a_run_that_needs_it() -> None:
    task = BUILTINS["linear"].task
    federation = Federation(task, find_algorithm("averaging", task, {"learner": "own"}), {"a": BUILTINS["linear"].rows})
    federation.train()
    left = [one for one in federation.events if isinstance(one, events.TrainerLeft)]
    assert "--learner FILE.py:fit" in left[0].detail
