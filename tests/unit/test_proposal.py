"""What `fedmq new` proposes for the columns of tables, and that the file it writes is read as it is meant."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedmq.errors import BadData
from fedmq.tables.encoding import encode_table
from fedmq.tables.schema import Column, Target
from fedmq.tables.table import Table
from fedmq.tasks.proposal import propose
from fedmq.tasks.table_task import FileColumn, parse_task_file, task_of
from fedmq.tasks.task_text import text_of

ROWS = 40


def table(source: str = "north.csv", **columns: Any) -> Table:
    return Table.from_frame({name: np.array(cells, object) for name, cells in columns.items()}, source)


def proposed(cells: list[Any], name: str = "x", place: int = 1) -> tuple[FileColumn, str]:
    """Return the proposal for a column beside another and a target of classes."""
    other = {"a": [0.25 * row for row in range(len(cells))]}
    columns = {name: cells, **other} if place == 0 else {**other, name: cells}
    found = propose([table(**columns, y=["u", "v"] * (len(cells) // 2))], "y")
    return next((one.column, one.why) for one in found.columns if one.name == name)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([0.5, 1.5] * 20, FileColumn("number")),
        ([*range(39), "?"], FileColumn("number")),
        (["12%", "5%"] * 20, FileColumn("number", strip="%")),
        (["$12", "$5.5"] * 20, FileColumn("number", strip="$")),
        ([*range(38), "unknown", "unknown"], FileColumn("number", missing_cells=("unknown",))),
        (["1_000", *range(39)], FileColumn("number")),
        (["0x10", "1e3"] * 20, FileColumn("number")),
        (["yes", "no", "", "Yes"] * 10, FileColumn("boolean")),
        (["True", "False"] * 20, FileColumn("boolean")),
        (["b", "a", "10", "9"] * 10, FileColumn("category", categories=("9", "10", "a", "b"))),
        ([f"street {row}" for row in range(ROWS)], FileColumn("ignored")),
        (["x"] * ROWS, FileColumn("ignored")),
        ([7] * ROWS, FileColumn("ignored")),
        ([""] * ROWS, FileColumn("ignored")),
        (["2020-01-01", "2020-02-03 04:05"] * 20, FileColumn("ignored")),
    ],
)
def test_kind_of_a_column_follows_from_its_cells(cells: list[Any], expected: FileColumn) -> None:
    assert proposed(cells)[0] == expected


@pytest.mark.parametrize(
    ("name", "cells", "place"),
    [
        ("id", [1000025 + 37 * row * row for row in range(ROWS)], 1),
        ("patient_id", [f"P-{row}" for row in range(ROWS)], 1),
        ("index", [*range(ROWS)], 0),
        ("nr", [*range(1, ROWS + 1)], 0),
    ],
)
def test_identifiers_are_proposed_as_ignored_with_the_reason(name: str, cells: list[Any], place: int) -> None:
    column, why = proposed(cells, name, place)
    assert column.kind == "ignored"
    assert why


def test_whole_numbers_that_are_no_identifier_stay_numbers() -> None:
    assert proposed([18 + row * row for row in range(ROWS)], "price")[0] == FileColumn("number")


@pytest.mark.parametrize(
    ("cells", "form"),
    [
        (["2020-01-31", "2020-02-01"], "YYYY-MM-DD"),
        (["31.01.2020", "1.2.2020"], "DD.MM.YYYY"),
        (["31/01/2020", "01/02/2020"], "DD/MM/YYYY"),
        (["01/31/2020", "01/02/2020"], "MM/DD/YYYY"),
        (["1-01", "3-12"], "YYYY-MM"),
    ],
)
def test_dates_are_days_if_there_is_no_other_column(cells: list[str], form: Any) -> None:
    (column,) = propose([table(day=cells, y=[1.5, 2.5])], "y").columns
    assert column.column == FileColumn("date", form=form)


def test_date_of_which_day_and_month_may_be_swapped_is_said() -> None:
    (column,) = propose([table(day=["01/02/2020", "03/04/2020"], y=[1.5, 2.5])], "y").columns
    assert "MM/DD/YYYY" in column.why


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["M", "B"] * 20, Target(name="y", kind="class", classes=("B", "M"))),
        ([2, 1, 10] * 20, Target(name="y", kind="class", classes=("1", "2", "10"))),
        ([-1, 1] * 20, Target(name="y", kind="class", classes=("-1", "1"))),
        ([True, False] * 20, Target(name="y", kind="class", classes=("False", "True"))),
        ([0] * ROWS, Target(name="y", kind="class", classes=("0", "1"))),
        ([0.5 * row for row in range(ROWS)], Target(name="y", kind="number")),
        ([*range(ROWS)], Target(name="y", kind="number")),
        (["M", "B", ""] * 20, Target(name="y", kind="class", classes=("B", "M"))),
    ],
)
def test_kind_of_the_target_follows_from_its_cells(cells: list[Any], expected: Target) -> None:
    read = table(a=[0.5 * row for row in range(len(cells))], y=cells)
    task = task_of(parse_task_file(text_of(propose([read], "y"), "t", ["north.csv"])))
    assert task.schema is not None
    assert task.schema.target == expected


def test_whole_numbers_taken_as_classes_are_said_to_be_perhaps_amounts() -> None:
    few, two = (
        propose([table(a=[0.5 * row for row in range(60)], y=cells * 20)], "y") for cells in ([0, 1, 2], [0, 1, 1])
    )
    assert (few.target.kind, "3 whole numbers: for amounts" in few.target_why) == ("class", True)
    assert "amounts" not in two.target_why


def test_large_values_have_a_scale() -> None:
    found = propose([table(a=[1, 2, 3, 4], y=[100000, 300000.5, 500000, 700000])], "y")
    assert found.target.scale == 1e5


@pytest.mark.parametrize(
    ("columns", "target", "expected"),
    [
        ({"a": [1, 2], "diagnosis": ["M", "B"]}, "Diagnosis", "did you mean 'diagnosis'?"),
        ({"a": [1] * 30, "y": [f"text {row}" for row in range(30)]}, "y", "text with 30 different values"),
        ({"a": [1, 2], "y": ["", ""]}, "y", "empty cells only"),
        ({"a": [1, 2], "y": ["M", "M"]}, "y", "two or more classes, got one, 'M'"),
        ({"y": ["M", "B"]}, "y", "a column to learn from"),
        ({"a": [], "y": []}, "y", "columns and rows"),
    ],
)
def test_table_that_cannot_be_learned_from_is_refused(columns: Any, target: str, expected: str) -> None:
    with pytest.raises(BadData, match="expected") as caught:
        propose([table(**columns)], target)
    assert expected in str(caught.value)


def test_target_is_a_usual_name_or_the_last_column() -> None:
    assert propose([table(Class=["u", "v"], a=[1, 2])]).target.name == "Class"
    found = propose([table(a=[1, 2], b=["u", "v"])])
    assert (found.target.name, len(found.notes)) == ("b", 1)


def test_several_tables_unite_categories_and_classes_and_keep_common_columns() -> None:
    north = table(color=["red", "green"] * 5, bmi=[1.5] * 9 + [2.5], y=["M"] * 10)
    south = table("south.csv", y=["B"] * 10, BMI=[1.5] * 10, color=["blue", "red"] * 5)
    found = propose([north, south], "y")
    assert found.target.classes == ("B", "M")
    by_name = {one.name: one for one in found.columns}
    assert by_name["color"].column.categories == ("blue", "green", "red")
    assert by_name["bmi"].column.kind == "ignored"
    assert by_name["bmi"].why == "not in south.csv, which has 'BMI'"


def test_written_file_is_read_as_it_is_meant_with_odd_names() -> None:
    names = ["Age, years", "größe", 'quo"te', "new\nline", "back\\slash", "a.b", "del\x7f", "tab\t"]
    read = table(**{name: ["a\nb", 'c"d'] * 10 for name in names}, y=["M\\", "B"] * 10)
    text = text_of(propose([read], "y"), "odd", ["odd\nname.csv"])
    task = task_of(parse_task_file(text))
    assert task.schema is not None
    assert task.schema.columns == tuple(
        Column(name=name, kind="category", categories=("a\nb", 'c"d')) for name in names
    )
    assert not np.isnan(encode_table(task.schema, read).columns).any()


def test_written_file_has_no_other_cell_of_the_table() -> None:
    read = table(
        age=[str(12345.5 + row) for row in range(30)], note=[f"secret {row}" for row in range(30)], y=[0, 1] * 15
    )
    text = text_of(propose([read], "y"), "t", ["north.csv"])
    assert "secret" not in text
    assert "12345" not in text
