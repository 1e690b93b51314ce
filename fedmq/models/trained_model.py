"""Trained models: predict, save, load."""

import io
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
from msgspec import Meta

from fedmq.errors import BadConfiguration, BadData, one_line
from fedmq.models.arrays import UNREADABLE, Floats, Integers, all_finite, read_array
from fedmq.models.networks import PARAMETERS_MAX, Code, LogLinear, Model, Network
from fedmq.models.trees import Trees
from fedmq.runtime.malformed import MALFORMED
from fedmq.runtime.safe_files import read_regular
from fedmq.tables.encoding import Encoded, encode_table
from fedmq.tables.preparation import Preparation
from fedmq.tables.schema import COLUMNS_MAX, Schema
from fedmq.tables.table import Table

_PARAMETERS_BYTES_MAX = 8 * PARAMETERS_MAX
_DESCRIPTION_BYTES_MAX = 1 << 26  # four a character; a schema may list many categories
_PREPARATION = ("column_shift", "column_scale", "column_fill")  # arrays of a model with a schema
_COLUMN_BYTES_MAX = 8 * COLUMNS_MAX
MODEL_BYTES_MAX = _PARAMETERS_BYTES_MAX + _DESCRIPTION_BYTES_MAX + (1 << 20)  # of a file

_DATE = 1 << 5 | 1  # of an entry, as MS-DOS has it: 1980-01-01
_SEE_EXTRA = 0xFFFFFFFF  # instead of a size of 32 bits

_UNREADABLE_MODEL: tuple[type[Exception], ...] = (*UNREADABLE, *MALFORMED, BadConfiguration)


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """A model with its parameters (num_parameters,) float64, and the name of the task it was trained for.

    The parameters of a model that is code are int64 if all of them are integer genes.
    A model of a task with a schema has the way from a table's cells to its inputs as `preparation`. It predicts from
    tables, another model from arrays of its inputs.

    Raises:
        BadConfiguration: the parameters or the preparation do not fit the model.
    """

    model: Model
    parameters: Floats  # or Integers
    task: str
    output_scale: float = 1.0  # of the task: a predicted value is the output of the network times this
    preparation: Preparation | None = None

    def __post_init__(self) -> None:
        if self.schema is not None:
            _check_fits(self.model, self.schema)
        types = (np.float64, np.int64) if isinstance(self.model, Code) else (np.float64,)
        if self.parameters.shape != (self.model.num_parameters,) or self.parameters.dtype not in types:
            raise BadConfiguration(
                f"expected {self.model.num_parameters} parameters of float64 for {self.model}, "
                f"got {self.parameters.dtype} of shape {self.parameters.shape}: give the parameters of one candidate"
            )

    @property
    def schema(self) -> Schema | None:
        """The columns that the model predicts from, by name; None for arrays of numbers."""
        return None if self.preparation is None else self.preparation.schema

    @property
    def classes(self) -> tuple[str, ...]:
        """The labels of the classes, in the order of `probabilities`; empty for a model of values."""
        if self.network().output != "softmax":
            return ()
        return self.schema.target.classes if self.schema else tuple(map(str, range(self.network().outputs)))

    def predict(self, rows: Any) -> npt.NDArray[Any]:
        """Return the class of each row, (rows,), for softmax; else the values, (rows,) or (rows, outputs) float64.

        With a schema, `rows` is a data frame, a mapping of columns by name, or a `Table`, with cells as they are in
        files; or what `encode` returned. A class is its label, (rows,) str. A row without a cell that the schema
        requires is not predicted: its class is "", its value NaN. Without a schema, `rows` is an array (rows, inputs)
        or a list of lists, and a class int64.

        Raises:
            BadData: columns or cells that do not fit the schema; without one, another number of columns than the model
                has inputs, text, or numbers that are not finite. An array for a model with a schema.
            BadConfiguration: the model is code, which fedmq can only score.
        """
        network = self.network()
        if self.schema is None:
            return self._predicted(self._raw(rows))
        encoded = self.encode(rows)
        predicted, without = self._predicted(self._of_columns(encoded)), incomplete(self.schema, encoded)
        if network.output == "softmax":
            predicted = np.array(self.classes)[predicted]
            predicted[without] = ""
        else:
            predicted[without] = np.nan
        return predicted

    def probabilities(self, rows: Any) -> Floats:
        """Return the probability of each class for each row, (rows, classes) float64; NaN where the model overflows.

        `rows` as for `predict`; NaN also for a row that is not predicted.

        Raises:
            BadConfiguration: the model gives values, not classes.
            BadData: as `predict`.
        """
        if self.network().output != "softmax":
            raise BadConfiguration(
                f"expected a model with softmax output, got {self.model}, which has no probabilities: use predict"
            )
        if self.schema is None:
            return _softmax(self._raw(rows))
        encoded = self.encode(rows)
        probabilities = _softmax(self._of_columns(encoded))
        probabilities[incomplete(self.schema, encoded)] = np.nan
        return probabilities

    def encode(self, rows: Any) -> Encoded:
        """Return rows as `predict` takes them as numbers, for several calls; `notes` say what does not fit.

        Raises:
            BadData: as `predict`.
            BadConfiguration: the model has no schema.
        """
        if self.schema is None:
            raise BadConfiguration(f"expected a model with a schema, got that of task {self.task}, which has none")
        if isinstance(rows, Encoded):
            return rows
        if isinstance(rows, np.ndarray | list | tuple):
            raise BadData(
                f"expected columns by name for task {self.task}, got {type(rows).__name__}: give a data frame, or a "
                f'mapping such as {{"{self.schema.columns[0].name}": [...], ...}}'
            )
        table = rows if isinstance(rows, Table) else Table.from_frame(rows, "the rows")
        return encode_table(self.schema, table, targets=False)

    def to_bytes(self) -> bytes:
        """Return the bytes of an .npz file for `load_model`, without any pickle; equal models give equal bytes."""
        scale = msgspec.UNSET if self.output_scale == 1.0 else self.output_scale
        schema = msgspec.UNSET if self.schema is None else self.schema
        description = msgspec.json.encode(
            _Description(model=self.model, task=self.task, output_scale=scale, schema=schema)
        ).decode()
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            kind = "<i8" if self.parameters.dtype == np.int64 else "<f8"
            _add_array(archive, "genes", self.parameters.astype(kind))  # the name is part of the file format
            _add_array(archive, "description", np.array(description, dtype="<U"))
            if self.preparation is not None:
                arrays = (self.preparation.shift, self.preparation.scale, self.preparation.fill)
                for name, array in zip(_PREPARATION, arrays, strict=True):
                    _add_array(archive, name, array.astype("<f8"))
        return buffer.getvalue()

    def network(self) -> Network:
        """Return the model if fedmq can evaluate it.

        Raises:
            BadConfiguration: the model is code.
        """
        if isinstance(self.model, Code):
            raise BadConfiguration(
                f"expected a model that fedmq can evaluate, got one that is code, of task {self.task}: "
                "give its `parameters` to a function of your own"
            )
        return self.model

    def _predicted(self, raw: Floats) -> npt.NDArray[Any]:
        """Return classes (rows,) int64, or values, of raw outputs (rows, outputs)."""
        if self.network().output == "softmax":
            classes: Integers = _comparable(raw).argmax(axis=1)
            return classes
        values = raw if self.output_scale == 1.0 else raw * self.output_scale
        return values.ravel() if values.shape[1] == 1 else values

    def _of_columns(self, encoded: Encoded) -> Floats:
        """Return the raw outputs (rows, outputs) of encoded rows."""
        assert self.preparation is not None
        network = self.network()
        inputs = encoded.columns if isinstance(network, Trees) else self.preparation.features(encoded.columns)
        outputs: Floats = network.forward(self.parameters[None, :], inputs)[0]
        if encoded.offsets is None:
            return outputs
        if isinstance(network, LogLinear) or (isinstance(network, Trees) and network.counts):
            return outputs * np.exp(encoded.offsets)[:, None]
        outputs[:, -1] += encoded.offsets / self.output_scale
        return outputs

    def _raw(self, rows: npt.ArrayLike) -> Floats:
        """Return the raw outputs, (rows, outputs)."""
        try:
            inputs = np.asarray(rows, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise BadData(f"expected rows of {self.model.inputs} numbers, got {one_line(error)}") from error
        if inputs.ndim != 2 or inputs.shape[1] != self.model.inputs:
            raise BadData(
                f"expected rows of {self.model.inputs} columns for task {self.task}, got shape {inputs.shape}: "
                f"give a table of shape (rows, {self.model.inputs})"
            )
        if not all_finite(inputs):
            row, column = np.argwhere(~np.isfinite(inputs))[0]
            raise BadData(
                f"expected finite numbers for task {self.task}, got {inputs[row, column]} in row {row}, column "
                f"{column} (counted from 0): fill in or drop what is missing"
            )
        outputs: Floats = self.network().forward(self.parameters[None, :], inputs)[0]
        return outputs


class _Entry(zipfile.ZipInfo):
    """An entry of an .npz file with the header that np.savez gets from Python 3.11.4 and later.

    Earlier versions write another one, and the same model would have another hash there.
    """

    def FileHeader(self, zip64: bool | None = None) -> bytes:  # noqa: N802  of the base class
        """Return the local header: sizes of 64 bits in an extra field."""
        self.create_version = self.extract_version = zipfile.ZIP64_VERSION
        name, extra = self.filename.encode(), struct.pack("<HHQQ", 1, 16, self.file_size, self.compress_size)
        fields = (self.extract_version, 0, self.compress_type, 0, _DATE, self.CRC, _SEE_EXTRA, _SEE_EXTRA)
        return b"PK\3\4" + struct.pack("<5H3L2H", *fields, len(name), len(extra)) + name + extra


def _add_array(archive: zipfile.ZipFile, name: str, array: npt.NDArray[Any]) -> None:
    entry = io.BytesIO()
    np.lib.format.write_array(entry, array, allow_pickle=False)
    archive.writestr(_Entry(f"{name}.npy"), entry.getvalue())


def incomplete(schema: Schema, encoded: Encoded) -> npt.NDArray[np.bool_]:
    """Return whether each row is without a value that the schema requires, (rows,)."""
    required = [place for place, column in enumerate(schema.columns) if column.missing == "drop"]
    gaps: npt.NDArray[np.bool_] = np.isnan(encoded.columns[:, required])
    return gaps @ np.ones(len(required), np.bool_)


def _softmax(raw: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        weights = np.exp(raw - raw.max(axis=1, keepdims=True))
        probabilities: Floats = weights / weights.sum(axis=1, keepdims=True)
    return probabilities


def _check_fits(model: Model, schema: Schema) -> None:
    """Check that a model takes the features of a schema, and has an output for each class."""
    if isinstance(model, Code):
        raise BadConfiguration("expected no schema beside a model that is code, got one")
    inputs = len(schema.columns) if isinstance(model, Trees) else schema.num_features
    if model.inputs != inputs:
        raise BadConfiguration(f"expected a model of {inputs} inputs for the schema, got {model}")
    if isinstance(model, Trees) and any(sizes := categories_of(schema)) and model.categories != sizes:
        raise BadConfiguration(f"expected a forest with categories={sizes} for the schema, got {model}")
    if (model.output == "softmax") != (schema.target.kind == "class"):
        raise BadConfiguration(f"expected a softmax model for classes and no other, got {model}")
    if schema.target.kind == "class" and model.outputs != len(schema.target.classes):
        raise BadConfiguration(f"expected a model of {len(schema.target.classes)} classes for the schema, got {model}")


def categories_of(schema: Schema) -> tuple[int, ...]:
    """Return the number of categories of each column, 0 for numbers, as a forest has them."""
    return tuple(len(column.categories) if column.kind == "category" else 0 for column in schema.columns)


def _comparable(raw: Floats) -> Floats:
    """Check that each row has numbers to choose a class by: NaN would silently be the first class."""
    if np.isnan(raw).any():
        row = np.argwhere(np.isnan(raw))[0][0]
        raise BadData(f"expected rows that the model can compute with, got too large numbers in row {row}: scale them")
    return raw


class _Description(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The JSON next to the parameters in a model file."""

    format: Literal["fedmq-model-1"] = "fedmq-model-1"
    model: Model
    task: str
    output_scale: Annotated[float, Meta(gt=0)] | msgspec.UnsetType = msgspec.UNSET  # UNSET: 1
    schema: Schema | msgspec.UnsetType = msgspec.UNSET


def load_model(path: str | Path) -> TrainedModel:
    """Read a file that holds `TrainedModel.to_bytes()`, without unpickling anything.

    Raises:
        BadConfiguration: the file is missing, damaged, or not a model of fedmq.
    """
    try:
        return _read_model(read_regular(Path(path), MODEL_BYTES_MAX))
    except OSError as error:
        raise BadConfiguration(f"{path}: expected a model file, got: {error.strerror}") from error
    except _UNREADABLE_MODEL as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadConfiguration(
            f"{path}: expected a model that fedmq saved, got a damaged or foreign file ({reason}): copy it again"
        ) from error


def _read_model(data: bytes) -> TrainedModel:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:  # numpy.load would also accept a bare .npy, or a large array
        with archive.open("description.npy") as file:
            text = str(read_array(file, _DESCRIPTION_BYTES_MAX)[()])
        description = msgspec.json.decode(text, type=_Description)
        with archive.open("genes.npy") as file:
            parameters = read_array(file, _PARAMETERS_BYTES_MAX)
        preparation = None
        if description.schema is not msgspec.UNSET:
            preparation = Preparation(description.schema, *(_read_column(archive, name) for name in _PREPARATION))
    if not all_finite(parameters):
        raise ValueError("parameters that are not finite")
    scale = 1.0 if description.output_scale is msgspec.UNSET else description.output_scale
    if parameters.dtype.kind != "i" or not isinstance(description.model, Code):
        parameters = parameters.astype(np.float64, copy=False)
    return TrainedModel(description.model, parameters, description.task, scale, preparation)


def _read_column(archive: zipfile.ZipFile, name: str) -> Floats:
    with archive.open(f"{name}.npy") as file:
        array = read_array(file, _COLUMN_BYTES_MAX)
    if array.dtype.kind != "f":
        raise ValueError(f"{name} of dtype {array.dtype}")
    return array.astype(np.float64, copy=False)
