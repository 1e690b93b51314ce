"""`fedmq forget`: the model of a run without one trainer is that of a run without it, from the run's store alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from msgspec.structs import replace
from sklearn.datasets import load_digits
from splits import answer, classification, state_after
from table_rows import patients, table_splits, table_task

from fedmq.algorithms.base import Total
from fedmq.algorithms.registry import find_algorithm
from fedmq.cli.main import fedmq
from fedmq.errors import BadConfiguration
from fedmq.models.fourier import Fourier
from fedmq.models.trained_model import load_model
from fedmq.runs.forget_command import model_without
from fedmq.runs.store import Store
from fedmq.runtime.run_folder import STORE
from fedmq.simulation import Federation
from fedmq.tasks.task import Rows, Task


def without_gaps(target: str) -> Task:
    """The task of the columns that have a value in each row."""
    task = table_task(target)
    schema = task.schema
    assert schema is not None
    whole = [column for column in schema.columns if column.name in ("color", "grade")]
    ignored = tuple(column.name for column in schema.columns if column not in whole)
    schema = replace(schema, columns=tuple(whole), ignored=(*schema.ignored, *ignored))
    return replace(task, schema=schema, model=type(task.model)(schema.num_features))


def run_of(folder: Path, task: Task, shards: dict[str, Any], algorithm: str = "ridge", **parameters: Any) -> Federation:
    folder.mkdir()
    strategy = find_algorithm(algorithm, task, parameters)
    federation = Federation(task, strategy, shards, seed=1, store=Store(folder / STORE))
    federation.train()
    federation.store.close()
    return federation


@pytest.mark.parametrize("parameters", [{"penalty": 0.01}, {}], ids=["penalty", "chosen"])
def test_model_equals_that_of_a_run_without_the_trainer(tmp_path: Path, parameters: dict[str, Any]) -> None:
    task, parts = without_gaps("days"), table_splits(patients())["three"]
    shards = dict(zip(("north", "south", "west"), parts, strict=True))
    run_of(tmp_path / "all", task, shards, **parameters)
    del shards["south"]
    expected = run_of(tmp_path / "others", task, shards, **parameters).model
    found = CliRunner().invoke(fedmq, ["forget", str(tmp_path / "all"), "south", "-o", str(tmp_path / "model.npz")])
    assert found.exit_code == 0, found.output
    assert found.stderr == ""
    forgotten = load_model(tmp_path / "model.npz")
    assert expected is not None
    assert forgotten.predict(patients()) == pytest.approx(expected.predict(patients()), rel=1e-9)
    everything = run_of(tmp_path / "again", task, {"all": patients()}, **parameters).model
    assert everything is not None
    assert forgotten.predict(patients()) != pytest.approx(everything.predict(patients()), rel=1e-6)


def test_gaps_that_are_filled_by_all_rows_are_said(tmp_path: Path) -> None:
    shards = dict(zip(("north", "south", "west"), table_splits(patients())["three"], strict=True))
    run_of(tmp_path / "run", table_task("days"), shards)
    assert "gaps are still filled in" in " ".join(model_without(tmp_path / "run", "north")[1])


@pytest.mark.parametrize(
    ("algorithm", "trainer", "words"),
    [
        ("newton", "north", "train again without north"),
        ("ridge", "nroth", r"expected a trainer of this run \(north\), got nroth"),
    ],
)
def test_what_cannot_be_forgotten_is_refused(tmp_path: Path, algorithm: str, trainer: str, words: str) -> None:
    run_of(tmp_path / "run", table_task("days"), {"north": patients()}, algorithm)
    with pytest.raises(BadConfiguration, match=words):
        model_without(tmp_path / "run", trainer)


def digits(seed: int = 14) -> tuple[Task, list[Rows], Rows]:
    """A task with random features, four trainers with two or three digits each, and a quarter that is held out."""
    inputs, targets = load_digits(return_X_y=True)
    held_out, used = np.split(np.random.default_rng(seed).permutation(len(targets)), [len(targets) // 4])
    used = used[np.argsort(targets[used], kind="stable")]
    parts = [Rows(inputs[one], targets[one].astype(np.int64)) for one in (held_out, *np.array_split(used, 4))]
    return classification(64, 10, Fourier(64, 10, 512, "softmax", seed=seed)), parts[1:], parts[0]


def test_digits_are_learned_in_one_round_of_products() -> None:
    task, parts, held_out = digits()
    strategy: Any = find_algorithm("ridge", task)
    state = state_after(strategy, task, parts, 3)  # two about the columns, one of products
    model = task.trained(strategy.result(state).parameters)
    assert np.mean(model.predict(held_out.inputs) == held_out.targets) >= 0.97


def test_features_without_a_site_are_those_of_the_other_sites() -> None:
    task, parts, _ = digits()
    staged: Any = find_algorithm("ridge", task, {"penalty": 0.1})
    state = state_after(staged, task, parts, 2)
    products = [answer(task, staged.ask(state), one, str(place), 3) for place, one in enumerate(parts)]
    for one in products:
        state = staged.tell(state, one)
    state = staged.close(state, [one.trainer for one in products])
    ridge, survey = staged.strategy.algorithm, staged.survey(state)
    others = {name: sum(one.arrays[name] for one in products[:3]) for name in products[0].arrays}
    rows = sum(one.num_examples for one in products[:3])
    without = ridge.close(ridge.init(task, 1, survey), Total(others, rows, 3, 1.0, 40), {}).fit.parameters
    found, everything = staged.forget(state, products[3].arrays).parameters, staged.result(state).parameters
    assert np.abs(found - without).max() <= 1e-9 * np.abs(without).max()
    assert np.abs(found - everything).max() > 1e-3 * np.abs(without).max()
