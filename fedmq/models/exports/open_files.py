"""A trained model as JSON and as safetensors: named arrays, and a description of what they are."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np

from fedmq.errors import BadConfiguration
from fedmq.models.exports.layout import named_arrays
from fedmq.models.trained_model import TrainedModel

JSON_FORMAT, SAFETENSORS_FORMAT = "fedmq-json-1", "fedmq-safetensors-1"


def to_json(trained: TrainedModel) -> bytes:
    """Return a model as one JSON object with all that a prediction needs; numbers keep all their digits.

    docs/reference/model-files.md lists its fields and shows a program that predicts from them.
    """
    arrays = {name: array.tolist() for name, array in named_arrays(trained).items()}
    return msgspec.json.encode({**_description(JSON_FORMAT, trained), "arrays": arrays}) + b"\n"


def to_safetensors(trained: TrainedModel) -> bytes:
    """Return a model as named tensors of float64, with the description as JSON in the metadata `description`.

    Raises:
        BadConfiguration: the package safetensors is missing.
    """
    description = msgspec.json.encode(_description(SAFETENSORS_FORMAT, trained)).decode()
    arrays = {name: np.ascontiguousarray(array) for name, array in named_arrays(trained).items()}
    # One entry: the order of several is not the same each time.
    saved: bytes = _safetensors().save(arrays, {"description": description})
    return saved


def arrays_of(content: bytes) -> dict[str, np.ndarray[Any, Any]]:
    """Return the arrays in what `to_json` or `to_safetensors` returned."""
    if content.startswith(b"{"):
        values = msgspec.json.decode(content)["arrays"]
        return {name: np.array(value, dtype=np.float64) for name, value in values.items()}
    arrays: dict[str, np.ndarray[Any, Any]] = _safetensors().load(content)
    return arrays


def _description(format_name: str, trained: TrainedModel) -> dict[str, Any]:
    return {
        "format": format_name,
        "task": trained.task,
        "model": trained.network(),
        "output_scale": trained.output_scale,
        "classes": trained.classes,
        "schema": trained.schema,
    }


def _safetensors() -> Any:
    try:
        import safetensors.numpy as safetensors
    except ImportError as error:
        raise BadConfiguration(f'expected the package safetensors, got {error}: pip install "fedmq[export]"') from error
    return safetensors
