"""Exports by format, each verified before it is written: the export predicts made-up rows, and so does the model."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fedmq.errors import BadConfiguration, FedmqError, named
from fedmq.models.arrays import Floats
from fedmq.models.exports.layout import named_arrays
from fedmq.models.exports.onnx_graph import ROWS, to_onnx
from fedmq.models.exports.open_files import arrays_of, to_json, to_safetensors
from fedmq.models.exports.sklearn_pipeline import to_sklearn
from fedmq.models.fourier import Fourier
from fedmq.models.trained_model import TrainedModel
from fedmq.models.trees import EVERYTHING, Trees
from fedmq.tables.encoding import Encoded

Format = Literal["onnx", "sklearn", "json", "safetensors"]

ROWS_VERIFIED = 200
DIFFERENCE_MAX = 1e-6  # of a probability, or of a value in units of the larger of 1 and the value
MISSING_SHARE = 0.1  # of the cells of made-up rows
SPREAD = 2.0  # of made-up numbers, in standard deviations
NOT_LISTED = "(not listed)"
Outputs = tuple[npt.NDArray[Any], Floats | None]  # predictions, and probabilities of classes


class Export(NamedTuple):
    """The content of a file, and what was verified about it."""

    content: bytes
    verified: str


def export(trained: TrainedModel, to: Format) -> Export:
    """Return a model in another format.

    Raises:
        BadConfiguration: the format has no such model, a package is missing, or the export predicts other values.
    """
    content = _WRITERS[to](trained)
    if to in ("json", "safetensors"):
        return Export(content, _same_numbers(trained, content))
    rows = sample_rows(trained)
    run = run_onnx if to == "onnx" else run_sklearn
    try:
        outputs = run(content, raw_inputs(trained, rows), trained.classes)
    except FedmqError:
        raise
    except Exception as error:  # each package has its own
        raise BadConfiguration(f"expected an export that runs, got {named(error):.300}: report it") from error
    difference = largest_difference(trained, rows, outputs)
    if not difference <= DIFFERENCE_MAX:
        raise BadConfiguration(
            f"expected an export that predicts as the model does, got a difference of {difference:.2g}: report it"
        )
    return Export(content, f"{ROWS_VERIFIED} rows, largest difference {difference:.1g}")


def sample_rows(trained: TrainedModel, count: int = ROWS_VERIFIED) -> Encoded | Floats:
    """Return made-up rows: encoded columns with gaps for a model with a schema, else numbers (rows, inputs)."""
    generator = np.random.default_rng(0)
    if trained.preparation is None:
        columns = generator.normal(0.0, SPREAD, (count, trained.model.inputs))
        if isinstance(trained.model, Trees):
            columns = np.stack(
                [_near_thresholds(trained, place, generator, count) for place in range(trained.model.inputs)], axis=1
            )
        if isinstance(trained.model, Fourier):
            means, deviations, _, _ = trained.model.layers(trained.parameters)
            columns = columns * deviations + means
        return columns
    schema, columns = trained.preparation.schema, np.empty((count, len(trained.preparation.schema.columns)))
    for place, column in enumerate(schema.columns):
        shift, scale = trained.preparation.shift[place], trained.preparation.scale[place]
        if column.categories:
            columns[:, place] = generator.integers(0, len(column.categories), count)
        elif column.kind == "boolean":
            columns[:, place] = generator.integers(0, 2, count)
        elif isinstance(trained.model, Trees):
            columns[:, place] = _near_thresholds(trained, place, generator, count)
        else:
            columns[:, place] = shift + scale * generator.normal(0.0, SPREAD, count)
    columns[generator.random(columns.shape) < MISSING_SHARE] = np.nan
    offsets = generator.normal(0.0, 1.0, count) if schema.offset else None
    return Encoded(columns, np.empty(0), None, offsets, np.arange(count), {}, {}, ())


def _near_thresholds(trained: TrainedModel, column: int, generator: np.random.Generator, count: int) -> Floats:
    """Return made-up numbers (count,) of a column: the thresholds of a forest, and numbers next to them."""
    assert isinstance(trained.model, Trees)
    arrays = named_arrays(trained)
    found = arrays["trees.rules"][..., 0][arrays["trees.columns"] == column]
    thresholds = np.unique(np.concatenate([[0.0], found[np.abs(found) < EVERYTHING]]))
    steps = generator.integers(-1, 2, count) * (1e-9 + np.ptp(thresholds) / (len(thresholds) + 1))
    numbers: Floats = generator.choice(thresholds, count) + steps
    return numbers


def raw_inputs(trained: TrainedModel, rows: Encoded | Floats) -> dict[str, npt.NDArray[Any]]:
    """Return rows as an export takes them, by name, each (rows, 1) or (rows, inputs).

    Categories are text, of which what is missing is empty or not listed by turns; all else is float64.
    """
    if trained.schema is None:
        assert isinstance(rows, np.ndarray)
        return {ROWS: rows}
    assert isinstance(rows, Encoded)
    inputs = {}
    for place, column in enumerate(trained.schema.columns):
        values = rows.columns[:, place]
        if column.categories:
            labels = np.array([*column.categories, NOT_LISTED, ""], dtype=object)
            places = np.where(np.isnan(values), -1 - np.arange(len(values)) % 2, values)
            values = labels[places.astype(np.int64)]
        inputs[column.name] = values[:, None]
    if rows.offsets is not None:
        inputs[trained.schema.offset] = rows.offsets[:, None]
    return inputs


def run_onnx(content: bytes, inputs: Mapping[str, npt.NDArray[Any]], _classes: Sequence[str] = ()) -> Outputs:
    """Return the outputs of an ONNX file for raw inputs.

    Raises:
        BadConfiguration: onnxruntime is missing.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise BadConfiguration(f'expected the package onnxruntime, got {error}: pip install "fedmq[export]"') from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    found = session.run(None, dict(inputs))
    return found[0], found[1] if len(found) > 1 else None


def run_sklearn(content: bytes, inputs: Mapping[str, npt.NDArray[Any]], classes: Sequence[str]) -> Outputs:
    """Return the outputs of a pipeline that this process has just written, probabilities in the order of `classes`."""
    import joblib

    pipeline = joblib.load(io.BytesIO(content))
    if set(inputs) == {ROWS}:
        rows: Any = inputs[ROWS]
    else:
        import pandas as pd

        rows = pd.DataFrame({name: values[:, 0] for name, values in inputs.items()})
    if not classes:
        return pipeline.predict(rows), None
    order = [list(map(str, pipeline.classes_)).index(label) for label in classes]
    return pipeline.predict(rows), pipeline.predict_proba(rows)[:, order]


def largest_difference(trained: TrainedModel, rows: Encoded | Floats, outputs: Outputs) -> float:
    """Return the largest difference between what the model and an export predict; infinity where one predicts nothing.

    A value is compared in units of the larger of 1 and itself. Another class counts as infinity, unless the two
    classes are as probable but for DIFFERENCE_MAX.
    """
    predicted, (found, probabilities) = trained.predict(rows), outputs
    if not trained.classes:
        found = np.asarray(found, np.float64).reshape(predicted.shape)
        return _largest(np.abs(found - predicted) / np.maximum(1.0, np.abs(predicted)), predicted, found)
    expected = trained.probabilities(rows)
    if probabilities is None or probabilities.shape != expected.shape:
        return np.inf
    second = np.sort(expected, axis=1)[:, -2]
    clear = np.nan_to_num(expected.max(axis=1) - second, nan=np.inf) > DIFFERENCE_MAX
    if (np.asarray(found)[clear] != predicted[clear]).any():
        return np.inf
    return _largest(np.abs(probabilities - expected), expected, probabilities)


def _largest(differences: Floats, expected: Floats, found: Floats) -> float:
    if (np.isnan(expected) != np.isnan(found)).any():
        return np.inf
    return float(np.nan_to_num(differences).max(initial=0.0))


def _same_numbers(trained: TrainedModel, content: bytes) -> str:
    """Check that a file reads as the numbers of the model, bit for bit."""
    read, arrays = arrays_of(content), named_arrays(trained)
    if not all(name in read and np.array_equal(array.ravel(), read[name].ravel()) for name, array in arrays.items()):
        raise BadConfiguration("expected an export with the numbers of the model, got others: report it")
    return f"{sum(array.size for array in arrays.values())} numbers, read as they were written"


_WRITERS: Mapping[str, Callable[[TrainedModel], bytes]] = {
    "onnx": to_onnx,
    "sklearn": to_sklearn,
    "json": to_json,
    "safetensors": to_safetensors,
}
