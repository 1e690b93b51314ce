"""Tables in files of NumPy: .npy and .npz. Nothing is unpickled."""

import math
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy.typing as npt

from fedmq.data.limits import BYTES_MAX, check_columns, check_values, open_file
from fedmq.errors import BadData
from fedmq.models.arrays import read_array, read_array_header
from fedmq.tables.table import Table

Array = npt.NDArray[Any]

# Inputs and targets, as numpy.savez, scikit-learn and Keras name them.
PAIRS = (
    ("inputs", "targets"),
    ("X", "y"),
    ("x", "y"),
    ("X_train", "y_train"),
    ("x_train", "y_train"),
    ("data", "target"),
    ("arr_0", "arr_1"),
)
NAMES_SHOWN_MAX = 10
_KINDS = "biufSUM"  # of dtypes: numbers, text and times


def read_npy(path: Path, *, flatten: bool = False) -> Table:
    """Read one array: (rows, columns), whose columns become x1, x2, ..., or structured (rows,), with names.

    `flatten` makes a row of each image or the like.

    Raises:
        BadData: the file cannot be read, has another shape, or holds objects.
    """
    with open_file(path) as file:
        return _table(_read(file, path), None, path, flatten)


def read_npz(path: Path, *, flatten: bool = False) -> Table:
    """Read the arrays of inputs and targets, named as in PAIRS; or arrays (rows,), which are columns by name.

    Inputs become the columns x1, x2, ..., targets the column y. Targets may be a column or one-hot.

    Raises:
        BadData: as `read_npy`; or no such arrays are there.
    """
    with open_file(path) as file, zipfile.ZipFile(file) as archive:  # numpy.load would also accept a bare .npy here
        names = [name.removesuffix(".npy") for name in archive.namelist()]

        def read(name: str) -> Array:
            with archive.open(f"{name}.npy") as member:
                return _read(member, path)

        pair = next((pair for pair in PAIRS if set(pair) <= set(names)), None)
        if pair is not None:
            unread = sorted(set(names) - set(pair))
            note = (f"arrays that are not read: {', '.join(unread[:NAMES_SHOWN_MAX])}",) if unread else ()
            return _table(read(pair[0]), read(pair[1]), path, flatten, note)
        if len(names) == 1:
            return _table(read(names[0]), None, path, flatten)
        check_columns(len(names), path)
        columns = {name: read(name) for name in names}
        if not columns or any(array.ndim != 1 or not len(array) for array in columns.values()):
            some = ", ".join(names[:NAMES_SHOWN_MAX]) or "nothing"
            raise BadData(
                f"{path}: expected arrays `inputs` and `targets`, got {some}: save it with "
                "numpy.savez(path, inputs=..., targets=...)"
            )
        check_values(sum(map(len, columns.values())), path)
        return Table.from_frame(columns, str(path))


def _table(inputs: Array, targets: Array | None, path: Path, flatten: bool, notes: Sequence[str] = ()) -> Table:
    if inputs.dtype.names is not None:
        columns: Mapping[str, Array] = {name: inputs[name] for name in inputs.dtype.names}
    else:
        if inputs.ndim > 2 and flatten:
            inputs = inputs.reshape(len(inputs), -1)
        if inputs.ndim != 2:
            advice = "add ?flatten=yes to make one row of each" if inputs.ndim > 2 else "reshape it"
            raise BadData(f"{path}: expected two dimensions, rows and columns, got shape {inputs.shape}: {advice}")
        check_columns(inputs.shape[1], path)
        columns = {f"x{place}": column for place, column in enumerate(inputs.T, 1)}
    if targets is not None:
        columns = {**columns, "y": _one_column(targets, path)}
        check_values(inputs.size + targets.size, path)
        if len(inputs) != len(columns["y"]):
            raise BadData(
                f"{path}: expected as many targets as rows of inputs, got shapes {inputs.shape} and {targets.shape}: "
                "correct them"
            )
    if not inputs.size:
        raise BadData(f"{path}: expected at least one row and one column, got shape {inputs.shape}: add rows")
    found = Table.from_frame(columns, str(path))
    return Table(found.source, found.names, found.columns, found.num_rows, found.lines, (*notes, *found.notes))


def _one_column(targets: Array, path: Path) -> Array:
    """Return targets (rows,); a column (rows, 1) and one-hot rows (rows, classes) become one."""
    if targets.ndim == 2 and targets.shape[1] == 1:
        return targets[:, 0]
    if targets.ndim == 2 and targets.dtype.kind in "biuf":
        ones = targets == 1
        if (ones | (targets == 0)).all() and (ones.sum(axis=1) == 1).all():
            classes: Array = ones.argmax(axis=1)
            return classes
    if targets.ndim != 1:
        raise BadData(f"{path}: expected targets of shape (rows,) or one-hot, got shape {targets.shape}: reshape them")
    return targets


def _read(file: IO[bytes], path: Path) -> Array:
    """Read one array; its size is checked before memory is allocated."""
    shape, dtype = read_array_header(file)
    fields = [dtype[name].base for name in dtype.names] if dtype.names else [dtype]
    check_values(math.prod(shape) * len(fields), path)
    if foreign := next((field for field in fields if field.kind not in _KINDS), None):
        raise BadData(f"{path}: expected an array of numbers or text, got dtype {foreign}: convert it to float64")
    return read_array(file, BYTES_MAX)
