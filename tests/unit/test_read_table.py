"""Tables as people have them: each form reads as it should, or is refused with its first fault."""

from __future__ import annotations

import gzip
import io
import os
import random
import re
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedmq.data.limits
import fedmq.data.text
from fedmq.data.positional import positional
from fedmq.data.readers import load_rows, read_table
from fedmq.errors import BadData
from fedmq.tables.table import Table

NAN = float("nan")
AB = {"age": [40.0, 50.5], "ill": [0.0, 1.0]}
X = {"x1": [40.0, 50.5], "x2": [0.0, 1.0]}

# By what is special: the name of the file, its content, and the columns that it has, or a part of the refusal.
TEXTS: Mapping[str, tuple[str, str | bytes, Mapping[str, Sequence[Any]] | str]] = {
    "names of a frame of an array": ("a.csv", "0,1\n40,0\n50.5,1\n", {"0": [40, 50.5], "1": [0, 1]}),
    "index of a frame": ("a.csv", ",age,ill\n0,40,0\n1,50.5,1\n", {"index": [0, 1], **AB}),
    "row names of R": ("a.csv", "age,ill\nann,40,0\nbob,50.5,1\n", {"index": ["ann", "bob"], **AB}),
    "quoted names": ("a.csv", '"age";"ill"\n40;0\n50.5;1\n', AB),
    "semicolons": ("a.csv", "age;ill\n40;0\n50.5;1\n", AB),
    "decimal commas": ("a.csv", "age;ill\n40,0;0\n50,5;1\n", AB),
    "thousands beside decimal commas": ("a.csv", "age;ill\n1.040,0;0\n50,5;1\n", {"age": [1040, 50.5], "ill": [0, 1]}),
    "quoted thousands": ("a.csv", 'age,ill\n"1,040",0\n50,1\n', {"age": [1040, 50], "ill": [0, 1]}),
    "late decimal commas": ("a.csv", "age;ill\n" + "40;0\n" * 1200 + "50,5;1\n", {"age": [40] * 1200 + [50.5]}),
    "a thousand or a fraction": (
        "a.csv",
        "age;ill\n40;0\n1,234;1\n",
        "line 3, column 1: expected a number that can be",
    ),
    "tabs": ("a.tsv", "age\till\n40\t0\n50.5\t1\n", AB),
    "tabs in .csv": ("a.csv", "age\till\n40\t0\n50.5\t1\n", AB),
    "tabs without names": ("a.csv", "40\t0\n50.5\t1\n", X),
    "bars": ("a.csv", "age|ill\n40|0\n50.5|1\n", AB),
    "line of Excel": ("a.csv", "sep=;\nage;ill\n40;0\n50.5;1\n", AB),
    "byte order mark and CRLF": ("a.csv", b"\xef\xbb\xbfage,ill\r\n40,0\r\n50.5,1\r\n", AB),
    "UTF-16": ("a.csv", "age,ill\n40,0\n50.5,1\n".encode("utf-16"), AB),
    "UTF-16 without a mark": ("a.csv", "age,ill\n40,0\n50.5,1\n".encode("utf-16-be"), AB),
    "Latin-1": ("a.csv", "gr\xf6\xdfe,ill\n40,0\n50.5,1\n".encode("latin-1"), {"größe": [40, 50.5], "ill": [0, 1]}),
    "separator at the end": ("a.csv", "age,ill,\n40,0,\n50.5,1,\n", AB),
    "separator at the end of rows": ("a.csv", "age,ill\n40,0,\n50.5,1,\n", AB),
    "empty lines": ("a.csv", "age,ill\n40,0\n\n50.5,1\n\n\n", AB),
    "rows without cells": ("a.csv", "age,ill\r\n40,0\r\n50.5,1\r\n,\r\n,\r\n", AB),
    "line of spaces": ("a.csv", "age,ill\n40,0\n50.5,1\n   \n", AB),
    "booleans": ("a.csv", "age,ill\n40,True\n50.5,False\n", {"age": [40, 50.5], "ill": ["True", "False"]}),
    "labels": ("a.csv", "age,ill\n40,no\n50.5,yes\n", {"age": [40, 50.5], "ill": ["no", "yes"]}),
    "label first": ("a.csv", "label,p0,p1\n7,0,255\n2,9,3\n", {"label": [7, 2], "p0": [0, 9], "p1": [255, 3]}),
    "question marks": ("a.csv", "40,0\n?,1\n", {"x1": ["40", "?"], "x2": [0, 1]}),
    "empty cells": ("a.csv", "age,ill\n,0\n50.5,1\n", {"age": [NAN, 50.5], "ill": [0, 1]}),
    "NA": ("a.csv", "age,ill\nNA,0\n50.5,1\n", {"age": ["NA", "50.5"], "ill": [0, 1]}),
    "signs": ("a.csv", "age,ill\n40%,$0\n50,1\n", "column 1 (age): expected a finite number, got '40%'"),
    "underscores": ("a.csv", "age,ill\n4_0,0\n50,1\n", "line 2, column 1 (age): expected a finite number, got '4_0'"),
    "years as names": ("a.csv", "2019,2020,y\n1,2,0\n3,4,1\n", {"2019": [1, 3], "2020": [2, 4], "y": [0, 1]}),
    "years as names beside text": ("a.csv", "state,2019\nNY,3\nCA,4\n", {"state": ["NY", "CA"], "2019": [3, 4]}),
    "spaces after separators": ("a.csv", "age, ill\n40, 0\n 50.5 , 1\n", AB),
    "spaces as separators": ("a.txt", "40 0\n 50.5   1 \n", X),
    "no names": ("a.data", "40,0\n50.5,1\n", X),
    "gzip": ("a.csv.gz", gzip.compress(b"age,ill\n40,0\n50.5,1\n"), AB),
    "capital suffix": ("A.CSV", "age,ill\n40,0\n50.5,1\n", AB),
    "repeated names": ("a.csv", "age,ill\n40,0\nage,ill\n50.5,1\n", AB),
    "a name twice": ("a.csv", "age,age\n40,0\n50.5,1\n", {"age": [40, 50.5], "age_2": [0, 1]}),
    "no-break space": ("a.csv", "age,ill\n40\xa0,0\n50.5,1\n", AB),
    "apostrophes": ("a.csv", "40,'0'\n50.5,'1'\n", X),
    "carriage returns": ("a.csv", "age,ill\r40,0\r50.5,1\r", AB),
    "separator in a name": ("a.csv", '"age, years",ill\n40,0\n50.5,1\n', {"age, years": [40, 50.5], "ill": [0, 1]}),
    "line feed in a name": ("a.csv", '"age\nyears",ill\n40,0\n50.5,1\n', {"age years": [40, 50.5], "ill": [0, 1]}),
    "dates": ("a.csv", "day,ill\n2020-01-01,0\n2020-01-02,1\n", {"day": ["2020-01-01", "2020-01-02"], "ill": [0, 1]}),
    "infinity": ("a.csv", "age,ill\ninf,0\n50,1\n", "line 2, column 1 (age): expected a finite number, got 'inf'"),
    "exponents": ("a.csv", "age,ill\n4e1,0\n50.5,1\n", AB),
    "hexadecimal": ("a.csv", "age,ill\n40,0x0\n50,1\n", "line 2, column 2 (ill): expected a finite number, got '0x0'"),
    "short line": ("a.csv", "age,ill\n40,0\n50\n", "line 3: expected 2 cells, got 1 in '50' (in 1 of 2 lines)"),
    "short first line": (
        "a.csv",
        "2,no\n1,2,0\n3,4,1\n5,6,1\n",
        "line 1: expected 3 cells, got 2 in '2,no' (in 1 of 4",
    ),
    "fewer names": (
        "a.csv",
        "a,y\n1,2,3,0\n3,4,5,1\n",
        "expected 2 cells, got 4 in '1,2,3,0' (in 2 of 2 lines): correct the f",
    ),
    "long line": ("a.csv", "age,ill\n40,0\n50,1,2\n5,6\n", "line 3: expected 2 cells, got 3 in '50,1,2'"),
    "zero byte": (
        "a.csv",
        "age,ill\n40,0\n50\0,1\n",
        r"line 3, column 1 (age): expected a finite number, got '50\x00'",
    ),
    "no target": ("a.csv", "age,ill\n40,0\n50.5,\n", {"age": [40, 50.5], "ill": [0, NAN]}),
    "nan and inf as names": ("a.csv", "nan,inf,y\n1,2,0\n3,4,1\n", {"nan": [1, 3], "inf": [2, 4], "y": [0, 1]}),
    "identifiers": ("a.csv", "id,ill\n1000025,0\n1002945,1\n", {"id": [1000025, 1002945], "ill": [0, 1]}),
    "nothing": ("a.csv", "", "zero rows"),
    "names only": ("a.csv", "age,ill\n", "zero rows"),
    "one class": ("a.csv", "age,ill\n40,0\n50.5,0\n", {"age": [40, 50.5], "ill": [0, 0]}),
    "digits of another script": ("a.csv", "age,ill\n٣,0\n50,1\n", "line 2, column 1 (age): expected a finite number"),
    "open quote": ("a.csv", 'age,ill\n40,0\n"50,1\n', "line 3, column 1: expected a quote that is closed, got '\"50'"),
    "text after a quote": (
        "a.csv",
        'age,ill\n40,0\n50,"1"x\n6,1\n',
        "line 3, column 2: expected a quote that is closed",
    ),
    "records": ("a.json", '[{"age": 40, "ill": false}, {"age": 50.5}]', {"age": [40, 50.5], "ill": ["False", ""]}),
    "records by line": ("a.jsonl", '{"age": 40, "ill": 0}\n{"age": 50.5, "ill": 1}\n', AB),
    "other JSON": ("a.json", '{"age": 1}x', "a.json: expected .json, got a damaged or foreign file"),
    "nested JSON": ("a.json", '[{"age": [1]}]', "column age: expected one value a row"),
    "large integers": ("a.csv", "id,ill\n12345678901234567890,0\n2,1\n", {"id": [12345678901234567890.0, 2]}),
    "comments": ("a.csv", "# from 2020\nage,ill\n40,0\n# half\n50.5,1\n", AB),
    "names in a comment": ("a.txt", "# age ill\n40 0\n50.5 1\n", AB),
    "title": ("a.csv", "Ward 7\nage,ill,x\n40,0,1\n50.5,1,1\n", {**AB, "x": [1, 1]}),
    "units": ("a.csv", "age,weight,ill\nyears,kg,\n40,70,0\n50.5,80,1\n", {**AB, "weight": [70, 80]}),
    "two levels of names": ("a.csv", "lab,lab,ill\na,b,\n1,2,0\n3,4,1\n", {"lab_a": [1, 3], "lab_b": [2, 4]}),
    "a bad cell in the first line": ("a.csv", "1,x,0\n1,2,0\n", "line 1, column 2: expected a finite number, got 'x'"),
    "damaged gzip": ("a.csv.gz", gzip.compress(b"age,ill\n40,0\n")[:-6], "got a damaged or foreign file"),
}


def values_of(table: Table) -> dict[str, list[Any]]:
    return {name: column.tolist() for name, column in table.columns.items()}


@pytest.mark.parametrize("special", TEXTS)
def test_text_reads_as_it_should_or_is_refused_with_its_first_fault(special: str, tmp_path: Path) -> None:
    name, content, expected = TEXTS[special]
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    if isinstance(expected, str):
        with pytest.raises(BadData) as refusal:
            load_rows(str(path))
        assert expected in str(refusal.value)
        return
    table = read_table(str(path))
    table.check()
    found = values_of(table)
    for column, cells in expected.items():
        np.testing.assert_array_equal(found[column], cells)
    assert [cell for cells in found.values() for cell in map(type, cells) if cell not in (float, str)] == []
    assert len(table.lines) == table.num_rows == len(next(iter(expected.values())))


def read(path: Path, content: str | bytes, options: str = "", names: Sequence[str] = ()) -> Table:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_table(f"{path}{options}", names)


@pytest.mark.parametrize(
    ("content", "note"),
    [
        ("0,1\n40,0\n", "although it has numbers; if it is a row, add ?header=no"),
        ("40,0\n1,1\n", "the columns are x1 to x2; if it has names, add ?header=yes"),
        ("gr\xf6\xdfe,ill\n40,0\n".encode("latin-1"), "not UTF-8, read as cp1252"),
        ("age,ill\n40,0\nage,ill\n,\n1,1\n", "1 repeated lines of names left out"),
        ("age,ill\n40,0\nage,ill\n,\n1,1\n", "1 empty lines left out"),
        ("id,ill\n12345678901234567890,0\n", "column id: numbers above 2^53 lose their last digits"),
        ("age,age\n40,0\n", "some names are there twice"),
    ],
)
def test_what_is_decided_or_left_out_is_noted(content: str | bytes, note: str, tmp_path: Path) -> None:
    assert note in "; ".join(read(tmp_path / "a.csv", content).notes)


def test_rows_have_the_lines_of_the_file(tmp_path: Path) -> None:
    table = read(tmp_path / "a.csv", 'name,ill\n\n"a\nb",0\n,\nc,1\n')
    assert table.lines.tolist() == [3, 6]


def test_separator_that_yields_the_names_of_the_task_wins(tmp_path: Path) -> None:
    content = "id;age,group;ill\n1;2,3;0\n4;5,6;1\n"
    assert read(tmp_path / "a.csv", content, names=("id", "ill")).names == ("id", "age,group", "ill")
    assert read(tmp_path / "a.csv", content, names=("age,group",)).names == ("id", "age,group", "ill")


def test_header_with_a_name_of_the_task_is_no_row(tmp_path: Path) -> None:
    content = "2001,2002\n2001,5\n2004,6\n"
    assert read(tmp_path / "a.csv", content).names == ("x1", "x2")
    assert read(tmp_path / "a.csv", content, names=("2002", "2001")).names == ("2001", "2002")


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        ("age;ill\n1,234;0\n", "?decimal=,", {"age": [1.234], "ill": [0]}),
        ("age;ill\n1,234;0\n", "?decimal=.", {"age": [1234], "ill": [0]}),
        ("age,ill\n40,0\n", "?header=no", {"x1": ["age", "40"], "x2": ["ill", "0"]}),
        ("2,1\n40,0\n", "?header=yes", {"2": [40], "1": [0]}),
        ("age ill/x\n40 0/1\n", "?separator=/", {"age ill": ["40 0"], "x": [1]}),
        ("age ill\n40 0\n", "?separator=space&decimal=.", {"age": [40], "ill": [0]}),
        (b"\xf0,ill\n40,0\n", "?encoding=koi8-r", {"П": [40], "ill": [0]}),
    ],
)
def test_option_is_taken_instead_of_what_is_detected(
    content: str | bytes, options: str, expected: dict[str, list[Any]], tmp_path: Path
) -> None:
    assert values_of(read(tmp_path / "a.csv", content, options)) == expected


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("?header=maybe", "expected header=yes or header=no, got 'maybe'"),
        ("?decimal=;", "expected . or , as decimal"),
        ("?separator=ab", "expected one character or tab, space"),
        ("?encoding=klingon", "expected an encoding such as utf-8"),
        ("?sheet=1", "expected options of this format, which are separator, decimal, header, encoding, got 'sheet'"),
        ("?encoding=utf-8", "expected text in utf-8, got "),
    ],
)
def test_bad_option_is_rejected(options: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(BadData) as refusal:
        read(tmp_path / "a.csv", b"\xf0,ill\n40,0\n", options)
    assert reason in str(refusal.value)


def test_column_that_becomes_text_keeps_the_cells_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fedmq.data.text, "BLOCK_VALUES", 4)
    table = read(tmp_path / "a.csv", "code,ill\n" + "".join(f"0{row},1\n" for row in range(9)) + "A1,0\n")
    assert table.columns["code"].tolist() == [*(f"0{row}" for row in range(9)), "A1"]


def test_clean_blocks_are_read_by_numpy_as_by_the_csv_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = ["1", "-2.5e3", " 4", "", "NA", "nan", "inf", "1_0", "1\xa0", "1,5", "'a'", '"q"', "#c", "1e400", "x"]
    monkeypatch.setattr(fedmq.data.text, "BLOCK_VALUES", 9)
    fast = fedmq.data.text._Scan.add_clean
    taken = 0

    def counted(*arguments: Any) -> bool:
        nonlocal taken
        done = fast(*arguments)
        taken += done
        return done

    for seed in range(150):
        draw = random.Random(seed)
        separator = draw.choice(",;\t ")
        lines = [separator.join("abc")] * draw.randint(0, 1)
        for _ in range(30):
            row = [str(draw.randint(0, 99)), str(draw.random()), draw.choice(["u", "v"])]
            if draw.random() < 0.05:
                row[draw.randint(0, 2)] = draw.choice(cells)
            lines += [separator.join(row)] + [""] * (draw.random() < 0.05)
        content = "\n".join(lines) + "\n"
        read_both = []
        for add_clean in (counted, lambda *_: False):
            monkeypatch.setattr(fedmq.data.text._Scan, "add_clean", add_clean)
            table = read(tmp_path / "a.csv", content)
            read_both.append(repr((values_of(table), table.lines.tolist(), table.notes, table.faults)))
        assert read_both[0] == read_both[1], content
    assert taken > 500


@pytest.mark.parametrize(("limit", "value"), [("BYTES_MAX", 20), ("VALUES_MAX", 7), ("COLUMNS_MAX", 1)])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".json", ".npy", ".db"])
def test_limits_are_checked(
    limit: str, value: int, suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"rows{suffix}"
    text = b"age,ill\n" + b"40,0\n" * 4
    if suffix == ".npy":
        np.save(path, np.ones((4, 2)))
    elif suffix == ".db":
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE rows AS SELECT value AS a, value AS b FROM json_each('[1,2,3,4]')")
        connection.close()
    else:
        packed = {".csv": text, ".csv.gz": gzip.compress(text), ".json": b'[{"a":1,"b":2},{"a":1},{"a":2},{"b":2}]'}
        path.write_bytes(packed[suffix])
    assert read_table(str(path)).num_rows == 4
    monkeypatch.setattr(fedmq.data.limits, limit, value)
    with pytest.raises(BadData, match=rf"expected at most {value} (bytes|values|columns)"):
        read_table(str(path))


@pytest.mark.parametrize("name", ["a.csv.gz", "a.json.gz"])
def test_size_of_a_compressed_file_is_that_of_its_content(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fedmq.data.limits, "BYTES_MAX", 2000)
    with pytest.raises(BadData, match="expected at most 2000 bytes when decompressed, got more"):
        read(tmp_path / name, gzip.compress(b"40,0\n" * 10_000))


def test_endless_line_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fedmq.data.text, "LINE_CHARACTERS_MAX", 100)
    with pytest.raises(BadData, match="lines of at most 100 characters"):
        read(tmp_path / "a.csv", "1," * 100)


def test_named_pipe_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.csv")
    with pytest.raises(BadData, match="not a regular file"):
        read_table(str(tmp_path / "rows.csv"))


def archive(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def saved(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


INPUTS, TARGETS = np.array([[40.0, 1.0], [50.5, 2.0]]), np.array([0, 1])
XY = {"x1": [40.0, 50.5], "x2": [1.0, 2.0], "y": [0.0, 1.0]}
ARRAYS: Mapping[str, tuple[str, bytes, Mapping[str, Sequence[Any]] | str]] = {
    "X and y": (".npz", archive(X=INPUTS, y=TARGETS), XY),
    "of Keras": (".npz", archive(x_train=INPUTS, y_train=TARGETS, x_test=INPUTS, y_test=TARGETS), XY),
    "without names": (".npz", archive(arr_0=INPUTS, arr_1=TARGETS), XY),
    "half precision": (".npz", archive(inputs=(INPUTS).astype("f2"), targets=TARGETS), XY),
    "big-endian": (".npz", archive(inputs=INPUTS.astype(">f8"), targets=TARGETS.astype(">i4")), XY),
    "Fortran order": (".npz", archive(inputs=np.asfortranarray(INPUTS), targets=TARGETS), XY),
    "targets as a column": (".npz", archive(inputs=INPUTS, targets=TARGETS[:, None]), XY),
    "one-hot targets": (".npz", archive(inputs=INPUTS, targets=np.eye(2)), XY),
    "two targets": (".npz", archive(inputs=INPUTS, targets=INPUTS), "expected targets of shape (rows,) or one-hot"),
    "images": (".npz", archive(inputs=np.ones((2, 3, 4)), targets=TARGETS), "got shape (2, 3, 4): add ?flatten=yes"),
    "images in one array": (".npy", saved(np.ones((2, 3, 4))), "got shape (2, 3, 4): add ?flatten=yes"),
    "text targets": (".npz", archive(inputs=INPUTS, targets=["no", "yes"]), {**XY, "y": ["no", "yes"]}),
    "objects": (".npz", archive(inputs=INPUTS, targets=np.array([{}, 1], object)), "got dtype object"),
    "an array of objects": (".npy", saved(np.array([[{}, 1]], object)), "got dtype object"),
    "boolean targets": (".npz", archive(inputs=INPUTS, targets=TARGETS == 1), {**XY, "y": ["False", "True"]}),
    "long double": (".npz", archive(inputs=INPUTS.astype(np.longdouble), targets=TARGETS), XY),
    "unsigned": (".npz", archive(inputs=INPUTS, targets=TARGETS.astype("u8")), XY),
    "NaN": (".npz", archive(inputs=INPUTS * [NAN, 1], targets=TARGETS), {**XY, "x1": [NAN, NAN]}),
    "structured": (".npy", saved(np.array([(40.0, b"no")], [("a", "f8"), ("b", "S3")])), {"a": [40], "b": ["no"]}),
    "a table": (".npy", saved(INPUTS), {"x1": [40.0, 50.5], "x2": [1.0, 2.0]}),
    "a table in an archive": (".npz", archive(table=INPUTS), {"x1": [40.0, 50.5], "x2": [1.0, 2.0]}),
    "columns by name": (".npz", archive(age=INPUTS[:, 0], ill=TARGETS), AB),
    "times": (".npz", archive(day=np.array(["2020-01-01", "NaT"], "M8[D]"), ill=TARGETS), {"day": ["2020-01-01", ""]}),
    "large numbers": (".npz", archive(inputs=INPUTS * 2.0**1000, targets=TARGETS), {"x2": [2.0**1000, 2.0**1001]}),
    "no rows": (".npz", archive(inputs=np.ones((0, 2)), targets=np.ones(0)), "got shape (0, 2): add rows"),
    "fewer targets": (".npz", archive(inputs=INPUTS, targets=TARGETS[:1]), "got shapes (2, 2) and (1,)"),
}  # fmt: skip


@pytest.mark.parametrize("special", ARRAYS)
def test_arrays_read_as_they_should_or_are_refused(special: str, tmp_path: Path) -> None:
    suffix, content, expected = ARRAYS[special]
    path = tmp_path / f"rows{suffix}"
    path.write_bytes(content)
    if isinstance(expected, str):
        with pytest.raises(BadData) as refusal:
            read_table(str(path))
        assert expected in str(refusal.value)
        return
    found = values_of(read_table(str(path)))
    for column, cells in expected.items():
        np.testing.assert_array_equal(found[column], cells)


def test_images_are_flattened_when_asked_for(tmp_path: Path) -> None:
    (tmp_path / "rows.npz").write_bytes(archive(inputs=np.ones((2, 3, 4)), targets=TARGETS))
    table = read_table(f"{tmp_path / 'rows.npz'}?flatten=yes")
    assert table.names == (*(f"x{place}" for place in range(1, 13)), "y")


def test_rows_without_a_schema_take_true_and_false_as_one_and_zero(tmp_path: Path) -> None:
    rows = positional(read(tmp_path / "a.csv", "age,ill\n40,True\n50.5,FALSE\n"))
    assert rows.targets.tolist() == [1, 0]


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_folder_unites_decimal_points_and_commas(names: tuple[str, str], tmp_path: Path) -> None:
    point, comma = names
    (tmp_path / f"{point}.csv").write_text("age,size\n40.5,1.5\n41,small\n")
    (tmp_path / f"{comma}.csv").write_text("age;size\n50,5;2,5\n51;a,b\n52;1.234,5\n")
    table = read_table(str(tmp_path))
    assert (table.decimal, sorted(table.columns["age"])) == (".", [40.5, 41, 50.5, 51, 52])
    assert sorted(table.columns["size"]) == ["1,234.5", "1.5", "2.5", "a,b", "small"]


def test_folder_unites_columns_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("age,ill\n40,0\n1,1\n")
    (tmp_path / "b.csv").write_text("ill;age\nyes;50.5\n")
    (tmp_path / "c.json").write_text('[{"ill": true, "age": 60}]')
    (tmp_path / "_SUCCESS.csv").write_text("")
    assert values_of(read_table(str(tmp_path))) == {"age": [40, 1, 50.5, 60], "ill": ["0", "1", "yes", "True"]}
    (tmp_path / "d.csv").write_text("ill,weight\n1,2\n")
    with pytest.raises(
        BadData, match=re.escape("d.csv: expected the columns of a.csv, got 'weight' that is not there")
    ):
        read_table(str(tmp_path))
