"""A trained model as an ONNX graph that takes raw cells: filling in, standardizing and categories are part of it.

A number is an input (rows, 1) of float64, NaN where it is missing; a category or an ordinal one of strings. All
arithmetic is in float64, so the graph predicts what `TrainedModel.predict` predicts, but for the last digits.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from fedmq.errors import BadConfiguration
from fedmq.exact.fourier import COSINE_BITS, TURN_BITS
from fedmq.models.exports.layout import layers
from fedmq.models.fourier import ANGLE_FRACTION_BITS, ROW_FRACTION_BITS, ROW_INTEGER_BITS, Fourier
from fedmq.models.networks import MLP, LogLinear
from fedmq.models.trained_model import TrainedModel
from fedmq.tables.labels import label_key
from fedmq.tables.preparation import Preparation
from fedmq.tables.schema import Column

if TYPE_CHECKING:
    import onnx

OPSET, ML_OPSET, IR_VERSION = 17, 3, 8  # those of ONNX 1.12: every runtime in use reads them
ML_DOMAIN = "ai.onnx.ml"
ROWS = "rows"  # the input of a model without a schema
PREDICTION, PROBABILITIES = "prediction", "probabilities"
INNER = "fedmq:"  # begins the names of inner values


def to_onnx(trained: TrainedModel) -> bytes:
    """Return the bytes of an ONNX file.

    Its inputs are the columns of the schema by name, or `rows` (rows, inputs) for a model without one. Its outputs are
    `prediction` (rows,), the labels as strings, or int64 without a schema, or values (rows,) or (rows, outputs); and
    for classes `probabilities` (rows, classes).

    Raises:
        BadConfiguration: the model is code, the package onnx is missing, or a column has the name of an output.
    """
    builder = _Builder()
    _Graph(builder, trained).build()
    content: bytes = builder.model(trained).SerializeToString()
    return content


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise BadConfiguration(f'expected the package onnx, got {error}: pip install "fedmq[export]"') from error
    return onnx


class _Builder:
    """Collects the nodes, constants, inputs and outputs of a graph; values have numbers as names."""

    def __init__(self) -> None:
        self.onnx = _onnx()
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, kind: npt.DTypeLike, columns: int) -> str:
        """Add an input (rows, columns)."""
        self.inputs.append(self._value(name, kind, ["rows", columns]))
        return name

    def output(self, value: str, name: str, kind: npt.DTypeLike, *more: int) -> None:
        """Add an output (rows, *more) with this value."""
        self.nodes.append(self.onnx.helper.make_node("Identity", [value], [name]))
        self.outputs.append(self._value(name, kind, ["rows", *more]))

    def constant(self, array: npt.ArrayLike) -> str:
        name = f"{INNER}c{len(self.constants)}"
        self.constants.append(self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def add(self, operator: str, *inputs: str, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output, and return the output's name."""
        name = f"{INNER}v{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, [name], domain=domain, **attributes))
        return name

    def number(self, value: str) -> str:
        """Return a value as float64."""
        return self.add("Cast", value, to=self.onnx.TensorProto.DOUBLE)

    def model(self, trained: TrainedModel) -> Any:
        helper = self.onnx.helper
        graph = helper.make_graph(self.nodes, trained.task, self.inputs, self.outputs, self.constants)
        imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(ML_DOMAIN, ML_OPSET)]
        model = helper.make_model(graph, producer_name="fedmq", opset_imports=imports, ir_version=IR_VERSION)
        helper.set_model_props(model, {"task": trained.task, "classes": json.dumps(trained.classes)})
        return model

    def _value(self, name: str, kind: npt.DTypeLike, shape: Sequence[str | int]) -> Any:
        helper = self.onnx.helper
        dtype = np.dtype(kind)
        element = self.onnx.TensorProto.STRING if dtype.kind == "U" else helper.np_dtype_to_tensor_dtype(dtype)
        return helper.make_tensor_value_info(name, element, shape)


class _Graph:
    """Adds the nodes of a model to a builder."""

    def __init__(self, builder: _Builder, trained: TrainedModel) -> None:
        self.builder, self.trained, self.model = builder, trained, trained.network()
        self.incomplete: str | None = None  # (rows, 1) bool: without a value that the schema requires

    def build(self) -> None:
        preparation = self.trained.preparation
        if preparation is None:
            features = self.builder.input(ROWS, np.float64, self.model.inputs)
        else:
            features = self._features(preparation)
        outputs = self._fourier(features) if isinstance(self.model, Fourier) else self._network(features)
        if self.trained.schema is not None and self.trained.schema.offset:
            outputs = self._with_offset(outputs, self.trained.schema.offset)
        if self.model.output == "softmax":
            self._classes(outputs)
        else:
            self._values(outputs)

    def _features(self, preparation: Preparation) -> str:
        """Return the features (rows, features) of raw columns, as `Preparation.features` computes them."""
        for name in preparation.schema.names():
            if name in (PREDICTION, PROBABILITIES) or name.startswith(INNER):
                raise BadConfiguration(f"expected no column with the name of an output, got {name!r}: export to json")
        pieces = [
            self._category(column)
            if column.kind == "category"
            else self._standardized(column, preparation.shift[place], preparation.scale[place], preparation.fill[place])
            for place, column in enumerate(preparation.schema.columns)
        ]
        return self.builder.add("Concat", *pieces, axis=1)

    def _codes(self, column: Column, missing: int) -> str:
        """Return the place (rows, 1) int64 of each cell in the categories; `missing` for any other cell."""
        places = {spelling: place for place, label in enumerate(column.categories) for spelling in _spellings(label)}
        codes = self.builder.add(
            "LabelEncoder",
            self.builder.input(column.name, np.str_, 1),
            domain=ML_DOMAIN,
            keys_strings=list(places),
            values_int64s=list(places.values()),
            default_int64=missing,
        )
        self._require(column, self.builder.add("Equal", codes, self.builder.constant([missing])))
        return codes

    def _category(self, column: Column) -> str:
        levels = column.num_features
        codes = self._codes(column, levels)
        hot = self.builder.add("Equal", codes, self.builder.constant(np.arange(1, levels + 1)[None, :]))
        return self.builder.number(hot)

    def _standardized(self, column: Column, shift: float, scale: float, fill: float) -> str:
        add, constant = self.builder.add, self.builder.constant
        if column.kind == "ordinal":
            codes = self._codes(column, -1)
            missing = add("Equal", codes, constant([-1]))
            cells = self.builder.number(codes)
        else:
            cells = self.builder.input(column.name, np.float64, 1)
            missing = add("IsNaN", cells)
            self._require(column, missing)
        filled = add("Where", missing, constant([fill]), cells)
        return add("Div", add("Sub", filled, constant([shift])), constant([scale]))

    def _require(self, column: Column, missing: str) -> None:
        """Predict nothing for rows with a missing (rows, 1) cell of a column that the schema requires."""
        if column.missing == "drop":
            self.incomplete = missing if self.incomplete is None else self.builder.add("Or", self.incomplete, missing)

    def _with_offset(self, outputs: str, name: str) -> str:
        offset = self.builder.input(name, np.float64, 1)
        if isinstance(self.model, LogLinear):
            return self.builder.add("Mul", outputs, self.builder.add("Exp", offset))
        offset = self.builder.add("Div", offset, self.builder.constant(self.trained.output_scale))
        return self.builder.add("Add", outputs, offset)

    def _network(self, features: str) -> str:
        add, constant = self.builder.add, self.builder.constant
        values = features
        for place, layer in enumerate(layers(self.trained)):
            if place and isinstance(self.model, MLP):
                values = add({"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}[self.model.hidden], values)
            values = add("Add", add("MatMul", values, constant(layer.weights)), constant(layer.biases))
        return add("Exp", values) if isinstance(self.model, LogLinear) else values

    def _fourier(self, features: str) -> str:
        """Return the outputs of a Fourier model, as `Fourier.integer_features` computes them: angles are integers."""
        add, constant, model = self.builder.add, self.builder.constant, self.model
        assert isinstance(model, Fourier)
        means, deviations, weights, biases = model.layers(self.trained.parameters)
        directions, phases = model.directions()
        turn, limit = float(1 << TURN_BITS), float(1 << ROW_FRACTION_BITS + ROW_INTEGER_BITS)
        rows = add("Sub", features, constant(means))
        rows = add("Div", rows, constant(np.where(deviations == 0.0, 1.0, deviations)))
        rows = add("Round", add("Mul", rows, constant(2.0**ROW_FRACTION_BITS)))
        rows = add("Min", add("Max", rows, constant(-limit)), constant(limit))
        angles = add("Mul", add("MatMul", rows, constant(directions)), constant(2.0**-ANGLE_FRACTION_BITS))
        angles = add("Add", add("Round", angles), constant(phases))
        whole = add("Mul", add("Floor", add("Mul", angles, constant(1.0 / turn))), constant(turn))
        angles = add("Mul", add("Sub", angles, whole), constant(2.0 * math.pi / turn))
        cosines = add("Sin", add("Add", angles, constant(math.pi / 2.0)))
        cosines = add("Round", add("Mul", cosines, constant(2.0**COSINE_BITS)))
        hidden = add("Mul", cosines, constant(2.0**-COSINE_BITS))
        return add("Add", add("MatMul", hidden, constant(weights)), constant(biases))

    def _classes(self, outputs: str) -> None:
        builder, labels = self.builder, self.trained.classes
        codes = builder.add("ArgMax", outputs, axis=1, keepdims=1)
        probabilities = self._or_nan(builder.add("Softmax", outputs, axis=1))
        if self.trained.schema is None:
            builder.output(self._flat(codes), PREDICTION, np.int64)
        else:
            if self.incomplete is not None:
                codes = builder.add("Where", self.incomplete, builder.constant([-1]), codes)
            named = builder.add(
                "LabelEncoder",
                codes,
                domain=ML_DOMAIN,
                keys_int64s=list(range(len(labels))),
                values_strings=list(labels),
                default_string="",
            )
            builder.output(self._flat(named), PREDICTION, np.str_)
        builder.output(probabilities, PROBABILITIES, np.float64, len(labels))

    def _values(self, outputs: str) -> None:
        builder = self.builder
        if self.trained.output_scale != 1.0:
            outputs = builder.add("Mul", outputs, builder.constant(self.trained.output_scale))
        outputs = self._or_nan(outputs)
        if self.model.outputs == 1:
            builder.output(self._flat(outputs), PREDICTION, np.float64)
        else:
            builder.output(outputs, PREDICTION, np.float64, self.model.outputs)

    def _or_nan(self, values: str) -> str:
        if self.incomplete is None:
            return values
        return self.builder.add("Where", self.incomplete, self.builder.constant([np.nan]), values)

    def _flat(self, values: str) -> str:
        """Return values (rows, 1) as (rows,)."""
        return self.builder.add("Squeeze", values, self.builder.constant([1]))


def _spellings(label: str) -> list[str]:
    """Return the usual texts of cells that are this label: of a number also 1 and 1.0, of a truth value all cases."""
    key, spellings = label_key(label), {label, label.strip()}
    if isinstance(key, int | float):
        spellings |= {str(key), repr(float(key))}
        spellings |= {str(int(key))} if float(key).is_integer() else set()
    elif key in ("true", "false"):
        spellings |= {str(key), str(key).title(), str(key).upper()}
    return sorted(spellings - {""})
