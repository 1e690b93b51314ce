"""Readers of rows: each form of SPEC, and its errors in one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import numpy as np
import pytest

import fedmq.data.limits
from fedmq.data.readers import files_of, load_rows
from fedmq.errors import BadConfiguration, BadData, BadTable
from fedmq.tasks.task import Rows
from fedmq.tasks.task_file import task_rows

TABLE = np.array([[1.0, 2.0, 0.0], [3.0, 4.5, 1.0]])


def same(rows: Rows, inputs: Any, targets: Any) -> bool:
    return bool(rows.inputs.tolist() == inputs and rows.targets.tolist() == targets)


def error_of(spec: str | Path) -> str:
    with pytest.raises(BadData) as rejection:
        load_rows(str(spec))
    assert "\n" not in str(rejection.value)
    return str(rejection.value)


@pytest.fixture
def csv_file(tmp_path: Path) -> Callable[[str | bytes], Path]:
    def write(text: str | bytes) -> Path:
        path = tmp_path / "rows.csv"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return path

    return write


def test_part_of_a_built_in_task_is_named_by_number() -> None:
    assert same(load_rows("xor:1/2"), [[0, 1], [0, 0]], [1, 0])
    assert same(load_rows("xor:2/2"), [[1, 0], [1, 1]], [1, 0])
    assert same(load_rows("parity4:3/4"), task_rows("parity4", 3, 4).inputs.tolist(), [1, 0, 0, 1])


def test_bob_and_alice_have_the_halves_of_the_linear_task() -> None:
    assert same(load_rows("linear:bob"), [[1, 1], [0, 1]], [2, 0])
    assert same(load_rows("linear:alice"), [[1, 0], [0, 0]], [1, 0])


def test_parts_of_a_table_are_all_of_its_rows_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,y\n" + "".join(f"{row},{row % 2}\n" for row in range(10)))
    parts = [load_rows(f"{path}:{part}/3") for part in (1, 2, 3)]
    assert [len(part.inputs) for part in parts] == [3, 3, 4]
    assert np.concatenate([part.inputs for part in parts]).ravel().tolist() == list(range(10))
    assert files_of(f"{path}:2/3") == [path]
    monkeypatch.chdir(tmp_path)
    Path("xor").mkdir()
    assert files_of("xor:1/2") == [], "a folder of this name has nothing to do with the task"
    assert "expected a part from 1 to 3, got 4" in error_of(f"{path}:4/3")
    assert "expected at most 10 parts, one for each row, got 11" in error_of(f"{path}:1/11")


def test_part_out_of_range_is_rejected() -> None:
    assert error_of("xor:3/2").startswith("xor:3/2: ")
    assert "from 1 to 2, got 0" in error_of("xor:0/2")


@pytest.mark.parametrize("spec", ["", "xor", "xor:1", "nand:1/2", "rows.doc", "linear:carol", "a b:c", "task.py"])
def test_unknown_spec_is_rejected_with_the_known_forms(spec: str) -> None:
    message = error_of(spec)
    assert "xor:1/2" in message
    assert repr(spec) in message


def test_python_file_gives_a_part(tmp_path: Path) -> None:
    path = tmp_path / "one.py"
    path.write_text(
        "from fedmq.models.networks import Linear\n"
        "from fedmq.tasks.task import Task\n"
        "task = Task(name='one', model=Linear(1), loss='squared-error', metric='loss', target=0.1)\n"
        "def rows(part, parts):\n"
        "    return [[part]], [parts]\n"
    )
    assert same(load_rows(f"{path}:2/3"), [[2]], [3])
    with pytest.raises(BadConfiguration, match="no such file"):
        load_rows("nowhere.py:1/2")


@pytest.mark.parametrize(
    "text",
    [
        "1,2,0\n3,4.5,1\n",
        "a,b,target\n1,2,0\n3,4.5,1",
        "\ufeffa,b,target\r\n1,2,0\r\n\r\n3,4.5,1\r\n",
        '"a","b, c",t\n 1 ,"2",0\n3,45e-1,1\n',
    ],
)
def test_csv_file_may_name_its_columns(csv_file: Any, text: str) -> None:
    rows = load_rows(str(csv_file(text)))
    assert same(rows, [[1, 2], [3, 4.5]], [0, 1])
    assert rows.targets.dtype == np.float64


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2,0\n1,abc,0\n", ["line 2", "column 2", "'abc'"]),
        ("a,b,t\n1,2,0\n1,nan,0\n", ["line 3", "column 2 (b)", "'nan'"]),
        ("1,2,0\n1,,0\n", ["line 2", "column 2", "an empty cell"]),
        ("1,2,0\n1,2,inf\n", ["line 2", "column 3", "'inf'"]),
        ("1,x,0\n1,2,0\n", ["line 1", "column 2", "'x'"]),
        ("1,2,0\n\n1,2\n", ["line 3", "3 cells", "got 2 in '1,2'"]),
        ("1,2,0\n1,2,0\n1,2,0,4\n", ["line 3", "3 cells", "got 4"]),
        ("", ["zero rows"]),
        ("a,b,t\n", ["zero rows"]),
        ('"a,b\n1,2\n', ["line 1, column 1", "a quote that is closed", "unexpected end of data"]),
        ('1,2,0\n1,2,"3', ["line 2, column 3", "unexpected end of data"]),
        ("1\n2\n", ["target", "1 columns", "?separator="]),
        (b"1,2\n\xff,3\n", ["line 2, column 1", "'\xff'"]),
        ('1,"' + "2" * 200_000, ["line 1, column 2", "field larger than field limit"]),
    ],
)
def test_bad_csv_file_is_rejected_with_line_and_column(csv_file: Any, text: str | bytes, values: list[str]) -> None:
    message = error_of(csv_file(text))
    assert [value for value in ("rows.csv", *values) if value not in message] == []


def test_all_faults_of_a_csv_file_are_reported_at_once_with_counts_and_advice(csv_file: Any) -> None:
    text = "patient_id,age,weight,y\nP-1,40,,0\nP-2,41,70,1\nP-3,forty,71\nP-4,,inf,0\nP-5,forty,72,1\nP-6,44,73,0\n"
    message = error_of(csv_file(text))
    assert message.split("; ") == [
        f"{csv_file(text)}: line 4: expected 4 cells, got 3 in 'P-3,forty,71' (in 1 of 6 lines): correct the line",
        "line 2, column 1 (patient_id): expected a finite number, got 'P-1' (in 5 of 5 lines): "
        "drop the column, or write it as numbers",
        "line 2, column 3 (weight): expected a finite number, got an empty cell (in 1 of 5 lines): "
        "fill in or drop the line",
        "line 5, column 2 (age): expected a finite number, got an empty cell (in 1 of 5 lines): "
        "fill in or drop the line",
        "line 5, column 3 (weight): expected a finite number, got 'inf' (in 1 of 5 lines): correct or drop the line",
        "line 6, column 2 (age): expected a finite number, got 'forty' (in 1 of 5 lines): correct or drop the line",
    ]


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("a,y\n1,yes\n2,no\n", "column 2 (y)*'yes' (in 2 of 2 lines): number the classes from 0"),
        ("a,b,y\n1,,0\n2,,1\n", "column 2 (b)*an empty cell (in 2 of 2 lines): drop the column"),
        ("a,b,y\n1,0\n1,0,1\n", "line 2: expected 3 cells, got 2 in '1,0' (in 1 of 2 lines): correct the line"),
        ("a;y\n1,234;0\n", "column 1: expected a number that can be read in one way, got '1,234'*?decimal=, or"),
    ],
)
def test_advice_for_a_csv_file_fits_its_fault(csv_file: Any, text: str, advice: str) -> None:
    assert re.search(".*".join(map(re.escape, advice.split("*"))), error_of(csv_file(text)))


def test_number_of_reported_faults_is_bounded(csv_file: Any) -> None:
    columns = 200
    message = error_of(csv_file(",".join(f"c{n}" for n in range(columns)) + "\n" + ",".join(["x"] * columns)))
    assert message.count("expected") == BadTable.SHOWN_MAX
    assert message.endswith(f"and {columns - BadTable.SHOWN_MAX} more faults")


def test_all_columns_with_holes_are_reported_at_once(tmp_path: Path) -> None:
    table = np.array([[np.nan, 1, 0], [np.nan, 1, np.nan], [np.nan, np.inf, 1]])
    np.save(tmp_path / "rows.npy", table)
    assert error_of(tmp_path / "rows.npy").split("; ")[1:] == [
        "line 2, column 3: expected a finite number, got an empty cell (in 1 of 3 lines): correct or drop the line",
        "line 3, column 2: expected a finite number, got 'inf' (in 1 of 3 lines): correct or drop the line",
    ]


def test_npz_and_npy_files_of_any_numeric_dtype_are_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "rows.npz", inputs=TABLE[:, :2].astype(np.float32), targets=np.array([0, 1], dtype=np.int8))
    np.save(tmp_path / "rows.npy", np.asfortranarray(TABLE.astype(">f8")))
    np.savez_compressed(tmp_path / "small.npz", inputs=TABLE[:, :2], targets=TABLE[:, 2] == 1)
    for name in ("rows.npz", "rows.npy", "small.npz"):
        rows = load_rows(str(tmp_path / name))
        assert same(rows, [[1, 2], [3, 4.5]], [0, 1])
        assert rows.inputs.dtype == rows.targets.dtype == np.float64


def test_bad_npz_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, inputs=TABLE, labels=[0, 1])
    assert "`inputs` and `targets`, got inputs, labels" in error_of(path)
    np.savez(path, inputs=TABLE, targets=[0])
    assert "got shapes (2, 3) and (1,)" in error_of(path)
    np.savez(path, inputs=[[1.0, np.nan]], targets=[0])
    assert "line 1, column 2" in error_of(path)
    np.savez(path, inputs=np.zeros((0, 2)), targets=np.zeros(0))
    assert "got shape (0, 2)" in error_of(path)
    np.savez(path, inputs=[["a"]], targets=[0])
    assert "'a'" in error_of(path)
    whole = path.read_bytes()
    for damaged in (b"", b"text", whole[:-30], whole[:60] + b"\0" * 40 + whole[100:]):
        path.write_bytes(damaged)
        assert "expected .npz" in error_of(path)


def test_bad_npy_file_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.zeros(3))
    assert "got shape (3,)" in error_of(path)
    np.save(path, np.zeros((3, 1)))
    assert "got 1 columns" in error_of(path)
    np.save(path, np.zeros((0, 3)))
    assert "got shape (0, 3)" in error_of(path)
    path.write_bytes(path.read_bytes()[:40])
    assert "expected .npy" in error_of(path)


def test_nothing_is_unpickled(tmp_path: Path) -> None:
    objects = np.array([[{}, 1]], dtype=object)
    np.save(tmp_path / "rows.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "rows.npz", inputs=objects, targets=[0])
    for name in ("rows.npy", "rows.npz"):
        assert "dtype object" in error_of(tmp_path / name)


def test_claimed_size_is_checked_before_allocation(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (10**12, 3)})
    assert "at most 50000000 values, got 3000000000000" in error_of(path)


def test_too_many_numbers_are_rejected(tmp_path: Path, csv_file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    np.savez(tmp_path / "rows.npz", inputs=TABLE[:, :2], targets=TABLE[:, 2])
    csv_file("1,2,0\n3,4.5,1\n")
    monkeypatch.setattr(fedmq.data.limits, "VALUES_MAX", 5)
    for spec in (tmp_path / "rows.npz", tmp_path / "rows.csv"):
        assert "at most 5 values, got 6" in error_of(spec)
    monkeypatch.setattr(fedmq.data.limits, "VALUES_MAX", 11)
    (tmp_path / "rows.npz").rename(tmp_path / "rows.txt")
    csv_file("1,2,0\n3,4.5,1\n").rename(tmp_path / "more.csv")
    csv_file("1,2,0\n3,4.5,1\n")
    assert "at most 11 values, got 12" in error_of(tmp_path)


def test_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    np.save(tmp_path / "b.npy", TABLE)
    (tmp_path / "a.CSV").write_text("5,6,1\n")
    (tmp_path / "notes.txt").write_text("not rows")
    (tmp_path / ".hidden.csv").write_text("not rows")
    assert same(load_rows(str(tmp_path)), [[5, 6], [1, 2], [3, 4.5]], [1, 0, 1])


def test_folder_of_unlike_or_no_files_is_rejected(tmp_path: Path) -> None:
    assert ".csv, .npz, .npy, .parquet" in error_of(tmp_path)
    (tmp_path / "a.csv").write_text("5,1\n")
    np.save(tmp_path / "b.npy", TABLE)
    assert "b.npy: expected the columns of a.csv, 2 of them, got 3" in error_of(tmp_path)


@pytest.mark.parametrize("name", ["rows.csv", "rows.npz", "rows.npy", "rows.parquet"])
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    assert error_of(tmp_path / name).startswith(f"{tmp_path / name}: ")


def test_missing_duckdb_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "duckdb", None)
    assert 'pip install "fedmq[tables]"' in error_of(tmp_path / "rows.parquet")


def test_parquet_files_are_read_and_rejected_by_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"

    def write(values: str) -> None:
        duckdb.sql(f"SELECT * FROM (VALUES {values})").write_parquet(str(path))  # noqa: S608

    write("(1, 2, false), (3, 4.5, true)")
    assert same(load_rows(str(path)), [[1, 2], [3, 4.5]], [0, 1])
    write("(1, 0), (NULL, 1)")
    assert "line 2, column 1 (col0): expected a finite number, got an empty cell" in error_of(path)
    write("('x', 0), ('y', 1)")
    assert "column 1 (col0): expected a finite number, got 'x'" in error_of(path)
    write("([1], {'b': 1}, 0)")
    assert re.search(r"column col0: .* INTEGER\[\]; column col1: .*STRUCT.*: unnest it", error_of(path))
    path.write_bytes(b"PAR1 and no more than that")
    assert "expected rows of files in " in error_of(path)


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = ModuleType("clinic_rows")
    monkeypatch.setitem(sys.modules, "clinic_rows", made)
    return made


def test_function_of_a_module_gives_rows(module: Any) -> None:
    module.load = lambda: (TABLE[:, :2], [0, 1])
    assert same(load_rows("clinic_rows:load"), [[1, 2], [3, 4.5]], [0, 1])


def test_module_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ward_rows.py").write_text("def load():\n    return [[1]], [2]\n")
    monkeypatch.chdir(tmp_path)
    path_before = list(sys.path)
    assert same(load_rows("ward_rows:load"), [[1]], [2])
    assert sys.path == path_before
    monkeypatch.delitem(sys.modules, "ward_rows")


def test_failing_function_is_rejected(module: Any) -> None:
    assert "got NoneType" in error_of("clinic_rows:load")
    module.load = lambda: 1 / 0
    assert "got ZeroDivisionError" in error_of("clinic_rows:load")
    module.load = lambda: "ab"
    assert "got str" in error_of("clinic_rows:load")
    module.load = lambda: ([["a"]], [1])
    assert "clinic_rows:load: inputs: " in error_of("clinic_rows:load")
    assert "got ModuleNotFoundError" in error_of("no_such_module:load")


def test_module_that_exits_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "quits_rows.py").write_text("raise SystemExit('two\\nlines')\n")
    monkeypatch.chdir(tmp_path)
    assert "got SystemExit: two lines" in error_of("quits_rows:load")
