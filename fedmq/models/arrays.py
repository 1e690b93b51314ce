"""Array types, and the errors that numpy raises for damaged array files."""

import zipfile
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

Floating = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

# What numpy and zipfile raise for bytes that are not an .npy or .npz file, or a damaged one.
UNREADABLE: tuple[type[Exception], ...] = (
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    OverflowError,
    MemoryError,
    RuntimeError,  # encrypted; NotImplementedError, for an unknown compression, is a subclass
    zipfile.BadZipFile,
    zlib.error,
    SyntaxError,  # a damaged .npy header
)


def all_finite(array: npt.NDArray[Any]) -> bool:
    """Return whether an array holds neither NaN nor infinity."""
    return bool(np.count_nonzero(np.isfinite(array)) == array.size)  # a third of the time of `all` on a small array
