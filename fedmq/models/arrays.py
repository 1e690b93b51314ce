"""Array types; arrays in files, whose size is checked first; and the errors of damaged array files."""

import math
import zipfile
import zlib
from typing import IO, Any

import numpy as np
import numpy.typing as npt

Floating = npt.NDArray[np.floating[Any]]
Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

HEADER_BYTES_MAX = 65_536  # of an .npy file

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


def read_array_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Read shape and dtype of an array in the .npy format (numpy NEP 1), and return to the start of the file.

    Raises:
        ValueError: as the other errors in UNREADABLE, the file is damaged.
    """
    version = np.lib.format.read_magic(file)
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_header(file, max_header_size=HEADER_BYTES_MAX)
    file.seek(0)
    return shape, dtype


def read_array(file: IO[bytes], bytes_max: int) -> npt.NDArray[Any]:
    """Read an array in the .npy format of at most `bytes_max` bytes, without unpickling anything.

    The size in the header is checked before memory is allocated.

    Raises:
        ValueError: as the other errors in UNREADABLE, the file is damaged or the array too large.
    """
    shape, dtype = read_array_header(file)
    if (size := math.prod(shape) * dtype.itemsize) > bytes_max:
        raise ValueError(f"an array of {size} bytes, expected at most {bytes_max}")
    array: npt.NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False, max_header_size=HEADER_BYTES_MAX)
    return array


def all_finite(array: npt.NDArray[Any]) -> bool:
    """Return whether an array holds neither NaN nor infinity."""
    return bool(np.count_nonzero(np.isfinite(array)) == array.size)  # a third of the time of `all` on a small array
