"""Tables: what counts as a number, and data frames of any library."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedmq.errors import BadData
from fedmq.tables.table import Table, is_number, numbers

NAN = float("nan")


@pytest.mark.parametrize(
    ("cells", "decimal", "expected"),
    [
        (["1", "", "-2.5e3"], ".", [1, NAN, -2500]),
        (["+.5", "3."], ".", [0.5, 3]),
        (["1,234", "1,234,567.5", "7"], ".", [1234, 1234567.5, 7]),
        (["1,5", "2", ""], ",", [1.5, 2, NAN]),
        (["1.234,5"], ",", [1234.5]),
        ([" 1", "2\xa0", "  "], ".", [1, 2, NAN]),
        (["", ""], ".", [NAN, NAN]),
    ],
)
def test_cells_of_numbers_are_read_as_numbers(cells: list[str], decimal: Any, expected: list[float]) -> None:
    np.testing.assert_array_equal(numbers(cells, decimal), expected)


@pytest.mark.parametrize(
    "cell", ["1_000", "٣", "inf", "nan", "0x10", "1e400", "1\0", "e5", "1-1", "12%", "1,5", "NA", "1 000"]
)
def test_other_cell_makes_the_column_text(cell: str) -> None:
    assert numbers(["1", cell]) is None
    assert not is_number(cell)


def test_cell_of_many_digits_and_a_letter_is_looked_at_once() -> None:
    assert not is_number("1" * 300_000 + "x"), "in time that is quadratic in its length, this would take minutes"


def test_decimal_point_is_no_number_beside_a_decimal_comma() -> None:
    assert numbers(["1.5"], ",") is None


def test_data_frame_of_pandas_becomes_a_table() -> None:
    frame = pd.DataFrame(
        {
            "number": pd.array([1, None, 3], dtype="Int64"),
            "text": ["x", None, " y "],
            "mixed": [1, "1.5", None],
            "flag": [True, False, True],
            "level": pd.Categorical(["u", None, "v"]),
            "day": pd.to_datetime(["2020-01-01", None, "2020-01-02"]),
            "time": [datetime.datetime(2020, 1, 1, 12, tzinfo=datetime.UTC), None, datetime.date(2020, 1, 2)],
        },
        index=[7, 8, 9],
    )
    table = Table.from_frame(frame, "load")
    assert table.names == ("number", "text", "mixed", "flag", "level", "day", "time")
    assert (table.source, table.num_rows, table.lines.tolist()) == ("load", 3, [1, 2, 3])
    np.testing.assert_array_equal(table.columns["number"], [1, NAN, 3])
    np.testing.assert_array_equal(table.columns["mixed"], [1, 1.5, NAN])
    assert {name: table.columns[name].tolist() for name in ("text", "flag", "level", "day", "time")} == {
        "text": ["x", "", "y"],
        "flag": ["True", "False", "True"],
        "level": ["u", "", "v"],
        "day": ["2020-01-01", "", "2020-01-02"],
        "time": ["2020-01-01T12:00:00+00:00", "", "2020-01-02"],
    }


def test_mapping_of_columns_becomes_a_table_with_notes() -> None:
    table = Table.from_frame({"id": [1 << 60, 2], 1: ["a", "b"]})
    assert table.names == ("id", "1")
    assert "column id: numbers above 2^53" in table.notes[0]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        ([1, 2], "got list"),
        ({"a": [1], "b": [1, 2]}, "got 1 to 2 rows"),
        ({"1": [1], 1: [1]}, "two of one name"),
        ({"a": [[1, 2], [3]]}, "column a, row 1: expected one value, got list"),
        ({"a": [[1, 2], [3, 4]]}, "column a: expected one value a row"),
    ],
)
def test_unusable_data_frame_is_rejected(frame: Any, reason: str) -> None:
    with pytest.raises(BadData) as rejection:
        Table.from_frame(frame)
    assert reason in str(rejection.value)
