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
from fedmq.models.exports.onnx_trees import ensemble
from fedmq.models.fourier import ANGLE_FRACTION_BITS, ROW_FRACTION_BITS, ROW_INTEGER_BITS, Fourier
from fedmq.models.networks import MLP, LogLinear
from fedmq.models.trained_model import TrainedModel
from fedmq.models.trees import Trees
from fedmq.tables.labels import label_key
from fedmq.tables.preparation import Preparation
from fedmq.tables.schema import Column, Schema

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
        if preparation is not None:
            _check_names(preparation.schema)
        if isinstance(self.model, Trees):
            outputs = self._trees(self.model)
        else:
            if preparation is None:
                features = self.builder.input(ROWS, np.float64, self.model.inputs)
            else:
                features = self._features(preparation)
            outputs = self._fourier(features) if isinstance(self.model, Fourier) else self._network(features)
        if self.trained.schema is not None and self.trained.schema.offset:
            outputs = self._with_offset(outputs, self.trained.schema.offset)
        if isinstance(self.model, LogLinear) or (isinstance(self.model, Trees) and self.model.counts):
            outputs = self.builder.add("Exp", outputs)
        if self.model.output == "softmax":
            self._classes(outputs)
        else:
            self._values(outputs)

    def _features(self, preparation: Preparation) -> str:
        """Return the features (rows, features) of raw columns, as `Preparation.features` computes them."""
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
        cells = self._numbers(column)
        filled = add("Where", add("IsNaN", cells), constant([fill]), cells)
        return add("Div", add("Sub", filled, constant([shift])), constant([scale]))

    def _numbers(self, column: Column) -> str:
        """Return the cells (rows, 1) of a column that is no category as float64, NaN for what is missing."""
        add, constant = self.builder.add, self.builder.constant
        if column.kind == "ordinal":
            codes = self._codes(column, -1)
            return add("Where", add("Equal", codes, constant([-1])), constant([np.nan]), self.builder.number(codes))
        cells = self.builder.input(column.name, np.float64, 1)
        self._require(column, add("IsNaN", cells))
        return cells

    def _require(self, column: Column, missing: str) -> None:
        """Predict nothing for rows with a missing (rows, 1) cell of a column that the schema requires."""
        if column.missing == "drop":
            self.incomplete = missing if self.incomplete is None else self.builder.add("Or", self.incomplete, missing)

    def _with_offset(self, outputs: str, name: str) -> str:
        """Return the outputs with the offset of each row, which is added to the last one."""
        last = np.zeros(self.model.outputs)
        last[-1] = 1.0 / self.trained.output_scale
        offset = self.builder.add("Mul", self.builder.input(name, np.float64, 1), self.builder.constant(last))
        return self.builder.add("Add", outputs, offset)

    def _network(self, features: str) -> str:
        add, constant = self.builder.add, self.builder.constant
        values = features
        for place, layer in enumerate(layers(self.trained)):
            if place and isinstance(self.model, MLP):
                values = add({"relu": "Relu", "tanh": "Tanh", "sigmoid": "Sigmoid"}[self.model.hidden], values)
            values = add("Add", add("MatMul", values, constant(layer.weights)), constant(layer.biases))
        return values

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

    def _trees(self, model: Trees) -> str:
        """Return the outputs of a forest."""
        add, constant, builder = self.builder.add, self.builder.constant, self.builder
        schema, parameters = self.trained.schema, self.trained.parameters
        if schema is None and any(model.categories):
            raise BadConfiguration("expected a forest of numbers for a task without a schema: export to json")
        columns = () if schema is None else schema.columns
        categories = [place for place, column in enumerate(columns) if column.kind == "category"]
        numbers = [place for place in range(model.inputs) if place not in categories]
        forest = ensemble(model, parameters, numbers)
        if schema is None:
            pieces = [builder.input(ROWS, np.float64, model.inputs)]
        else:
            cells = {place: self._numbers(columns[place]) for place in numbers}
            codes = {place: self._codes(columns[place], len(columns[place].categories)) for place in categories}
            pieces = list(cells.values())
            for place, sets in forest.sets.items():  # a row of its own for each category, and last for missing
                pieces.append(add("Gather", constant(sets), self._flat(codes[place]), axis=0))
            pieces = pieces or [builder.number(codes[0])]  # a forest without any split
        scores = add(
            "TreeEnsembleRegressor",
            add("Concat", *pieces, axis=1),
            domain=ML_DOMAIN,
            n_targets=2 * model.scores,
            nodes_values_as_tensor=builder.onnx.numpy_helper.from_array(forest.thresholds),
            target_weights_as_tensor=builder.onnx.numpy_helper.from_array(forest.weights),
            **forest.attributes,
        )
        placed = np.zeros((2 * model.scores, model.outputs))  # both parts of a score; of two classes, the second one's
        for score in range(model.scores):
            placed[[score, model.scores + score], model.outputs - model.scores + score] = 1.0
        sums = add("MatMul", builder.number(scores), constant(placed))
        return add("Add", sums, constant(model.split_parameters(parameters)[1]))

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


def _check_names(schema: Schema) -> None:
    for name in schema.names():
        if name in (PREDICTION, PROBABILITIES) or name.startswith(INNER):
            raise BadConfiguration(f"expected no column with the name of an output, got {name!r}: export to json")


def _spellings(label: str) -> list[str]:
    """Return the usual texts of cells that are this label: of a number also 1 and 1.0, of a truth value all cases."""
    key, spellings = label_key(label), {label, label.strip()}
    if isinstance(key, int | float):
        spellings |= {str(key), repr(float(key))}
        spellings |= {str(int(key))} if float(key).is_integer() else set()
    elif key in ("true", "false"):
        spellings |= {str(key), str(key).title(), str(key).upper()}
    return sorted(spellings - {""})
