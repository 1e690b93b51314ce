"""Tables from queries, databases, workbooks and functions, and what a query cannot do."""

from __future__ import annotations

import sqlite3
import sys
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pytest

from fedmq.data.readers import files_of, load_data, read_table
from fedmq.errors import BadData
from fedmq.tables.table import Table
from fedmq.tasks.task import Rows

NAN = float("nan")


def values_of(table: Table) -> dict[str, list[Any]]:
    return {name: column.tolist() for name, column in table.columns.items()}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    inside = tmp_path / "clinic"
    inside.mkdir()
    (tmp_path / "secret.csv").write_text("a,b\n1,2\n")
    (inside / "north.csv").write_text(
        "id,age,bmi,consent,day\n1,40,22.5,true,2020-01-01\n2,50,,true,\n3,60,30,false,\n"
    )
    (inside / "out.csv").symlink_to(tmp_path / "secret.csv")
    monkeypatch.chdir(inside)
    return inside


def error_of(spec: str) -> str:
    with pytest.raises(BadData) as refusal:
        read_table(spec)
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


def test_query_maps_joins_and_filters_files(folder: Path) -> None:
    (folder / "labels.csv").write_text("id;ill;weight\n1;no;70,5\n2;yes;80\n")
    query = (
        "SELECT age, bmi * 2 AS double, consent, day, ill, weight FROM 'north.csv' "
        "JOIN 'labels.csv?decimal=,' USING (id) WHERE consent ORDER BY age;"
    )
    table = read_table(query)
    np.testing.assert_array_equal(table.columns["double"], [45, NAN])
    found = values_of(table)
    assert {name: found[name] for name in ("age", "consent", "day", "ill", "weight")} == {
        "age": [40, 50],
        "consent": ["true", "true"],
        "day": ["2020-01-01", ""],
        "ill": ["no", "yes"],
        "weight": [70.5, 80],
    }
    assert sorted(path.name for path in files_of(query)) == ["labels.csv", "north.csv"]
    assert [path.name for path in files_of("FROM 'n*.csv'")] == ["north.csv"]


def test_broken_file_in_a_query_is_rejected(folder: Path) -> None:
    (folder / "labels.csv").write_text("id,ill\n1,no\n2\n")
    assert "labels.csv: line 3: expected 2 cells, got 1" in error_of("FROM 'labels.csv'")


def test_values_of_all_types_become_numbers_or_text(folder: Path) -> None:
    table = read_table(
        "SELECT 1::HUGEINT AS h, 1.5::DECIMAL(4, 2) AS d, 'x'::VARCHAR AS s, NULL AS n, true AS t, 1 AS t, "
        "TIMESTAMP '2020-01-02 03:04:05' AS moment, 'a'::ENUM('a', 'b') AS e, 0.5::FLOAT AS f"
    )
    assert (
        values_of(table).items()
        >= {
            "h": [1.0],
            "d": [1.5],
            "s": ["x"],
            "t": ["True"],
            "t_2": [1.0],
            "moment": ["2020-01-02T03:04:05"],
            "e": ["a"],
            "f": [0.5],
        }.items()
    )
    assert np.isnan(table.columns["n"]).all()


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM '../secret.csv'",
        "SELECT * FROM 'out.csv'",
        "SELECT * FROM read_text('/etc/hostname')",
        "SELECT * FROM read_csv('/etc/hostname')",
        "SELECT * FROM glob('/etc/*')",
        "SELECT * FROM 'https://example.org/a.csv'",
        "SELECT * FROM sqlite_scan('north.db', 'rows')",
        "SELECT getenv('HOME')",
        "SELECT * FROM frame",
        "SELECT 1; COPY (SELECT 1) TO 'made.csv'",
        "WITH a AS (SELECT 1) INSERT INTO b SELECT * FROM a",
        "SELECT * INTO made FROM 'north.csv'",
        "FROM 'north.csv' WHERE nothing",
        "SELECT * FROM 'north.csv' WHERE age > 99",
        "SELECT * FROM 'missing.csv'",
    ],
)
def test_query_reads_nothing_but_rows_of_the_folder(folder: Path, query: str) -> None:
    frame = pd.DataFrame({"a": [1]})
    assert error_of(query).startswith(f"query {query!r:.60}: expected ")
    assert sorted(path.name for path in folder.iterdir()) == ["north.csv", "out.csv"]
    assert len(frame) == 1


@pytest.mark.parametrize(
    "statement",
    ["COPY (SELECT 1) TO 'made.csv'", "ATTACH 'made.db'", "EXPORT DATABASE 'made'", "INSTALL excel", "SET threads = 1"],
)
def test_other_statement_is_no_data(folder: Path, statement: str) -> None:
    assert "expected data such as xor:1/2" in error_of(statement)


def test_parquet_is_read_from_a_file_and_a_folder(folder: Path) -> None:
    (folder / "set.parquet").mkdir()
    for name in ("set.parquet/part-0.parquet", "rows.parquet"):
        duckdb.sql("SELECT * FROM (VALUES (1.5, 'no'), (NULL, 'yes')) AS t(age, ill)").write_parquet(str(folder / name))
    for name in ("set.parquet", "rows.parquet"):
        table = read_table(name)
        np.testing.assert_array_equal(table.columns["age"], [1.5, NAN])
        assert table.columns["ill"].tolist() == ["no", "yes"]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "clinic.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE patients (age REAL, ill TEXT)")
        connection.executemany("INSERT INTO patients VALUES (?, ?)", [(40, "no"), (None, "yes")])
    connection.close()
    return path


def test_database_gives_its_only_table_a_named_one_or_a_query(database: Path) -> None:
    for options in ("", "?table=patients", "?query=SELECT age, ill FROM patients WHERE 1=1 OR ill = '&'"):
        table = read_table(f"{database}{options}")
        np.testing.assert_array_equal(table.columns["age"], [40, NAN])
        assert table.columns["ill"].tolist() == ["no", "yes"]
    assert files_of(f"{database}?table=patients") == [database]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("?table=visits", "expected a table 'visits', got patients: add ?table=NAME"),
        ("?query=DELETE FROM patients", "not authorized"),
        ("?query=ATTACH 'other.db' AS other", "not authorized"),
        ("?query=PRAGMA journal_mode=WAL", "not authorized"),
        ("?query=SELECT age FROM patients WHERE age > 99", "zero rows"),
        ("?query=SELECT", "incomplete input"),
    ],
)
def test_database_is_only_read(database: Path, options: str, reason: str) -> None:
    before = database.read_bytes()
    assert reason in error_of(f"{database}{options}")
    assert database.read_bytes() == before


def test_database_with_several_tables_asks_for_one(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE visits (day TEXT)")
    connection.close()
    assert "expected one table, got patients, visits: add ?table=NAME" in error_of(str(database))
    database.write_bytes(b"no database" * 100)
    assert "file is not a database" in error_of(str(database))


def workbook(path: Path, *sheets: str) -> None:
    """Write sheets, each of which is the XML of its rows."""
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    office = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    listed, linked = "", ""
    with zipfile.ZipFile(path, "w") as archive:
        for place, rows in enumerate(sheets, 1):
            archive.writestr(
                f"xl/worksheets/sheet{place}.xml",
                f'<worksheet xmlns="{main}"><sheetData>{rows}</sheetData></worksheet>',
            )
            listed += f'<sheet name="Ward {place}" sheetId="{place}" r:id="r{place}"/>'
            linked += f'<Relationship Id="r{place}" Type="{office}/worksheet" Target="worksheets/sheet{place}.xml"/>'
        archive.writestr(
            "xl/workbook.xml", f'<workbook xmlns="{main}" xmlns:r="{office}"><sheets>{listed}</sheets></workbook>'
        )
        archive.writestr(
            "xl/_rels/workbook.xml.rels", f'<Relationships xmlns="{package}/relationships">{linked}</Relationships>'
        )
        root = f'<Relationship Id="r1" Type="{office}/officeDocument" Target="xl/workbook.xml"/>'
        archive.writestr("_rels/.rels", f'<Relationships xmlns="{package}/relationships">{root}</Relationships>')
        archive.writestr("[Content_Types].xml", f'<Types xmlns="{package}/content-types"/>')  # fmt: skip


def row(number: int, *cells: object) -> str:
    def xml(place: int, cell: object) -> str:
        where = f'r="{"ABCDEFGH"[place]}{number}"'
        if isinstance(cell, str):
            return f'<c {where} t="inlineStr"><is><t>{cell}</t></is></c>'
        kind = ' t="b"' if isinstance(cell, bool) else ""
        return f"<c {where}{kind}><v>{int(cell) if isinstance(cell, bool) else cell}</v></c>"

    return (
        f'<row r="{number}">{"".join(xml(place, cell) for place, cell in enumerate(cells) if cell is not None)}</row>'
    )


def test_sheet_of_a_workbook_is_a_table(tmp_path: Path) -> None:
    path = tmp_path / "rows.xlsx"
    first = row(1, "Report") + row(3, "age", "code", "ill", "") + row(4, 40.5, 7, True) + row(6, None, 8.0, False)
    workbook(path, first, row(1, "x", "y") + row(2, 1, "a"))
    table = read_table(str(path))
    np.testing.assert_array_equal(table.columns["age"], [40.5, NAN])
    assert (table.columns["code"].tolist(), table.columns["ill"].tolist()) == ([7, 8], ["True", "False"])
    assert (table.names, table.lines.tolist()) == (("age", "code", "ill"), [4, 6])
    assert "the first sheet of 2, 'Ward 1'" in table.notes[-1]
    assert values_of(read_table(f"{path}?sheet=Ward 2")) == {"x": [1], "y": ["a"]}
    assert values_of(read_table(f"{path}?sheet=Ward 2&header=no")) == {"x1": ["x", "1"], "x2": ["y", "a"]}
    assert "expected a sheet 'Ward 3', got 'Ward 1', 'Ward 2'" in error_of(f"{path}?sheet=Ward 3")


def test_unusable_workbook_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rows.xlsx"
    workbook(path, "")
    assert "got an empty sheet" in error_of(str(path))
    workbook(path, row(1, "a", "b"))
    assert "zero rows" in error_of(str(path))
    path.write_bytes(b"no archive")
    assert "got a damaged or foreign file" in error_of(str(path))
    monkeypatch.setitem(sys.modules, "python_calamine", None)
    assert 'pip install "fedmq[tables]"' in error_of(str(path))


@pytest.mark.parametrize(
    "last", ['<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>', row(1048576, *"abcdefgh") * 7]
)
def test_far_cell_of_a_workbook_is_refused_before_the_area_is_allocated(tmp_path: Path, last: str) -> None:
    path = tmp_path / "rows.xlsx"
    workbook(path, row(1, "a", "y") + row(2, 1, 0) + last.replace('"H', '"AX'))
    assert "cells from the first to the last one of a sheet, got 1048576 rows" in error_of(str(path))
    workbook(path, row(999, "a", "y") + row(1000, 1, 0))
    assert values_of(read_table(str(path))) == {"a": [1], "y": [0]}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Any:
    made = ModuleType("clinic_tables")
    monkeypatch.setitem(sys.modules, "clinic_tables", made)
    return made


def test_function_returns_a_data_frame_or_one_with_its_targets(module: Any) -> None:
    frame = pd.DataFrame({"age": [40.0, 50.0], "ill": ["no", "yes"]})
    module.load = lambda: frame
    assert values_of(read_table("clinic_tables:load")) == {"age": [40, 50], "ill": ["no", "yes"]}
    module.load = lambda: (frame[["age"]], frame["ill"])
    assert values_of(read_table("clinic_tables:load")) == {"age": [40, 50], "ill": ["no", "yes"]}
    module.load = lambda: (frame[["age"]], np.array([0, 1]))
    assert values_of(read_table("clinic_tables:load")) == {"age": [40, 50], "y": [0, 1]}
    module.load = lambda: {"age": [40, 50], "ill": [True, False]}
    assert values_of(read_table("clinic_tables:load")) == {"age": [40, 50], "ill": ["True", "False"]}


def test_rows_without_names_are_no_table(module: Any) -> None:
    module.load = lambda: ([[1.0], [2.0]], [0, 1])
    assert isinstance(load_data("clinic_tables:load"), Rows)
    assert "expected a table with names, got rows without" in error_of("clinic_tables:load")
    assert "expected a table with names" in error_of("xor:1/2")
