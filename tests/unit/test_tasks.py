"""Tasks: built-in tasks, fitting, scores, targets, and tasks of a FILE.py."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import fedmq.tasks.task
from fedmq.errors import BadConfiguration, BadData
from fedmq.models.networks import MLP, Linear
from fedmq.tasks.builtin import TASK_NAMES
from fedmq.tasks.task import Rows, Task, as_rows
from fedmq.tasks.task_file import find_task, task_rows

XOR, LINEAR = find_task("xor"), find_task("linear")
FILE = """
from fedmq.models.networks import MLP
from fedmq.tasks.task import Task

task = Task(name="sign", model=MLP([1, 2]), loss="cross-entropy", metric="accuracy", target=0.9)


def rows(part, parts):
    return [[float(part)], [-float(parts)]], [1, 0]
"""


def task_file(tmp_path: Path, text: str) -> str:
    path = tmp_path / "sign.py"
    path.write_text(text)
    return str(path)


def pairs(rows: Rows) -> list[tuple[list[float], float]]:
    return [(inputs.tolist(), float(target)) for inputs, target in zip(rows.inputs, rows.targets, strict=True)]


def changed(task: Task, **settings: Any) -> Task:
    return msgspec.structs.replace(task, **settings)


def test_xor_halves_equal_the_tutorial() -> None:
    assert pairs(task_rows("xor", 1, 2)) == [([0, 1], 1), ([0, 0], 0)]
    assert pairs(task_rows("xor", 2, 2)) == [([1, 0], 1), ([1, 1], 0)]


def test_parity_target_is_one_for_odd_sums() -> None:
    rows = task_rows("parity4", 1, 1)
    assert len(rows.inputs) == 16
    assert pairs(rows)[:4] == [([0, 0, 0, 0], 0), ([0, 0, 0, 1], 1), ([0, 0, 1, 0], 1), ([0, 0, 1, 1], 0)]
    assert len(task_rows("parity4", 3, 4).inputs) == 4


def test_linear_parts_belong_to_bob_and_alice() -> None:
    assert pairs(task_rows("linear", 1, 2)) == [([1, 1], 2), ([0, 1], 0)]
    assert pairs(task_rows("linear", 2, 2)) == [([1, 0], 1), ([0, 0], 0)]


@pytest.mark.parametrize("name", TASK_NAMES)
@pytest.mark.parametrize("parts", [1, 2, 3, 4])
def test_parts_joined_equal_the_whole(name: str, parts: int) -> None:
    pieces = [pairs(task_rows(name, part, parts)) for part in range(1, parts + 1)]
    assert list(chain.from_iterable(pieces)) == pairs(task_rows(name, 1, 1))


def test_more_parts_than_rows_repeat_rows() -> None:
    whole = pairs(task_rows("xor", 1, 1))
    assert [pairs(task_rows("xor", part, 10)) for part in range(1, 11)] == [[whole[part % 4]] for part in range(10)]


@pytest.mark.parametrize("name", TASK_NAMES)
def test_built_in_task_survives_encoding_and_fits_its_rows(name: str) -> None:
    task, rows = find_task(name), task_rows(name, 1, 2)
    assert task.name == name
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(task), type=Task) == task
    task.fit(rows)
    assert rows.targets.dtype == (np.int64 if task.loss == "cross-entropy" else np.float64)


def test_linear_target_bounds_each_weight_error() -> None:
    rows, optimum = task_rows("linear", 1, 1), np.array([1.5, 0.5, -0.25])
    design = np.column_stack([rows.inputs, np.ones(4)])
    np.testing.assert_allclose(np.linalg.lstsq(design, rows.targets, rcond=None)[0], optimum)
    np.testing.assert_allclose(LINEAR.score(optimum[None], rows).losses, 0.25)

    # The extreme points of the ellipsoid loss = target along each coefficient, by its normal matrix.
    inverse = np.linalg.inv(design.T @ design)
    excess = LINEAR.target - 0.25
    distances = np.sqrt(excess * np.diag(inverse))
    assert (distances <= 0.01 + 1e-12).all()
    extremes = optimum + inverse * np.sqrt(excess / np.diag(inverse))[:, None]
    np.testing.assert_allclose(np.diag(extremes) - optimum, distances)
    np.testing.assert_allclose(LINEAR.score(extremes, rows).losses, LINEAR.target)


def test_scores_are_summed_losses_and_counts_of_correct_rows() -> None:
    rows = task_rows("xor", 1, 1)
    always_one = np.zeros(22)
    always_one[-2:] = -50.0, 50.0
    losses, correct = XOR.score(np.array([np.zeros(22), always_one]), rows)
    np.testing.assert_allclose(losses, [4 * np.log(2), 40.0])
    assert correct.tolist() == [2, 2]
    assert losses.dtype == np.float64
    assert correct.dtype == np.int64


def test_value_is_correct_within_a_twentieth() -> None:
    rows = LINEAR.fit(Rows(np.zeros((3, 2)), np.array([0.0, 0.049, -0.051])))
    assert LINEAR.score(np.zeros((1, 3)), rows).correct.tolist() == [2]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scores_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch, dtype: Any) -> None:
    generator = np.random.default_rng(1)
    population, rows = (
        generator.normal(size=(6, 22)).astype(dtype),
        Rows(generator.normal(size=(50, 2)), np.arange(50) % 2),
    )
    whole = XOR.score(population, rows)
    monkeypatch.setattr(fedmq.tasks.task, "BLOCK_VALUES", 6 * 4 * 7)
    blocks = XOR.score(population, rows)
    np.testing.assert_allclose(blocks.losses, whole.losses, rtol=1e-6)
    assert (blocks.correct == whole.correct).all()


def test_summed_scores_of_the_parts_are_the_scores_of_the_whole() -> None:
    population = np.random.default_rng(2).uniform(-2, 2, (50, 22))
    halves = [XOR.score(population, task_rows("xor", part, 2)) for part in (1, 2)]
    whole = XOR.score(population, task_rows("xor", 1, 1))
    np.testing.assert_allclose(halves[0].losses + halves[1].losses, whole.losses)
    assert (halves[0].correct + halves[1].correct == whole.correct).all()


def test_overflowing_candidate_has_a_finite_loss() -> None:
    for task in (XOR, LINEAR, find_task("parity4")):
        population = np.full((2, task.model.num_parameters), 1e300)
        population[1] *= -1
        rows = task_rows(task.name, 1, 1)
        scores = task.score(population, Rows(rows.inputs * 1e300, rows.targets))
        assert np.isfinite(scores.losses).all()
        assert (scores.correct <= len(rows.inputs)).all()


def test_fit_converts_classes_and_is_idempotent() -> None:
    fitted = XOR.fit(Rows(np.zeros((2, 2)), np.array([0.0, 1.0])))
    assert fitted.targets.dtype == np.int64
    again = XOR.fit(fitted)
    assert again.targets.dtype == np.int64
    assert pairs(again) == pairs(fitted)


@pytest.mark.parametrize(
    ("inputs", "targets", "words"),
    [
        ([[1, 2, 3]], [0], "2 input columns for task xor, got 3"),
        ([[1, 2]], [2], "class from 0 to 1 .* got 2 in row 1"),
        ([[1, 2], [3, 4]], [0, -1], "got -1 in row 2"),
        ([[1, 2]], [0.5], "got 0.5 in row 1"),
        ([[1, np.nan]], [0], "task xor: .* row 1, column 2"),
        ([[1, 2]], [np.inf], "row 1, the target"),
        (np.zeros((0, 2)), [], "one row"),
        ([[1, 2]], [0, 1], r"got \(1, 2\) and \(2,\)"),
        ([1, 2], [0, 1], r"got \(2,\) and \(2,\)"),
        ([[1, 2]], [[0]], r"got \(1, 2\) and \(1, 1\)"),
        ([["a", "b"]], [0], "inputs: "),
        ([[1, 2], [3]], [0, 1], "inputs: "),
    ],
)
def test_unfit_rows_are_rejected_in_one_line(inputs: Any, targets: Any, words: str) -> None:
    with pytest.raises(BadData, match=words) as rejection:
        XOR.fit(Rows(inputs, targets))
    assert "\n" not in str(rejection.value)


def test_accuracy_meets_its_target_only_with_rows() -> None:
    task = changed(XOR, target=0.75)
    assert task.reached(loss=9.0, correct=3, rows=4)
    assert not task.reached(loss=0.0, correct=2, rows=4)
    assert not changed(XOR, target=0.0).reached(loss=0.0, correct=0, rows=0)
    assert task.value(loss=9.0, correct=3, rows=4) == 0.75
    assert task.value(loss=0.0, correct=0, rows=0) == 0.0


def test_loss_meets_its_target_from_above() -> None:
    assert LINEAR.reached(loss=0.2501, correct=0, rows=4)
    assert not LINEAR.reached(loss=0.2502, correct=4, rows=4)
    assert not LINEAR.reached(loss=float("nan"), correct=4, rows=4)
    assert not LINEAR.reached(loss=0.0, correct=0, rows=0)
    assert LINEAR.value(loss=0.3, correct=4, rows=4) == 0.3


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"loss": "squared-error"}, "squared-error"),
        ({"model": Linear(2)}, "cross-entropy"),
        ({"model": MLP((2, 1))}, "cross-entropy"),
        ({"loss": "hinge"}, "loss: .*'hinge'"),
        ({"metric": "f1"}, "metric: .*'f1'"),
        ({"target": 1.5}, "target: .* 0 to 1, got 1.5"),
        ({"target": float("nan")}, "target: "),
        ({"metric": "loss", "target": float("inf")}, "target: "),
        ({"trainers": 0}, "trainers: .* from 1"),
        ({"rounds": 0}, "rounds: .* from 1"),
        ({"name": ""}, "name: "),
        ({"name": "a b"}, "name: "),
        ({"name": "x" * 65}, "name: "),
        ({"name": 3}, "name: .*got 3"),
        ({"holdout": "x"}, "holdout: .*'x'"),
        ({"holdout": True}, "holdout: .*True"),
        ({"trainers": 2.5}, "trainers: .*whole.*2.5"),
        ({"rounds": None}, "rounds: .*None"),
        ({"model": 3}, "model: .*got 3"),
        ({"parameters": {"es": 3}}, "parameters of es: .*dict"),
        ({"schema": 3}, "schema: .*got 3"),
    ],
)
def test_conflicting_settings_are_rejected(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadConfiguration, match=words):
        changed(XOR, **settings)


def test_absurd_task_is_rejected_while_decoding() -> None:
    plain = msgspec.to_builtins(XOR)
    plain["model"]["sizes"] = [65_536, 65_536, 2]
    with pytest.raises(BadConfiguration, match="at most 10000000 parameters"):
        msgspec.msgpack.decode(msgspec.msgpack.encode(plain), type=Task)


def test_python_file_defines_a_task_and_its_rows(tmp_path: Path) -> None:
    path = task_file(tmp_path, FILE)
    assert find_task(path).name == "sign"
    assert pairs(task_rows(path, 2, 3)) == [([2], 1), ([-3], 0)]
    assert task_rows(path, 1, 1).targets.dtype == np.int64


def test_python_file_imports_modules_next_to_it(tmp_path: Path) -> None:
    (tmp_path / "sign_sizes.py").write_text("SIZES = [3, 2]\n")
    path = task_file(tmp_path, FILE.replace("[1, 2]", "__import__('sign_sizes').SIZES"))
    assert find_task(path).model == MLP((3, 2))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "got NoneType"),
        ("task = 1", "got int"),
        ("1 / 0", "got ZeroDivisionError"),
        ("raise ValueError('two\\n  lines')", "got ValueError: two lines$"),
        ("raise SystemExit(3)", "got SystemExit: 3"),
        ("task = (", "got SyntaxError"),
        ("from fedmq.models.networks import MLP\nMLP([2])", "sign.py: .*2 to 16"),
    ],
)
def test_python_file_without_a_task_is_rejected_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadConfiguration, match=words) as rejection:
        find_task(task_file(tmp_path, text))
    assert "\n" not in str(rejection.value)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return 1", "got int"),
        ("raise KeyError('x')", "got KeyError: 'x'"),
        ("raise ValueError('two\\n  lines')", r"got ValueError: two lines$"),
        ("raise SystemExit(3)", "got SystemExit: 3"),
        ("return [[1.0]], [7]", "class from 0 to 1 .*task sign, got 7"),
        ("return [[1.0, 2.0]], [1]", "1 input columns for task sign, got 2"),
    ],
)
def test_rows_of_a_python_file_are_checked(tmp_path: Path, body: str, words: str) -> None:
    path = task_file(tmp_path, FILE[: FILE.index("    return")] + f"    {body}\n")
    with pytest.raises(BadData, match=words):
        task_rows(path, 1, 2)


def test_python_file_without_rows_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"rows\(part, parts\)"):
        task_rows(task_file(tmp_path, FILE[: FILE.index("def")]), 1, 2)


def test_unknown_task_is_rejected_with_the_known_ones() -> None:
    with pytest.raises(BadConfiguration, match=r"one of xor, parity4, linear, a FILE\.toml .* got 'nand'"):
        find_task("nand")
    with pytest.raises(BadConfiguration, match="no such file"):
        find_task("nowhere.py")


@pytest.mark.parametrize(("part", "parts"), [(0, 2), (3, 2), (1, 0), (-1, 2)])
def test_part_out_of_range_is_rejected(part: int, parts: int) -> None:
    with pytest.raises(BadData, match=f"xor:{part}/{parts}: .*got {part if parts else 0}"):
        task_rows("xor", part, parts)


def test_read_rows_are_float64() -> None:
    rows = as_rows([[1, 2], [3, 4]], [True, False], "somewhere")
    assert rows.inputs.dtype == rows.targets.dtype == np.float64


def test_rows_function_may_return_rows_with_weights(tmp_path: Path) -> None:
    text = FILE.replace("    return [[float(part)], [-float(parts)]], [1, 0]", "    return ROWS")
    text += "\nimport numpy as np\nfrom fedmq import Rows\n"
    text += "ROWS = Rows(np.array([[1.0], [-1.0]]), np.array([1.0, 0.0]), np.array([1.0, 2.0]))\n"
    found = task_rows(task_file(tmp_path, text), 1, 1)
    assert pairs(found) == [([1.0], 1.0), ([-1.0], 0.0)]
    assert found.weights is not None
    assert found.weights.tolist() == [1.0, 2.0]
