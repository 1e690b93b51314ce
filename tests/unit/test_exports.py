"""Exports of each kind of model predict what the model does, from raw rows with gaps, categories and dates."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest

from fedmq.errors import BadConfiguration
from fedmq.models.exports import onnx_graph, sklearn_pipeline, verified
from fedmq.models.exports.layout import named_arrays
from fedmq.models.exports.open_files import arrays_of
from fedmq.models.exports.verified import (
    DIFFERENCE_MAX,
    export,
    largest_difference,
    raw_inputs,
    run_onnx,
    run_sklearn,
    sample_rows,
)
from fedmq.models.fourier import Fourier
from fedmq.models.networks import MLP, Code, Linear, LogLinear, Model
from fedmq.models.trained_model import TrainedModel
from fedmq.models.trees import NO_COLUMN, Trees
from fedmq.tables.preparation import Preparation
from fedmq.tables.schema import Column, Schema, Target

COLUMNS = (
    Column(name="mean radius", strip="%"),
    Column(name="color", kind="category", categories=("red", "green", "blue")),
    Column(name="grade", kind="ordinal", categories=("I", "II", "III")),
    Column(name="smoker", kind="boolean"),
    Column(name="seen", kind="date"),
    Column(name="ward", kind="category", categories=("1", "2", "true")),
)  # of 10 features
CLASSES = Target(name="diagnosis", kind="class", classes=("benign", "malignant", "?x"))
TWO = Target(name="diagnosis", kind="class", classes=("benign", "malignant"))
NUMBER, COUNT = Target(name="stay"), Target(name="visits", kind="count")
FRAME = pd.DataFrame(
    {
        "ward": ["1", 1.0, "01", "true", None, "2", "9"],
        "seen": ["2024-05-31", None, "1969-12-31 12:00:00", "NA", "2020-01-01", "2020-02-29", "2021-03-04"],
        "smoker": [True, False, None, "yes", "n", 1, 0],
        "grade": ["I", "II", "III", "IV", None, "III", "I"],
        "color": ["red", "green", "blue", "pink", None, "?", "red"],
        "mean radius": ["1.5", "20%", "NA", None, "3e1", "-4", "17"],
    }
)


def preparation(target: Target, *, offset: str = "", missing: Any = "median") -> Preparation:
    columns = (*COLUMNS[:-1], Column(name="ward", kind="category", categories=("1", "2", "true"), missing=missing))
    shift = np.array([15.0, 0.0, 1.1, 0.4, 18_000.0, 0.0])
    scale = np.array([8.0, 1.0, 0.7, 0.5, 900.0, 1.0])
    schema = Schema(columns=columns, target=target, offset=offset)
    return Preparation(schema, shift, scale, shift + np.array([0.5, 0.0, -0.1, -0.4, 30.0, 0.0]))


def forest_parameters(model: Trees) -> np.ndarray[Any, Any]:
    """Return parameters of trees with splits of all kinds; the last trees are empty."""
    generator = np.random.default_rng(11)
    parameters = np.zeros(model.num_parameters)
    forest, start = model.split_parameters(parameters)
    start[:] = generator.normal(size=model.outputs)
    for trees in forest[:-1]:
        for numbers in trees:
            tree = model.unpack(numbers)
            tree.columns[:] = generator.integers(0, model.inputs, model.nodes)
            tree.missing[:] = generator.integers(0, 2, model.nodes)
            tree.rules[:, 0] = generator.normal(size=model.nodes)
            tree.leaves[:] = generator.normal(0.0, 0.3, model.nodes + 1)
            for node, column in enumerate(tree.columns.astype(int)):
                if model.categories and model.categories[column]:
                    tree.rules[node] = generator.integers(0, 1 << min(32, model.categories[column]), model.words)
            for node in range(model.nodes):  # a node without a split has none below, and equal leaves
                if (node and tree.columns[(node - 1) // 2] == NO_COLUMN) or generator.random() < 0.15:
                    tree.columns[node] = NO_COLUMN
            for node in np.flatnonzero(tree.columns == NO_COLUMN):
                first = last = int(node)
                while first < model.nodes:
                    first, last = 2 * first + 1, 2 * last + 2
                tree.leaves[first - model.nodes : last - model.nodes + 1] = tree.leaves[first - model.nodes]
    return parameters


def trained(model: Model, prepared: Preparation | None = None, output_scale: float = 1.0) -> TrainedModel:
    parameters = np.random.default_rng(7).normal(0.0, 0.6, model.num_parameters)
    if isinstance(model, Fourier):
        parameters[model.inputs : 2 * model.inputs] = np.linspace(0.0, 2.0, model.inputs)  # a column without spread
    if isinstance(model, Trees):
        parameters = forest_parameters(model)
    return TrainedModel(model, parameters, "tumor", output_scale, prepared)


SETS = (0, 3, 0, 0, 0, 3)
FORESTS = [
    trained(Trees(6, 3, "softmax", trees=8, depth=4, categories=SETS), preparation(CLASSES)),
    trained(Trees(6, 2, "softmax", trees=8, depth=3, categories=SETS), preparation(TWO)),
    trained(Trees(6, trees=30, depth=5, categories=SETS), preparation(NUMBER), 1e5),
    trained(Trees(6, trees=5, depth=2, counts=True, categories=SETS), preparation(COUNT, offset="exposure")),
    trained(
        Trees(6, 2, "softmax", trees=2, depth=3, categories=SETS), preparation(TWO, missing="drop", offset="exposure")
    ),
    trained(Trees(2, trees=1, depth=3)),  # no tree at all
    trained(Trees(3, 3, "softmax", trees=4, depth=12)),
]
MODELS = [
    trained(MLP((10, 3)), preparation(CLASSES)),
    trained(MLP((10, 6, 3), hidden="tanh"), preparation(CLASSES)),
    trained(MLP((10, 6, 4, 3), hidden="sigmoid", bias=False), preparation(CLASSES)),
    trained(MLP((10, 5, 1), output="identity"), preparation(NUMBER), 1e5),
    trained(Linear(10), preparation(NUMBER), 250.0),
    trained(LogLinear(10), preparation(COUNT)),
    trained(Fourier(10, 3, 40, "softmax"), preparation(CLASSES)),
    trained(Fourier(10, 1, 300), preparation(NUMBER)),
    trained(MLP((3, 4, 2))),
    trained(Linear(3, 2), None, 10.0),
    trained(Fourier(3, 1, 20)),
]
ONNX_ONLY = [
    trained(Linear(10), preparation(NUMBER, offset="exposure"), 250.0),
    trained(LogLinear(10), preparation(COUNT, offset="exposure", missing="drop")),
    trained(MLP((10, 3)), preparation(CLASSES, missing="drop")),
]


def name_of(model: TrainedModel) -> str:
    schema = model.schema
    extra = "" if schema is None else f" {schema.target.kind}{' offset' * bool(schema.offset)}"
    return f"{model.model}{extra}{' required' * (schema is not None and schema.columns[-1].missing == 'drop')}"


@pytest.mark.parametrize("model", [*MODELS, *ONNX_ONLY, *FORESTS], ids=name_of)
def test_onnx_predicts_what_the_model_predicts(model: TrainedModel) -> None:
    exported = export(model, "onnx")
    onnx.checker.check_model(onnx.load_from_string(exported.content))
    assert exported.verified.startswith("200 rows")
    rows = sample_rows(model, 1000)
    assert largest_difference(model, rows, run_onnx(exported.content, raw_inputs(model, rows))) <= DIFFERENCE_MAX


@pytest.mark.parametrize(
    "model", [one for one in (*MODELS, *ONNX_ONLY, *FORESTS) if one.schema is not None], ids=name_of
)
def test_onnx_predicts_from_the_raw_cells_of_a_data_frame(model: TrainedModel) -> None:
    assert model.schema is not None
    frame = FRAME.assign(exposure=np.linspace(-1.0, 1.0, len(FRAME))) if model.schema.offset else FRAME
    encoded = model.encode(frame)
    inputs = {name: encoded.columns[:, [place]] for place, name in enumerate(column.name for column in COLUMNS)}
    for name in ("color", "grade", "ward"):  # cells as they are
        inputs[name] = frame[[name]].fillna("").astype(str).to_numpy(dtype=object).copy()
    inputs["ward"][2] = "1"  # the only spelling that a graph does not know: 01
    if model.schema.offset:
        inputs["exposure"] = frame[["exposure"]].to_numpy()
    predicted, probabilities = run_onnx(export(model, "onnx").content, inputs)
    if model.classes:
        assert predicted.tolist() == model.predict(frame).tolist()
        np.testing.assert_allclose(probabilities, model.probabilities(frame), rtol=0, atol=DIFFERENCE_MAX)
    else:
        np.testing.assert_allclose(predicted, model.predict(frame), rtol=1e-9)


def test_rows_without_a_required_cell_are_not_predicted() -> None:
    classes, counts = ONNX_ONLY[2], ONNX_ONLY[1]
    without = [False, False, False, False, True, False, True]
    assert (classes.predict(FRAME) == "").tolist() == without
    assert np.isnan(classes.probabilities(FRAME)).all(axis=1).tolist() == without
    assert np.isnan(counts.predict(FRAME.assign(exposure=0.0))).tolist() == without


def test_offset_is_added_to_the_linear_predictor() -> None:
    linear, counts = ONNX_ONLY[0], ONNX_ONLY[1]
    step = FRAME.assign(exposure=0.5)
    np.testing.assert_allclose(linear.predict(step) - linear.predict(FRAME.assign(exposure=0.0)), 0.5)
    ratio = counts.predict(step) / counts.predict(FRAME.assign(exposure=0.0))
    np.testing.assert_allclose(ratio[~np.isnan(ratio)], np.exp(0.5))


@pytest.mark.parametrize("model", [one for one in MODELS if not isinstance(one.model, Fourier)], ids=name_of)
def test_pipeline_of_sklearn_predicts_what_the_model_predicts(model: TrainedModel) -> None:
    exported = export(model, "sklearn")
    rows = sample_rows(model, 1000)
    assert (
        largest_difference(model, rows, run_sklearn(exported.content, raw_inputs(model, rows), model.classes))
        <= DIFFERENCE_MAX
    )


@pytest.mark.parametrize("to", ["json", "safetensors"])
@pytest.mark.parametrize("model", [*MODELS, *FORESTS], ids=name_of)
def test_open_files_hold_all_numbers_of_the_model(model: TrainedModel, to: Any) -> None:
    exported = export(model, to)
    read = arrays_of(exported.content)
    for name, array in named_arrays(model).items():
        np.testing.assert_array_equal(read[name].reshape(array.shape), array)
        assert read[name].dtype == np.float64
    assert export(model, to).content == exported.content


def test_json_describes_the_model() -> None:
    described = json.loads(export(MODELS[0], "json").content)
    assert described["model"] == {"type": "mlp", "sizes": [10, 3], "hidden": "relu", "output": "softmax", "bias": True}
    assert described["classes"] == ["benign", "malignant", "?x"]
    assert described["schema"]["columns"][1] == {
        "name": "color",
        "kind": "category",
        "categories": ["red", "green", "blue"],
    }


@pytest.mark.parametrize(
    ("model", "to", "reason"),
    [
        (TrainedModel(Code(3, 2), np.zeros(3), "own"), "onnx", "code"),
        (MODELS[6], "sklearn", "export to onnx"),
        (ONNX_ONLY[0], "sklearn", "offset"),
        (ONNX_ONLY[2], "sklearn", "requires 'ward'"),
    ],
)
def test_format_without_such_a_model_is_refused(model: TrainedModel, to: Any, reason: str) -> None:
    with pytest.raises(BadConfiguration, match=reason):
        export(model, to)


def test_forest_of_categories_without_a_split_predicts_its_start() -> None:
    schema = Schema(columns=COLUMNS[1:2], target=NUMBER)
    prepared = Preparation(schema, np.zeros(1), np.ones(1), np.zeros(1))
    model = Trees(1, trees=1, depth=2, categories=(3,))
    start = np.append(np.zeros(model.num_parameters - 1), 4.5)
    empty = TrainedModel(model, start, "tumor", preparation=prepared)
    predicted, _ = run_onnx(export(empty, "onnx").content, raw_inputs(empty, sample_rows(empty, 3)))
    assert predicted.tolist() == [4.5, 4.5, 4.5]


def test_column_with_the_name_of_an_output_is_refused_by_onnx() -> None:
    schema = Schema(columns=(Column(name="prediction"),), target=NUMBER)
    prepared = Preparation(schema, np.zeros(1), np.ones(1), np.zeros(1))
    with pytest.raises(BadConfiguration, match="name of an output"):
        export(trained(Linear(1), prepared), "onnx")


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "sklearn", "pandas", "joblib", "safetensors.numpy"])
def test_missing_package_is_named_with_the_command_that_installs_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, {"sklearn": "sklearn.pipeline"}.get(package, package), None)
    to: Any = {"onnxruntime": "onnx", "onnx": "onnx", "safetensors.numpy": "safetensors"}.get(package, "sklearn")
    with pytest.raises(BadConfiguration, match=r"fedmq\[export\]"):
        export(MODELS[0], to)


@pytest.mark.parametrize("part", ["features", "weights", "classes"])
def test_export_that_predicts_something_else_is_not_returned(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bugs in the graph: a gap is filled with zero, a weight is rounded, two classes change places."""
    model = MODELS[0]
    if part == "features":
        monkeypatch.setattr(onnx_graph._Graph, "_standardized", _fills_with_zero(onnx_graph._Graph._standardized))
    elif part == "weights":
        rounded = [layer._replace(weights=layer.weights.astype(np.float16)) for layer in onnx_graph.layers(model)]
        monkeypatch.setattr(
            onnx_graph, "layers", lambda _: [one._replace(weights=one.weights.astype(np.float64)) for one in rounded]
        )
    else:
        swapped = ("malignant", "benign", "?x")
        monkeypatch.setattr(TrainedModel, "classes", property(lambda _: swapped))
        content = onnx_graph.to_onnx(model)
        monkeypatch.undo()
        monkeypatch.setitem(verified._WRITERS, "onnx", lambda _: content)  # type: ignore[index]
    with pytest.raises(BadConfiguration, match="predicts as the model does"):
        export(model, "onnx")


@pytest.mark.parametrize("model", [MODELS[0], MODELS[4]], ids=name_of)
def test_row_that_only_one_side_predicts_is_a_difference(model: TrainedModel) -> None:
    rows = sample_rows(model, 5)
    predicted, probabilities = model.predict(rows), model.probabilities(rows) if model.classes else None
    assert largest_difference(model, rows, (predicted, probabilities)) == 0.0
    holed = predicted.copy() if probabilities is None else probabilities.copy()
    holed[3] = np.nan
    outputs = (holed, None) if probabilities is None else (predicted, holed)
    assert largest_difference(model, rows, outputs) == np.inf


def _fills_with_zero(right: Any) -> Any:
    return lambda self, column, shift, scale, fill: right(self, column, shift, scale, 0.0 * fill)


def test_missing_category_moves_into_the_biases_of_sklearn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sklearn_pipeline, "_with_all_categories", lambda layer, _: layer)
    with pytest.raises(BadConfiguration, match=r"predicts as the model does"):
        export(MODELS[0], "sklearn")
