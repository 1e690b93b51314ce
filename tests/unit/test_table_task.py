"""Task files as data: what they may hold, and the task that comes of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import pytest

from fedmq import MLP, Linear, Trees, find_task
from fedmq.errors import BadConfiguration
from fedmq.models.fourier import Fourier
from fedmq.models.networks import LogLinear
from fedmq.tables.schema import Column, DateForm
from fedmq.tasks.table_task import (
    ColumnKind,
    FileColumn,
    FileModel,
    FileTarget,
    ModelKind,
    TaskFile,
    parse_task_file,
    task_of,
)

TUMOR = """\
name = "tumor"

[target]
name = "diagnosis"
kind = "class"
classes = ["B", "M"]

[columns]
age = { kind = "number", unit = "years" }
stage = { kind = "category", categories = ["I", "II", "III"], missing = "drop" }
patient = { kind = "ignored" }
w = { kind = "weight" }
o = { kind = "offset" }
"""


def test_file_becomes_a_task_with_its_columns_in_order() -> None:
    task = task_of(parse_task_file(TUMOR))
    assert task.schema is not None
    assert task.schema.columns == (
        Column(name="age", unit="years"),
        Column(name="stage", kind="category", categories=("I", "II", "III"), missing="drop"),
    )
    assert (task.schema.weight, task.schema.offset, task.schema.ignored) == ("w", "o", ("patient",))
    assert (type(task.model), task.loss, task.metric) == (Trees, "cross-entropy", "accuracy")
    assert (task.name, task.holdout, task.algorithm) == ("tumor", 0.2, "boosting")


NUMBER = TUMOR.replace('kind = "class"\nclasses = ["B", "M"]', 'kind = "number"\nscale = 1e5')
COUNT = NUMBER.replace('"number"\nscale = 1e5', '"count"')


@pytest.mark.parametrize(
    ("text", "algorithm", "model"),
    [
        (TUMOR, "ridge", MLP((4, 2))),
        (NUMBER, "newton", Linear(4)),
        (COUNT, "newton", LogLinear(4)),
        (TUMOR, "boosting", Trees(2, 2, "softmax", categories=(0, 3))),
        (
            COUNT + '[model]\nkind = "trees"\ntrees = 7\ndepth = 2\n',
            None,
            Trees(2, trees=7, depth=2, counts=True, categories=(0, 3)),
        ),
        (TUMOR, "evolution", MLP((4, 16, 2))),
        (NUMBER, "averaging", MLP((4, 16, 1), output="identity")),
        (TUMOR + '[model]\nkind = "network"\nhidden = [8, 4]\nactivation = "tanh"\n', None, MLP((4, 8, 4, 2), "tanh")),
        (TUMOR + '[model]\nkind = "linear"\n', "evolution", MLP((4, 2))),
        (TUMOR + '[model]\nkind = "random-features"\nfeatures = 64\n', "ridge", Fourier(4, 2, 64, "softmax")),
    ],
)
def test_model_follows_from_the_file_or_from_the_algorithm(text: str, algorithm: Any, model: Any) -> None:
    assert task_of(parse_task_file(text), algorithm).model == model


def test_number_has_the_scale_of_the_file() -> None:
    task = task_of(parse_task_file(NUMBER))
    assert (task.output_scale, task.loss, task.metric) == (1e5, "squared-error", "loss")


def test_rule_for_a_missing_target_is_that_of_the_file() -> None:
    text = TUMOR.replace('kind = "class"', 'kind = "class"\nmissing = "refuse"\nunit = "grade"')
    schema = task_of(parse_task_file(text)).schema
    assert schema is not None
    assert (schema.target.missing, schema.target.unit) == ("refuse", "grade")


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ('kind = "class"', 'kind = "clas"', "target: expected kind to be one of class, number, count, got 'clas'"),
        ("unit =", "unti =", "columns.age: unknown key 'unti'; did you mean unit?"),
        ('name = "tumor"', 'name = "tumor"\nholdot = 0.1', "unknown key 'holdot'; did you mean holdout?"),
        ('["B", "M"]', '["B"]', "target 'diagnosis': expected 2 to 1000 classes, got 1"),
        ('["I", "II", "III"]', '["1", "01"]', "column 'stage': expected each of its categories once"),
        ('"years"', "3", "columns.age: expected `str`, got `int`, at `unit`"),
        ('name = "diagnosis"', "", "target: expected the key `name`"),
        ('{ kind = "ignored" }', '"ignored"', "columns.patient: expected a table"),
        ('{ kind = "offset" }', '{ kind = "weight" }', 'expected one column of kind "weight", got w, o'),
        ("age =", "diagnosis =", "columns.diagnosis: expected columns beside the target"),
        ("[columns]", "[columns", "expected TOML"),
        ('name = "tumor"', 'name = "tumor"\nholdout = 1.5', "holdout: expected a number from 0 to 0.9"),
    ],
)
def test_wrong_file_is_refused_with_the_file_and_the_key(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in TUMOR
    path = tmp_path / "tumor.toml"
    path.write_text(TUMOR.replace(old, new, 1))
    with pytest.raises(BadConfiguration) as caught:
        find_task(str(path))
    assert str(caught.value).startswith(f"{path}: ")
    assert expected in str(caught.value)


PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "task-file.md").read_text()


def test_page_has_every_key_and_its_examples_are_valid() -> None:
    keys = {name for kind in (TaskFile, FileTarget, FileColumn, FileModel) for name in kind.__struct_fields__}
    kinds = {*get_args(ColumnKind), *get_args(ModelKind), *get_args(DateForm)}
    assert {key for key in keys | kinds if f"`{key}`" not in PAGE} == {"columns", "target", "model", "parameters"}
    data, keywords = re.findall(r"^```toml\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.MULTILINE | re.DOTALL)
    assert task_of(parse_task_file(data)).parameters == {"newton": {"penalty": 1.0}}
    assert set(task_of(parse_task_file(data + keywords)).parameters) == {"newton", "evolution"}
    names: dict[str, Any] = {}
    exec(code, names)  # noqa: S102 - of the page
    assert names["task"].schema.feature_names == ("age", "sex=m", "sex=(missing)")


def test_endless_name_of_a_column_is_cut_in_the_error() -> None:
    with pytest.raises(BadConfiguration, match="length <= 200") as caught:
        task_of(parse_task_file(TUMOR + f'{"x" * 10_000} = {{ kind = "number" }}\n'))
    assert len(str(caught.value)) < 200


def test_missing_file_is_refused() -> None:
    with pytest.raises(
        BadConfiguration, match=r"none\.toml: expected a task file, got no such file or directory: write one"
    ):
        find_task("none.toml")
