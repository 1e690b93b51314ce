"""Models: the batched forward pass, bounded losses, and model files."""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pygad.nn
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmq.errors import BadConfiguration, BadData
from fedmq.models.arrays import Floats
from fedmq.models.losses import ROW_CROSS_ENTROPY_MAX, ROW_SQUARED_ERROR_MAX, cross_entropy, squared_error
from fedmq.models.networks import LAYER_UNITS_MAX, MLP, PARAMETERS_MAX, Linear, Model
from fedmq.models.trained_model import MODEL_BYTES_MAX, TrainedModel, load_model

XOR_PARAMETERS = np.array([1, -1, 0, 0, -1, 1, 0, 0, 0, 0, 0, 0, 0, 9, 0, 9, 0, 0, 0, 0, 4, 0], dtype=np.float64)
XOR = TrainedModel(model=MLP((2, 4, 2)), parameters=XOR_PARAMETERS, task="xor")
ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "relu": lambda values: np.maximum(values, 0),
    "tanh": np.tanh,
    "sigmoid": lambda values: 1 / (1 + np.exp(-values)),
}


def forward_one_by_one(model: MLP, candidate: Floats, row: Floats) -> Floats:
    """Return the outputs of one candidate for one row, layer by layer, with the parameter layout of MLP."""
    values, start = row, 0
    for layer, (above, below) in enumerate(zip(model.sizes, model.sizes[1:], strict=False)):
        values = values if layer == 0 else ACTIVATIONS[model.hidden](values)
        values = values @ candidate[start : start + above * below].reshape(above, below)
        start += above * below
        if model.bias:
            values = values + candidate[start : start + below]
            start += below
    assert start == model.num_parameters
    return values


def model_file(tmp_path: Path, data: bytes) -> Path:
    path = tmp_path / "model.npz"
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("sizes", [(2, 4, 2), (5, 3), (3, 6, 5, 4)])
@pytest.mark.parametrize("hidden", ["relu", "tanh", "sigmoid"])
@pytest.mark.parametrize("bias", [True, False])
def test_population_output_equals_each_candidate_on_each_row(sizes: tuple[int, ...], hidden: Any, bias: bool) -> None:
    generator = np.random.default_rng(3)
    model = MLP(sizes, hidden=hidden, bias=bias)
    population, rows = generator.normal(size=(7, model.num_parameters)), generator.normal(size=(6, sizes[0]))
    expected = [[forward_one_by_one(model, candidate, row) for row in rows] for candidate in population]
    np.testing.assert_allclose(model.forward(population, rows), expected, atol=1e-12)


@pytest.mark.parametrize("hidden", ["relu", "sigmoid"])
def test_outputs_without_biases_equal_those_of_pygad(hidden: Any) -> None:
    generator = np.random.default_rng(4)
    model = MLP((3, 5, 2), hidden=hidden, output="identity", bias=False)
    rows, parameters = generator.normal(size=(9, 3)), generator.normal(size=model.num_parameters)
    hidden_layer = pygad.nn.DenseLayer(5, pygad.nn.InputLayer(3), hidden)
    last_layer = pygad.nn.DenseLayer(2, hidden_layer, "None")
    # layers_weights_as_matrix would transpose each layer.
    pygad.nn.update_layers_trained_weights(last_layer, [parameters[:15].reshape(3, 5), parameters[15:].reshape(5, 2)])
    values = pygad.nn.predict(last_layer, rows, problem_type="regression")
    classes = pygad.nn.predict(last_layer, rows, problem_type="classification")
    np.testing.assert_allclose(model.forward(parameters[None], rows)[0], np.reshape(values, (9, 2)), atol=1e-12)
    trained = TrainedModel(model=MLP((3, 5, 2), hidden=hidden, bias=False), parameters=parameters, task="compared")
    np.testing.assert_array_equal(trained.predict(rows), classes)


def test_linear_parameters_are_weights_then_biases() -> None:
    outputs = Linear(2, 3).forward(np.arange(9.0)[None], np.array([[1.0, 10.0]]))
    np.testing.assert_array_equal(outputs, [[[0 + 30 + 6, 1 + 40 + 7, 2 + 50 + 8]]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("model", [MLP((4, 8, 2), hidden="sigmoid"), Linear(4)])
def test_forward_keeps_the_dtype_and_its_inputs(model: Model, dtype: Any) -> None:
    population, rows = np.ones((3, model.num_parameters), dtype=dtype), np.ones((2, 4))
    assert model.forward(population, rows).dtype == dtype
    assert (population == 1).all()
    assert (rows == 1).all()


def test_population_of_another_model_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"layers \(2, 4, 2\), got \(1, 21\)"):
        MLP((2, 4, 2)).forward(np.zeros((1, 21)), np.zeros((1, 2)))


def test_sizes_are_stored_as_a_tuple() -> None:
    model = MLP([2, 4, 2], hidden="relu", output="softmax")
    assert model == MLP((2, 4, 2))
    assert hash(model) == hash(MLP((2, 4, 2)))
    assert (model.num_parameters, model.inputs, model.outputs) == (22, 2, 2)
    assert MLP([2, 4, 2], bias=False).num_parameters == 16


@pytest.mark.parametrize("model", [MLP((4, 8, 2), hidden="tanh", bias=False), Linear(3, 2)])
def test_models_survive_messagepack_and_json(model: Model) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(model), type=Model) == model
    assert msgspec.json.decode(msgspec.json.encode(model), type=Model) == model


@pytest.mark.parametrize(
    "sizes",
    [
        (),
        (2,),
        (2, 0),
        (2, -1, 2),
        (2, 2.0),
        (2, True),
        (1,) * 17,
        (2, LAYER_UNITS_MAX + 1),
        (LAYER_UNITS_MAX,) * 2,
        "242",
    ],
)
def test_sizes_out_of_bounds_are_rejected_also_while_decoding(sizes: Any) -> None:
    with pytest.raises(BadConfiguration, match="expected"):
        MLP(sizes)
    with pytest.raises((BadConfiguration, msgspec.ValidationError)):
        msgspec.msgpack.decode(msgspec.msgpack.encode({"type": "mlp", "sizes": sizes}), type=Model)


@pytest.mark.parametrize(
    ("inputs", "outputs"), [(0, 1), (1, 0), (LAYER_UNITS_MAX + 1, 1), (LAYER_UNITS_MAX, PARAMETERS_MAX)]
)
def test_linear_model_has_the_same_bounds(inputs: int, outputs: int) -> None:
    with pytest.raises(BadConfiguration, match="expected"):
        Linear(inputs, outputs)


def test_unknown_activation_is_rejected_with_the_known_ones() -> None:
    unknown: Any = "gelu"
    with pytest.raises(BadConfiguration, match=r"hidden: .*relu, tanh, sigmoid, got 'gelu'"):
        MLP((2, 2), hidden=unknown)
    with pytest.raises(BadConfiguration, match=r"output: .*softmax, identity"):
        MLP((2, 2), output=unknown)


def test_cross_entropy_is_the_negative_log_of_the_softmax() -> None:
    outputs = np.random.default_rng(5).normal(size=(3, 4, 3))
    targets = np.array([0, 2, 1, 1])
    softmax = np.exp(outputs) / np.exp(outputs).sum(axis=2, keepdims=True)
    expected = -np.log(softmax[:, np.arange(4), targets]).sum(axis=1)
    np.testing.assert_allclose(cross_entropy(outputs, targets), expected)
    np.testing.assert_allclose(cross_entropy(outputs + 5000, targets), expected)


@pytest.mark.parametrize("extreme", [np.nan, np.inf, -np.inf, 1e308])
def test_loss_of_a_row_is_bounded(extreme: float) -> None:
    outputs = np.array([[[extreme, 0.0], [0.0, 0.0]]])
    losses = cross_entropy(outputs, np.array([1, 0]))
    assert np.log(2) <= losses[0] <= ROW_CROSS_ENTROPY_MAX + np.log(2)
    assert squared_error(outputs[:, :, :1], np.array([1.0, 0.0])) == [ROW_SQUARED_ERROR_MAX]


def test_overflowing_candidate_has_a_finite_loss_without_a_warning() -> None:
    model = MLP((2, 4, 2))
    outputs = model.forward(np.full((1, 22), 1e300), np.full((1, 2), 1e300))
    assert cross_entropy(outputs, np.array([0])) == [ROW_CROSS_ENTROPY_MAX]


def test_losses_are_summed_in_float64() -> None:
    outputs, targets = np.full((1, 3, 1), 0.5, dtype=np.float32), np.array([0.5, 1.5, 2.5])
    losses = squared_error(outputs, targets)
    assert losses.dtype == np.float64
    assert losses == [5.0]
    assert cross_entropy(np.zeros((2, 3, 2), dtype=np.float32), np.zeros(3, dtype=np.int64)).dtype == np.float64


def test_classifier_predicts_classes_and_probabilities() -> None:
    assert XOR.predict([[0, 1], [0, 0], [1, 0], [1, 1]]).tolist() == [1, 0, 1, 0]
    assert XOR.predict([[0, 1]]).dtype == np.int64
    probabilities = XOR.probabilities([[0, 1], [1, 1]])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert probabilities[0, 1] > 0.9


def test_linear_model_predicts_values() -> None:
    one = TrainedModel(model=Linear(2), parameters=np.array([1.5, 0.5, -0.25]), task="linear")
    np.testing.assert_allclose(one.predict([[1, 1], [0, 0]]), [1.75, -0.25])
    two = TrainedModel(model=Linear(1, 2), parameters=np.array([1.0, 2.0, 0.0, 0.5]), task="two")
    np.testing.assert_allclose(two.predict([[3]]), [[3.0, 6.5]])
    with pytest.raises(BadConfiguration, match="softmax"):
        one.probabilities([[1, 1]])


@pytest.mark.parametrize("rows", [[[1, 2, 3]], [1, 2], [[1, 2], [3]], [["a", "b"]], []])
def test_rows_of_other_columns_are_rejected_in_one_line(rows: Any) -> None:
    with pytest.raises(BadData, match="rows of 2") as rejection:
        XOR.predict(rows)
    assert "\n" not in str(rejection.value)


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
def test_row_that_is_not_finite_gets_no_class_and_no_value(hole: float) -> None:
    linear = TrainedModel(model=Linear(inputs=2), parameters=np.ones(3), task="linear")
    for predict in (XOR.predict, XOR.probabilities, linear.predict):
        with pytest.raises(BadData, match=r"expected finite numbers.*row 1, column 0"):
            predict([[0.0, 1.0], [hole, 1.0]])


def test_row_that_overflows_gets_no_class() -> None:
    parameters = np.array([1e300] * 4 + [0.0] * 2 + [-1e300, 1e300, 1e300, 1e300] + [0.0] * 2)  # inf - inf
    model = TrainedModel(model=MLP((2, 2, 2), hidden="relu"), parameters=parameters, task="xor")
    with pytest.raises(BadData, match=r"too large numbers in row 1"):
        model.predict([[0.0, 0.0], [1e300, 1e300]])
    assert np.isnan(model.probabilities([[0.0, 0.0], [1e300, 1e300]])).tolist() == [[False] * 2, [True] * 2]


def test_parameters_of_another_model_are_rejected() -> None:
    with pytest.raises(BadConfiguration, match="22 parameters"):
        TrainedModel(model=MLP((2, 4, 2)), parameters=np.zeros(21), task="xor")


def test_saved_model_is_loaded_unchanged(tmp_path: Path) -> None:
    read = load_model(model_file(tmp_path, XOR.to_bytes()))
    assert (read.model, read.task) == (XOR.model, "xor")
    assert read.parameters.tobytes() == XOR.parameters.tobytes()


def test_bytes_of_a_model_are_those_of_every_version_of_python() -> None:
    data = TrainedModel(Linear(2, 1), np.arange(3.0), "t").to_bytes()
    assert hashlib.sha256(data).hexdigest()[:16] == "abe993130979e0f9"
    if sys.version_info >= (3, 11, 4):
        by_numpy = io.BytesIO()
        with np.load(io.BytesIO(data)) as arrays:
            np.savez(by_numpy, **arrays)
        assert data == by_numpy.getvalue()


def test_equal_models_have_equal_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    first = XOR.to_bytes()
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    again = TrainedModel(model=MLP([2, 4, 2]), parameters=np.ascontiguousarray(XOR.parameters[::-1])[::-1], task="xor")
    assert again.to_bytes() == first


def array_file(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PK",
        b"not a model",
        pickle.dumps({"genes": [1.0]}),
        XOR.to_bytes()[:-40],
        array_file(genes=np.zeros(22)),
        array_file(genes=np.zeros(22), description=np.array("{}")),
        array_file(genes=np.array([{}], dtype=object), description=np.array("{}")),
        TrainedModel(model=MLP((2, 4, 2)), parameters=np.full(22, np.nan), task="xor").to_bytes(),
    ],
    ids=["empty", "stub", "text", "pickle", "cut", "no description", "empty description", "objects", "not finite"],
)
def test_foreign_file_is_rejected_in_one_line(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(BadConfiguration, match=r"model\.npz") as rejection:
        load_model(model_file(tmp_path, data))
    assert "\n" not in str(rejection.value)


def bomb(member: str, size: int) -> bytes:
    """Return a small .npz file whose `member` claims, and unpacks to, `size` bytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (size,)})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("genes", "description"):
            with archive.open(f"{name}.npy", "w") as file:
                file.write(header.getvalue())
                if name == member:
                    for _ in range(size >> 20):
                        file.write(bytes(1 << 20))
    return buffer.getvalue()


@pytest.mark.parametrize("member", ["description", "genes"])
def test_archive_that_unpacks_to_more_than_a_model_is_not_unpacked(tmp_path: Path, member: str) -> None:
    path = model_file(tmp_path, bomb(member, 256 << 20))
    tracemalloc.start()
    with pytest.raises(BadConfiguration, match="array of 268435456 bytes"):
        load_model(path)
    assert tracemalloc.get_traced_memory()[1] < 16 << 20
    tracemalloc.stop()


def test_larger_file_than_any_model_is_not_read(tmp_path: Path) -> None:
    with model_file(tmp_path, b"PK").open("ab") as file:
        file.truncate(3 << 30)
    with pytest.raises(BadConfiguration, match=f"more than {MODEL_BYTES_MAX} bytes"):
        load_model(tmp_path / "model.npz")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadConfiguration, match=r"none\.npz.*No such file"):
        load_model(tmp_path / "none.npz")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(place=st.integers(0, len(XOR.to_bytes()) - 1), byte=st.integers(0, 255))
def test_damaged_byte_gives_the_model_or_a_rejection(
    tmp_path_factory: pytest.TempPathFactory, place: int, byte: int
) -> None:
    data = bytearray(XOR.to_bytes())
    data[place] = byte
    try:
        read = load_model(model_file(tmp_path_factory.getbasetemp(), bytes(data)))
    except BadConfiguration:
        return
    assert read.parameters.tobytes() == XOR.parameters.tobytes()
