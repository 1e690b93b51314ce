"""`fedmq predict` and `fedmq export`: the model of a run on new rows, and in other formats."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pytest
from click.testing import CliRunner
from test_model_schema import MODEL, PREPARATION, SCHEMA

from fedmq.cli.main import fedmq
from fedmq.errors import FedmqError
from fedmq.models.networks import Linear
from fedmq.models.trained_model import TrainedModel
from fedmq.runs import model_commands
from fedmq.tables.preparation import Preparation
from fedmq.tables.schema import Column, Schema, Target

ROWS = """\
id;smoker;color;age;note
P1;yes;green;61,5;a
P2;;red;;"b;c"
P3;no;pink;20;
"""


class Done(NamedTuple):
    code: int
    output: str
    errors: str


def run(*arguments: str) -> Done:
    try:
        result = CliRunner().invoke(fedmq, list(arguments), standalone_mode=False, catch_exceptions=False)
    except FedmqError as error:
        return Done(error.exit_code, "", str(error))
    except click.ClickException as error:
        return Done(error.exit_code, "", error.format_message())
    return Done(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("runs/tumor").mkdir(parents=True)
    Path("runs/tumor/model.npz").write_bytes(MODEL.to_bytes())
    Path("new.csv").write_text(ROWS)
    return tmp_path


def lines(output: str) -> list[list[str]]:
    return list(csv.reader(output.splitlines()))


@pytest.mark.parametrize("name", ["runs/tumor", "tumor", "runs/tumor/model.npz"])
def test_prediction_has_kept_columns_labels_and_probabilities(name: str) -> None:
    done = run("predict", name, "--data", "new.csv", "--keep", "id", "--keep", "note")
    assert done.code == 0
    header, *found = lines(done.output)
    assert header == ["id", "note", "prediction", "probability_benign", "probability_malignant"]
    frame = {"age": [61.5, None, 20.0], "color": ["green", "red", "pink"], "smoker": ["yes", None, "no"]}
    assert [line[:2] for line in found] == [["P1", "a"], ["P2", "b;c"], ["P3", ""]]
    assert [line[2] for line in found] == MODEL.predict(frame).tolist()
    np.testing.assert_array_equal(np.array([line[3:] for line in found], float), MODEL.probabilities(frame))
    assert "column color: 1 of 3 cells are not listed" in done.errors
    assert done.errors.endswith("fedmq predict: 3 rows\n")


def test_kept_cells_are_printable_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    model_commands._print("id,prediction\nP\x1b[31m1,benign\n")
    assert capsys.readouterr().out == "id,prediction\nP?[31m1,benign\n"


def test_prediction_is_written_to_a_private_file() -> None:
    assert run("predict", "tumor", "--data", "new.csv", "-o", "out.csv").output == ""
    assert Path("out.csv").stat().st_mode & 0o777 == 0o600
    assert Path("out.csv").read_text() == run("predict", "tumor", "--data", "new.csv").output


def test_row_without_a_required_cell_has_an_empty_prediction() -> None:
    columns = (Column(name="age", missing="drop"), *SCHEMA.columns[1:])
    schema = Schema(columns=columns, target=SCHEMA.target)
    prepared = Preparation(schema, PREPARATION.shift, PREPARATION.scale, PREPARATION.fill)
    model = TrainedModel(MODEL.model, MODEL.parameters, "tumor", preparation=prepared)
    Path("required.npz").write_bytes(model.to_bytes())
    done = run("predict", "required.npz", "--data", "new.csv", "--keep", "id")
    assert lines(done.output)[2] == ["P2", "", "", ""]
    assert done.errors.endswith("3 rows, 1 of them without a prediction\n")


@pytest.mark.parametrize("rows", ["1,2\n3,4\n,1\n", "a,b,y\n1,2,9\n3,4,9\n,1,9\n", "id,a,b\np,1,2\nq,3,4\nr,,1\n"])
def test_model_without_a_schema_predicts_from_a_table_of_numbers(rows: str) -> None:
    Path("linear.npz").write_bytes(TrainedModel(Linear(2), np.array([1.5, 0.5, 0.25]), "linear", 10.0).to_bytes())
    Path("rows.csv").write_text(rows)
    done = run("predict", "linear.npz", "--data", "rows.csv", *(["--keep", "id"] if "id" in rows else []))
    assert [line[-1] for line in lines(done.output)] == ["prediction", "27.5", "67.5", ""]
    assert done.errors.endswith("3 rows, 1 of them without a prediction\n")


def test_numbers_are_predicted_with_all_their_digits() -> None:
    schema = Schema(columns=(Column(name="age"),), target=Target(name="stay"))
    model = TrainedModel(
        Linear(1), np.array([1 / 3, 0.1]), "stay", preparation=Preparation(schema, np.zeros(1), np.ones(1), np.zeros(1))
    )
    Path("stay.npz").write_bytes(model.to_bytes())
    Path("rows.csv").write_text("age\n1\n0.7\n")
    found = [line[0] for line in lines(run("predict", "stay.npz", "--data", "rows.csv").output)]
    assert found == ["prediction", *map(repr, model.predict({"age": [1.0, 0.7]}).tolist())]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["none", "--data", "new.csv"], "expected a run with a model, or a model file"),
        (["new.csv", "--data", "new.csv"], "expected a model that fedmq saved"),
        (["tumor", "--data", "none.csv"], "none.csv"),
        (["tumor", "--data", "new.csv", "--keep", "name"], "--keep name: expected a column of new.csv"),
        (["tumor", "--data", "other.csv"], "expected column color"),
        (["tumor", "--data", "xor:1/2"], "expected a table with named columns"),
        (["tumor", "--data", "new.csv", "-o", "none/out.csv"], "none/out.csv: cannot be written"),
    ],
)
def test_unusable_model_or_data_is_refused_in_one_line(arguments: list[str], reason: str) -> None:
    Path("other.csv").write_text("age,smoker\n1,yes\n")
    done = run("predict", *arguments)
    assert done.code == 78
    assert reason in done.errors
    assert "\n" not in done.errors


@pytest.mark.parametrize("to", ["onnx", "sklearn", "json", "safetensors"])
def test_export_writes_a_file_and_says_what_was_verified(to: str) -> None:
    done = run("export", "tumor", "--to", to, "-o", f"tumor.{to}")
    assert done.code == 0
    assert done.output.startswith(f"tumor.{to}: {Path(f'tumor.{to}').stat().st_size} bytes; verified: ")


def test_export_that_fails_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedmq.models.exports.verified.largest_difference", lambda *_: 1e-3)
    done = run("export", "tumor", "--to", "onnx", "-o", "tumor.onnx")
    assert (done.code, Path("tumor.onnx").exists()) == (78, False)
    assert "got a difference of 0.001" in done.errors
