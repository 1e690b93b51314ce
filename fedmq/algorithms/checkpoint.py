"""A strategy's state as bytes: a frozen dataclass of numbers, texts, arrays, collections and such dataclasses.

Nothing is unpickled: the type of the state defines what the bytes must be.
"""

import re
from typing import Any

import msgspec
import numpy as np

from fedmq.errors import BadConfiguration, StoreError, one_line
from fedmq.runtime.malformed import MALFORMED

_ARRAY = 1  # msgpack's extension type for a NumPy array


def dump(state: object) -> bytes:
    """Return the bytes of a state."""
    return msgspec.msgpack.encode(state, enc_hook=_encode)


def load(blob: bytes, kind: type[Any]) -> Any:
    """Return the state of type `kind` in `blob`, bit for bit.

    Raises:
        StoreError: the bytes are not such a state, for example of another version of the strategy.
    """
    try:
        return msgspec.msgpack.decode(blob, type=kind, dec_hook=lambda _kind, value: value, ext_hook=_array)
    except (*MALFORMED, ValueError, TypeError, BadConfiguration) as error:
        reason = one_line(error)
        raise StoreError(
            f"expected the state of a strategy ({kind.__name__}) in the checkpoint, got: {reason}; continue it with "
            "the fedmq that wrote it, or choose another --out"
        ) from error


def _encode(value: object) -> object:
    if isinstance(value, np.ndarray):
        fields = (value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes())
        return msgspec.msgpack.Ext(_ARRAY, msgspec.msgpack.encode(fields))
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"a {type(value).__name__} in the state of a strategy")


def _array(_code: int, blob: memoryview) -> np.ndarray:
    dtype, shape, content = msgspec.msgpack.decode(blob, type=tuple[str, tuple[int, ...], bytes])
    if not re.fullmatch("[<|][biuf][1248]", dtype):  # numpy reads much else from a text, and fails in many ways
        raise ValueError(f"expected an array of numbers, got dtype {dtype!r:.40}")
    return np.frombuffer(bytearray(content), dtype).reshape(shape)
