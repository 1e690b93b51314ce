"""Typed parameters of an algorithm: default, then the task's, then the settings'; each checked in one clear line."""

import difflib
import json
import math
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from fedmq.algorithms.base import Strategy
from fedmq.errors import BadConfiguration, one_line

PYTHON: Mapping[str, Any] = {"True": True, "False": False, "None": None}
Parameters = TypeVar("Parameters", bound=msgspec.Struct)


def parse_parameters(pairs: Iterable[str]) -> dict[str, Any]:
    """Return the values of NAME=VALUE texts; a VALUE is JSON, a Python constant such as True, or else a plain text.

    Raises:
        BadConfiguration: a text without a name or an equals sign, or a name given twice.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        name = name.strip()
        if not name or not equals:
            raise BadConfiguration(f"param: expected NAME=VALUE, such as population=200, got {pair!r:.80}")
        if name in values:
            raise BadConfiguration(f"parameter {name}: expected one value, got two: give it once")
        text = text.strip()
        try:
            values[name] = PYTHON[text] if text in PYTHON else json.loads(text)
        except (ValueError, RecursionError):
            values[name] = text
    return values


def resolve_parameters(kind: type[Parameters], *layers: Mapping[str, Any]) -> Parameters:
    """Return the parameters, later layers over earlier ones over the defaults.

    Raises:
        BadConfiguration: an unknown name, a value of a wrong type or out of bounds, or values that do not go together.
    """
    types = {one.encode_name: one.type for one in msgspec.structs.fields(kind)}
    values: dict[str, Any] = {}
    for name, value in (pair for layer in layers for pair in layer.items()):
        if name not in types:
            near = difflib.get_close_matches(str(name), types, 1)
            known = f"did you mean {near[0]}?" if near else f"known are {', '.join(types) or 'none'}"
            raise BadConfiguration(f"parameter {name}: unknown; {known}")
        values[name] = _converted(name, value, types[name])
    try:
        return kind(**values)
    except TypeError as error:
        raise BadConfiguration(f"parameters: {one_line(error)}: define a default for each field") from error


def parameters_of(strategy: Strategy[Any]) -> dict[str, Any]:
    """Return the parameters of a strategy as a run keeps them; none for a strategy without any."""
    values: dict[str, Any] = msgspec.to_builtins(strategy.parameters or {})
    return values


def _converted(name: str, value: object, kind: Any) -> Any:
    try:
        converted = msgspec.convert(value, kind)
        if all(math.isfinite(one) for one in _numbers(converted)):
            return converted
    except msgspec.ValidationError:
        pass
    raise BadConfiguration(f"parameter {name}: expected {_expected(inspect.type_info(kind))}, got {value!r:.80}")


def _numbers(value: object) -> list[float]:
    """Return the floating-point numbers in a value, or in a tuple of values."""
    return [one for one in (value if isinstance(value, tuple) else (value,)) if isinstance(one, float)]


def _expected(kind: inspect.Type) -> str:
    """Return in words what a value of this type is."""
    match kind:
        case inspect.IntType() | inspect.FloatType():
            what = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
            low = "" if kind.ge is None else f" from {kind.ge:g}"
            return what + low + ("" if kind.le is None else f" to {kind.le:g}")
        case inspect.LiteralType():
            return f"one of {', '.join(map(str, kind.values))}"
        case inspect.BoolType():
            return "true or false"
        case inspect.TupleType():
            return f"[{', '.join(_expected(one) for one in kind.item_types)}]"
        case inspect.StrType():
            return "a text"
        case inspect.VarTupleType():
            return f"a list, each {_expected(kind.item_type)}"
        case inspect.NoneType():
            return "none"
        case inspect.Metadata():
            return _expected(kind.type)
        case inspect.UnionType():
            return " or ".join(_expected(one) for one in kind.types)
        case _:
            return type(kind).__name__.removesuffix("Type").lower()
