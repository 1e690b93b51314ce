"""Readers of a trainer's rows: from a built-in task, a file, a folder or a function. Rows are checked when read."""

import csv
import importlib
import math
import re
import zipfile
from array import array
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from fedmq.data.csv_faults import CsvFaults, is_number
from fedmq.errors import BadData, named
from fedmq.models.arrays import UNREADABLE, read_array, read_array_header
from fedmq.runtime.python_file import importable
from fedmq.tables.table import Table
from fedmq.tasks.builtin import TASK_NAMES
from fedmq.tasks.task import Rows, as_rows
from fedmq.tasks.task_file import call_rows, task_rows

VALUES_MAX = 10_000_000  # numbers in all rows, including targets
VALUE_BYTES_MAX = 8
NAMED_PARTS: Mapping[str, tuple[str, int, int]] = {"linear:bob": ("linear", 1, 2), "linear:alice": ("linear", 2, 2)}
FORMS = "xor:1/2, FILE.py:1/2, linear:bob, a .csv, .npz, .npy or .parquet file, a folder of them, or module:function"

_PART = re.compile(r"(?P<source>.+):(?P<part>[0-9]{1,9})/(?P<parts>[0-9]{1,9})")
_FUNCTION = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<function>[^\W\d]\w*)")


def load_rows(spec: str) -> Rows:
    """Read the rows that `spec` names: inputs (rows, features) float64, all finite, and targets (rows,).

    Targets are float64 unless they belong to a built-in task or a FILE.py; `Task.fit` converts them to classes.
    `spec` is one of

        xor:1/2, parity4:3/4, linear:bob   a part of the rows of a built-in task
        FILE.py:1/2                        the rows that `rows(1, 2)` of the file returns (the file is executed)
        rows.csv                           a line per row, the target last; the first line may name the columns
        rows.npz                           arrays `inputs` and `targets`
        rows.npy, rows.parquet             two dimensions, the target in the last column
        FOLDER                             all such files in it, sorted by name
        module:function                    the (inputs, targets) that `function()` returns

    Nothing is unpickled.

    Raises:
        BadData: the rows cannot be read or used; names the file, the row and the column.
        BadConfiguration: FILE.py fails or defines no `task` or no `rows`.
    """
    if spec in NAMED_PARTS:
        return task_rows(*NAMED_PARTS[spec])
    part = _PART.fullmatch(spec)
    if part and (part["source"] in TASK_NAMES or part["source"].endswith(".py")):
        return task_rows(part["source"], int(part["part"]), int(part["parts"]))
    if spec and Path(spec).is_dir():
        return _read_folder(Path(spec))
    if Path(spec).suffix.lower() in _READERS:
        return _read_file(Path(spec))
    function = _FUNCTION.fullmatch(spec)
    if function and function["module"] not in TASK_NAMES:
        return _call(function["module"], function["function"])
    raise BadData(f"expected rows such as {FORMS}; got {spec!r}")


def load_data(spec: str, names: Sequence[str] = ()) -> Table | Rows:  # noqa: ARG001
    """Read what `spec` names: the rows of a built-in task, a FILE.py or a function; else a table of columns by name.

    With the `names` of a task's schema, the first line of a file is known to hold them or not.

    Raises:
        BadData: as `load_rows`.
        BadConfiguration: as `load_rows`.
    """
    return load_rows(spec)


def files_of(spec: str) -> list[Path]:
    """Return the files that hold the rows of `spec`, whether they exist or not; none if it names no file.

    Raises:
        OSError: a folder cannot be read.
    """
    part = _PART.fullmatch(spec)
    path = Path(part["source"] if part and part["source"].endswith(".py") else spec)
    if path.is_dir():
        return _files_in(path)
    return [path] if path.suffix.lower() in (*_READERS, ".py") else []


def _files_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _READERS and path.name[0] != ".")


def _read_folder(folder: Path) -> Rows:
    paths = _files_in(folder)
    if not paths:
        raise BadData(f"{folder}: expected {', '.join(_READERS)} files in the folder, got none: put one there")
    pieces: list[Rows] = []
    for path in paths:
        piece = _read_file(path)
        if pieces and piece.inputs.shape[1] != pieces[0].inputs.shape[1]:
            raise BadData(
                f"{path}: expected {pieces[0].inputs.shape[1]} input columns as in {paths[0].name}, "
                f"got {piece.inputs.shape[1]}: keep files of one kind in a folder"
            )
        pieces.append(piece)
        _check_values(sum(each.inputs.size + each.targets.size for each in pieces), folder)
    return Rows(np.concatenate([each.inputs for each in pieces]), np.concatenate([each.targets for each in pieces]))


def _read_file(path: Path) -> Rows:
    if not path.is_file():
        raise BadData(f"{path}: expected a file with rows, got no such file: check the path")
    kind = path.suffix.lower()
    try:
        return _READERS[kind](path)
    except OSError as error:
        raise BadData(f"{path}: expected a file that can be read, got: {error.strerror or error}") from error
    except UNREADABLE as error:  # pyarrow's own errors are ValueErrors and the like
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise BadData(
            f"{path}: expected {kind}, got a damaged or foreign file ({reason:.120}): save it again"
        ) from error


def _read_csv(path: Path) -> Rows:
    """Read with the csv module and not numpy.loadtxt, because its errors name neither file nor column."""
    values, faults = array("d"), CsvFaults(())
    columns: Sequence[str] = ()
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = csv.reader(file, strict=True)
            for cells in lines:
                if not cells:
                    continue
                if not columns:
                    columns, faults = cells, CsvFaults(cells)
                    _check_separators(cells, path)
                    if not any(map(is_number, cells)):
                        continue
                values.extend(faults.numbers(lines.line_num, cells))
                _check_values(faults.lines * len(columns), path)
    except (UnicodeDecodeError, csv.Error) as error:
        above = f"; and above that: {faults}" if faults else ""
        raise BadData(
            f"{path}: expected comma-separated numbers in UTF-8, got {error}: export it again, as UTF-8{above}"
        ) from error
    if len(columns) == 1 and not values:
        raise BadData(f"{path}: expected columns with commas between them, got {columns[0]!r:.40}: export it again")
    if faults:
        raise BadData(f"{path}, {faults}")
    return _last_column(np.asarray(values).reshape(-1, max(1, len(columns))), path)


def _check_separators(first: Sequence[str], path: Path) -> None:
    """Check that the first line is none that only Excel reads, and has commas."""
    if first[0].lower().startswith("sep="):
        raise BadData(f"{path}, line 1: expected names or numbers, got {first[0]!r:.40}, a line for Excel: delete it")
    if len(first) == 1 and (mark := next((one for one in ";\t|" if one in first[0]), None)):
        got = f"{mark!r} in {first[0]!r:.40}"
        raise BadData(f"{path}: expected columns with commas between them, got {got}: export it with commas")


def _read_npz(path: Path) -> Rows:
    with zipfile.ZipFile(path) as archive:  # numpy.load would also accept a bare .npy here
        inputs, targets = (_read_member(archive, name, path) for name in ("inputs", "targets"))
    _check_values(inputs.size + targets.size, path)
    return as_rows(inputs, targets, str(path))


def _read_member(archive: zipfile.ZipFile, name: str, path: Path) -> npt.NDArray[Any]:
    members = archive.namelist()
    if f"{name}.npy" not in members:
        there = ", ".join(member.removesuffix(".npy") for member in members[:10]) or "nothing"
        raise BadData(f"{path}: expected an array `{name}`, got {there}: save it with numpy.savez(inputs=, targets=)")
    with archive.open(f"{name}.npy") as file:
        return _read_array(file, path)


def _read_npy(path: Path) -> Rows:
    with path.open("rb") as file:
        table = _read_array(file, path)
    if table.ndim != 2:
        raise BadData(f"{path}: expected two dimensions, rows and columns, got shape {table.shape}: reshape it")
    return _last_column(table, path)


def _read_array(file: IO[bytes], path: Path) -> npt.NDArray[Any]:
    """Read one array of numbers in the .npy format."""
    shape, dtype = read_array_header(file)
    _check_values(math.prod(shape), path)
    if dtype.kind not in "biuf" or dtype.itemsize > VALUE_BYTES_MAX:
        raise BadData(f"{path}: expected an array of numbers, got dtype {dtype}: convert it to float64")
    return read_array(file, VALUES_MAX * VALUE_BYTES_MAX)


def _read_parquet(path: Path) -> Rows:
    try:
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise BadData(f'{path}: expected pyarrow to read Parquet, got {error}: pip install "fedmq[parquet]"') from error
    with parquet.ParquetFile(path) as file:
        _check_values(file.metadata.num_rows * file.metadata.num_columns, path)
        table = file.read()
    columns = [column.to_numpy() for column in table.columns]  # a null becomes NaN, which `as_rows` rejects
    foreign = [
        f"column {name}: expected numbers, got {column.type}"
        for name, column, values in zip(table.column_names, table.columns, columns, strict=True)
        if values.dtype.kind not in "biuf"
    ]
    if foreign:
        way_out = "convert or drop the column" + "s" * (len(foreign) > 1)
        raise BadData(f"{path}, {'; '.join(foreign)}: {way_out}")
    return _last_column(np.column_stack(columns) if columns else np.empty((0, 0)), path)


def _last_column(table: npt.NDArray[Any], path: Path) -> Rows:
    """Return the rows of a table (rows, columns) with the target in the last column."""
    if len(table) == 0:
        raise BadData(f"{path}: expected at least one row, got zero rows: add rows")
    if table.shape[1] < 2:
        raise BadData(f"{path}: expected inputs and, last, a target, got {table.shape[1]} columns: add the target")
    return as_rows(table[:, :-1], table[:, -1], str(path))


def _call(module: str, function: str) -> Rows:
    source = f"{module}:{function}"
    with importable(Path.cwd()):
        try:
            found = getattr(importlib.import_module(module), function, None)
        except (Exception, SystemExit) as error:
            raise BadData(
                f"{source}: expected a module to import, got {named(error)}: start where the module is, or install it"
            ) from error
        if not callable(found):
            raise BadData(f"{source}: expected a function, got {type(found).__name__}: define {function} in {module}")
        rows = call_rows(found, source)
    _check_values(rows.inputs.size + rows.targets.size, source)
    return rows


def _check_values(count: int, source: Path | str) -> None:
    if count > VALUES_MAX:
        raise BadData(f"{source}: expected at most {VALUES_MAX} numbers, got {count}: give a trainer fewer rows")


_READERS: Mapping[str, Callable[[Path], Rows]] = {
    ".csv": _read_csv,
    ".npz": _read_npz,
    ".npy": _read_npy,
    ".parquet": _read_parquet,
}
