"""Tasks about tables as data: a TOML file with the target, the columns by name, and perhaps a model.

    name = "tumor"

    [target]
    name = "diagnosis"
    kind = "class"
    classes = ["B", "M"]

    [columns]
    age = { kind = "number", unit = "years" }
    stage = { kind = "category", categories = ["I", "II", "III"] }
    patient = { kind = "ignored" }

`fedmq new` writes one from a table.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta
from msgspec.structs import replace

from fedmq.errors import BadConfiguration, one_line
from fedmq.models.fourier import Fourier
from fedmq.models.networks import MLP, Linear, LogLinear, Model
from fedmq.models.torch_modules import torch_model
from fedmq.models.trees import Trees
from fedmq.names import Name
from fedmq.runtime.safe_files import read_regular
from fedmq.tables.schema import COLUMNS_MAX, MISSING_CELLS, Bounds, Column, DateForm, Fill, Label, Schema, Target
from fedmq.tasks.factories import factory_of
from fedmq.tasks.task import Task

SUFFIX = ".toml"
BYTES_MAX = 4 << 20
HOLDOUT = 0.2
ROUNDS = 200
HIDDEN = (16,)  # of a network, unless the file says otherwise
DEFAULT_ALGORITHM = "boosting"  # fits most tables as they are: gaps, categories, any scale, classes that are separable

ColumnKind = Literal["number", "category", "ordinal", "boolean", "date", "ignored", "weight", "offset"]
ModelKind = Literal["linear", "network", "random-features", "trees", "torch"]
MODELS: Mapping[str, ModelKind] = {
    "newton": "linear",
    "ridge": "linear",
    "statistics": "linear",
    "boosting": "trees",
}  # of an algorithm, unless the file says otherwise
Struct = TypeVar("Struct", bound=msgspec.Struct)


class FileColumn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A column in the file: an input of the kind of `Column`, or one that is ignored, the weight or the offset."""

    kind: ColumnKind
    categories: tuple[Label, ...] = ()
    missing: Fill = "median"
    missing_cells: tuple[Label, ...] = ()
    form: DateForm = "YYYY-MM-DD"
    strip: Label = ""
    unit: str = ""
    bounds: Bounds | None = None


class FileTarget(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The target in the file; `scale` is the unit of a number's errors, see `Task.output_scale`."""

    name: Label
    kind: Literal["class", "number", "count"]
    classes: tuple[Label, ...] = ()
    missing: Literal["drop", "refuse"] = "drop"
    scale: float = 1.0
    unit: str = ""
    bounds: Bounds | None = None


class FileModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model in the file; its inputs and outputs follow from the columns and the target."""

    kind: ModelKind
    hidden: tuple[int, ...] = HIDDEN  # units of each hidden layer of a network
    activation: Literal["relu", "tanh", "sigmoid"] = "relu"  # of a network
    features: int = 768  # random features
    trees: int = 100  # rounds of boosting at most
    depth: int = 6  # of each tree
    factory: str = ""  # of torch: FILE.py:NAME beside this file, or package.module:NAME
    train: tuple[str, ...] = ("*",)  # patterns of names in the state dict of torch
    freeze: tuple[str, ...] = ()


class TaskFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A file as it is written; `task_of` makes a task of it."""

    name: Name
    target: FileTarget
    columns: Annotated[Mapping[str, FileColumn], Meta(max_length=COLUMNS_MAX)]
    model: FileModel | None = None  # None: the algorithm decides
    algorithm: str = DEFAULT_ALGORITHM
    holdout: float = HOLDOUT
    rounds: int | None = None  # at most; None: 200, and for trees one for each of their levels
    missing_cells: tuple[Label, ...] = MISSING_CELLS
    parameters: Mapping[str, dict[str, Any]] = {}  # of algorithms, by name


def is_task_data(name_or_path: str) -> bool:
    """Return whether a task is a file of data."""
    return name_or_path.endswith(SUFFIX)


def read_task_file(path: Path) -> TaskFile:
    """Read a task file.

    Raises:
        BadConfiguration: it cannot be read, is no TOML, or has unknown keys or wrong values.
    """
    try:
        text = read_regular(path, BYTES_MAX).decode("utf-8-sig")
    except OSError as error:
        why = (error.strerror or one_line(error)).lower()
        raise BadConfiguration(f"{path}: expected a task file, got {why}: write one with fedmq new") from error
    except UnicodeDecodeError as error:
        raise BadConfiguration(f"{path}: expected text in UTF-8, got {one_line(error)}: save it as UTF-8") from error
    try:
        return _beside(parse_task_file(text), path)
    except BadConfiguration as error:
        raise BadConfiguration(f"{path}: {error}") from error


def _beside(file: TaskFile, path: Path) -> TaskFile:
    """Return the file with the path of a factory that lies beside it."""
    model = file.model
    if model is None or not model.factory.rpartition(":")[0].endswith(".py"):
        return file
    return replace(file, model=replace(model, factory=str(path.parent / model.factory)))


def parse_task_file(text: str) -> TaskFile:
    """Return the task file with this text; errors as `read_task_file`."""
    try:
        values = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise BadConfiguration(f"expected TOML, got {one_line(error)}") from error
    columns = values.get("columns", {})
    if not isinstance(columns, dict):
        raise BadConfiguration(f"columns: expected a table of columns by name, got {type(columns).__name__}")
    parts = {
        "columns": {name: _convert(one, FileColumn, f"columns.{name:.80}") for name, one in columns.items()},
        "target": _convert(values.get("target", {}), FileTarget, "target"),
    }
    if "model" in values:
        parts["model"] = _convert(values["model"], FileModel, "model")
    return _convert({**values, **parts}, TaskFile, "")


def task_of(file: TaskFile, algorithm: str | None = None) -> Task:
    """Return the task of a file, for the `algorithm` that is given, else for its own.

    Without a model, the algorithm decides: a linear model for `newton`, `ridge` and `statistics`, trees for `boosting`,
    a network with one hidden layer for the others.

    Raises:
        BadConfiguration: columns, target and model do not fit each other.
    """
    chosen = algorithm or file.algorithm
    schema = _schema_of(file)
    model = file.model or FileModel(MODELS.get(chosen, "network"))
    is_class = file.target.kind == "class"
    return Task(
        name=file.name,
        model=_model_of(model, schema),
        loss="cross-entropy" if is_class else "squared-error",
        metric="accuracy" if is_class else "loss",
        rounds=file.rounds or (ROUNDS if model.kind != "trees" else ROUNDS + model.trees * model.depth),
        parameters=dict(file.parameters),
        output_scale=file.target.scale,
        schema=schema,
        holdout=file.holdout,
        algorithm=chosen,
    )


def _schema_of(file: TaskFile) -> Schema:
    roles: dict[str, list[str]] = {"ignored": [], "weight": [], "offset": []}
    inputs = []
    for name, one in file.columns.items():
        if one.kind in roles:
            roles[one.kind].append(name)
        elif name == file.target.name:
            raise BadConfiguration(f"columns.{name:.80}: expected columns beside the target, got the target: remove it")
        else:
            inputs.append(_convert({"name": name, **msgspec.to_builtins(one)}, Column, f"columns.{name:.80}"))
    for role in ("weight", "offset"):
        if len(roles[role]) > 1:
            raise BadConfiguration(f'columns: expected one column of kind "{role}", got {", ".join(roles[role])}')
    if not inputs:
        raise BadConfiguration("columns: expected at least one that is not ignored, got none: give one a kind")
    target = file.target
    return Schema(
        columns=tuple(inputs),
        target=Target(
            name=target.name,
            kind=target.kind,
            classes=target.classes,
            missing=target.missing,
            unit=target.unit,
            bounds=target.bounds,
        ),
        weight=next(iter(roles["weight"]), ""),
        offset=next(iter(roles["offset"]), ""),
        ignored=tuple(roles["ignored"]),
        missing_cells=file.missing_cells,
    )


def _model_of(model: FileModel, schema: Schema) -> Model:
    inputs, classes = schema.num_features, len(schema.target.classes)
    output: Literal["softmax", "identity"] = "softmax" if classes else "identity"
    match model.kind:
        case "network":
            return MLP((inputs, *model.hidden, classes or 1), hidden=model.activation, output=output)
        case "trees":
            categories = tuple(len(one.categories) if one.kind == "category" else 0 for one in schema.columns)
            return Trees(
                len(schema.columns),
                classes or 1,
                output,
                trees=model.trees,
                depth=model.depth,
                counts=schema.target.kind == "count",
                categories=categories if any(categories) else (),
            )
        case "random-features":
            return Fourier(inputs, classes or 1, features=model.features, output=output)
        case "torch":
            return torch_model(
                factory_of(model.factory),
                inputs=inputs,
                outputs=classes or 1,
                output=output,
                train=model.train,
                freeze=model.freeze,
            )
        case "linear" if classes:
            return MLP((inputs, classes))
        case "linear":
            return LogLinear(inputs) if schema.target.kind == "count" else Linear(inputs)


def _convert(values: object, kind: type[Struct], where: str) -> Struct:
    """Return TOML values as a struct; `where` names them in errors."""
    at = f"{where}: " if where else ""
    if not isinstance(values, dict):
        raise BadConfiguration(f"{at}expected a table such as {{ kind = ... }}, got {values!r:.80}")
    hints = get_type_hints(kind)
    for key, value in values.items():
        if key not in hints:
            near = get_close_matches(key, hints, 1)
            known = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(hints)}"
            raise BadConfiguration(f"{at}unknown key {key!r:.80}; {known}")
        if get_origin(hints[key]) is Literal and value not in get_args(hints[key]):
            allowed = ", ".join(get_args(hints[key]))
            raise BadConfiguration(f"{at}expected {key} to be one of {allowed}, got {value!r:.80}")
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        text = one_line(error).replace(" - at `$.", ", at `")
        for ours, theirs in (("expected the key", "Object missing required field"), ("expected", "Expected")):
            text = text.replace(theirs, ours, 1)
        raise BadConfiguration(f"{at}{text}") from error
