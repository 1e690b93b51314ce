"""The cells of a table become numbers by the schema of the task, or all faults are named at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fedmq.errors import BadConfiguration, BadTable
from fedmq.tables.encoding import encode_table
from fedmq.tables.preparation import Preparation
from fedmq.tables.schema import Column, Schema, Target
from fedmq.tables.table import Table
from fedmq.trainer.decline import decline_of

NAN = float("nan")
DIAGNOSIS = Target(name="y", kind="class", classes=("M", "B"))


def table(decimal: Any = ".", **columns: Any) -> Table:
    """Return a table whose first row is line 2."""
    frame = Table.from_frame({name: np.array(cells, object) for name, cells in columns.items()}, "south.csv")
    lines = np.arange(frame.num_rows) + 2
    return Table(frame.source, frame.names, frame.columns, frame.num_rows, lines, decimal=decimal)


def faults_of(schema: Schema, read: Table) -> tuple[str, ...]:
    with pytest.raises(BadTable) as caught:
        encode_table(schema, read)
    return caught.value.faults


def one(column: Column, cells: list[Any], decimal: Any = ".") -> Any:
    """Return the encoded cells of one column."""
    schema = Schema(columns=(column,), target=Target(name="y"))
    return encode_table(schema, table(decimal, x=cells, y=[0.0] * len(cells))).columns[:, 0]


def test_columns_are_found_by_name_in_any_order() -> None:
    schema = Schema(columns=(Column(name="a"), Column(name="b")), target=DIAGNOSIS)
    for read in (table(a=[1, 2], b=[3, 4], y=["B", "M"]), table(y=["B", "M"], b=[3, 4], a=[1, 2])):
        encoded = encode_table(schema, read)
        np.testing.assert_array_equal(encoded.columns, [[1, 3], [2, 4]])
        np.testing.assert_array_equal(encoded.targets, [1, 0])
        assert encoded.targets.dtype == np.int64
        assert (encoded.notes, dict(encoded.left_out), dict(encoded.unlisted)) == ((), {}, {})


@pytest.mark.parametrize(
    ("column", "cells", "expected"),
    [
        (Column(name="x"), ["1", "", "NA", "1e3", " 2 "], [1, NAN, NAN, 1000, 2]),
        (Column(name="x", missing_cells=("-999", "unknown")), ["1", "-999.0", "unknown"], [1, NAN, NAN]),
        (Column(name="x", missing_cells=("-999",)), [1.0, -999.0], [1, NAN]),
        (Column(name="x", strip="%"), ["12%", "5 %", ""], [12, 5, NAN]),
        (Column(name="x", kind="boolean"), ["True", "no", "", "Y"], [1, 0, NAN, 1]),
        (Column(name="x", kind="boolean"), [1.0, 0.0], [1, 0]),
        (Column(name="x", kind="category", categories=("1", "2")), ["01", "2.0", "x", "NA"], [0, 1, NAN, NAN]),
        (Column(name="x", kind="category", categories=("2", "1")), [1.0, 2.0, 3.0], [1, 0, NAN]),
        (Column(name="x", kind="category", categories=("NA", "b")), ["NA", "b"], [0, 1]),
        (Column(name="x", kind="ordinal", categories=("low", "high")), ["high", "low", "High"], [1, 0, NAN]),
        (Column(name="x", kind="date"), ["1970-01-02", "1970-01-01T12:00:00", ""], [1, 0.5, NAN]),
        (Column(name="x", kind="date", form="DD.MM.YYYY"), ["2.1.1970", "01.02.1970"], [1, 31]),
        (Column(name="x", kind="date", form="YYYY-MM"), ["1970-02", "1970-1"], [31, 0]),
        (Column(name="x", kind="date", form="YYYYMMDD"), [19700102.0, 19700101.0], [1, 0]),
    ],
)
def test_cells_become_numbers_by_the_kind_of_the_column(
    column: Column, cells: list[Any], expected: list[float]
) -> None:
    np.testing.assert_array_equal(one(column, cells), expected)


def test_decimal_sign_is_the_readers() -> None:
    np.testing.assert_array_equal(one(Column(name="x"), ["1,5", "NA"], ","), [1.5, NAN])


@pytest.mark.parametrize("cell", ["1_000", "٣", "inf", "0x10", "1,5", "1e999", "12%", "abc"])
def test_cell_that_is_no_number_is_a_fault_with_its_line(cell: str) -> None:
    schema = Schema(columns=(Column(name="x"),), target=Target(name="y"))
    (fault,) = faults_of(schema, table(x=["1", cell, cell], y=[0, 0, 0]))
    assert fault.startswith(f"column x: expected numbers, got {cell!r} at line 3 (2 of 3 cells): ")


@pytest.mark.parametrize(
    ("column", "cell", "advice"),
    [
        (Column(name="x"), "12%", 'set strip = "%"'),
        (Column(name="x"), "$5", 'set strip = "$"'),
        (Column(name="x"), "unknown", "missing_cells"),
        (Column(name="x"), "1,5", "one decimal sign"),
        (Column(name="x", kind="date"), "2020-02-30", "form"),
        (Column(name="x", kind="boolean"), "maybe", "category"),
    ],
)
def test_advice_fits_the_cell(column: Column, cell: str, advice: str) -> None:
    valid = {"number": "1", "date": "2020-01-01", "boolean": "yes"}[column.kind]
    (fault,) = faults_of(Schema(columns=(column,), target=Target(name="y")), table(x=[valid, valid, cell], y=[0, 0, 0]))
    assert advice in fault


@pytest.mark.parametrize(
    ("column", "cells", "advice"),
    [
        (Column(name="x"), {"x": ["1", "unknown"]}, "correct or empty the cells"),
        (Column(name="x"), {"x": ["a", "b"]}, "correct or empty the cells"),
        (Column(name="x", kind="date"), {"x": ["2020-01-01", "2020-02-30"]}, "correct or empty the cells"),
        (Column(name="x", kind="boolean"), {"x": ["yes", "maybe"]}, "correct or empty the cells"),
        (Column(name="bmi"), {"BMI": ["1", "2"]}, "rename it in the table"),
    ],
)
def test_advice_to_predict_leaves_the_task_alone(column: Column, cells: dict[str, list[str]], advice: str) -> None:
    with pytest.raises(BadTable) as caught:
        encode_table(Schema(columns=(column,), target=Target(name="y")), table(**cells), targets=False)
    (fault,) = caught.value.faults
    assert fault.endswith(f": {advice}")


def test_most_cells_that_are_text_are_advised_to_be_a_category() -> None:
    (fault,) = faults_of(Schema(columns=(Column(name="x"),), target=Target(name="y")), table(x=["a", "b"], y=[0, 0]))
    assert "make the column a category" in fault


@pytest.mark.parametrize("other", ["BMI", " bmi", "b_m_i", "bmi2"])
def test_missing_column_is_a_fault_with_the_nearest_name(other: str) -> None:
    schema = Schema(columns=(Column(name="bmi"),), target=Target(name="y"))
    (fault,) = faults_of(schema, table(**{other: [1.0], "y": [0.0]}))
    expected = "b_m_i" if other == "b_m_i" else other
    assert fault == f"expected column bmi, found {expected!r}: rename it in the table, or in the task for all sites"


def test_all_faults_are_named_at_once_and_in_public_without_cells() -> None:
    schema = Schema(
        columns=(Column(name="age"), Column(name="bmi"), Column(name="sex", kind="boolean")),
        target=DIAGNOSIS,
        weight="w",
        offset="o",
    )
    read = table(
        age=["1", "old-secret"],
        sex=["yes", "secret"],
        y=["M", "secret"],
        w=[0.5, -7.25],
        o=[0.0, np.nan],
        name=["s", "t"],
    )
    with pytest.raises(BadTable) as caught:
        encode_table(schema, read)
    assert [fault.split(":")[0] for fault in caught.value.faults] == [
        "column age",
        "expected column bmi, got 'age', 'sex', 'y', 'w', 'o', 'name'",
        "column sex",
        "offset o",
        "weight w",
        "target y",
    ]
    assert str(caught.value).startswith("south.csv: column age: expected numbers, got 'old-secret' at line 3")
    assert "expected numbers above 0, got -7.25 at line 3" in str(caught.value)
    public = caught.value.public
    assert all(name in public for name in ("age", "bmi", "sex", "target y", "weight w", "offset o"))
    assert not any(cell in public for cell in ("secret", "7.25", "south", "name"))
    assert decline_of(caught.value) == ("rows", public[:200]), "the aggregator gets this and no more"


def test_category_that_is_not_listed_is_missing_counted_and_noted() -> None:
    schema = Schema(
        columns=(Column(name="color", kind="category", categories=("red", "green")),), target=Target(name="y")
    )
    encoded = encode_table(schema, table(color=["red", "grene", "grene", "blue"], y=[0, 0, 0, 0]))
    assert dict(encoded.unlisted) == {"color": 3}
    assert encoded.notes == (
        "column color: 3 of 4 cells are not listed and count as missing, 'grene' at line 3 and 1 more; "
        "the nearest that is listed is 'green'",
    )


def test_class_that_is_not_listed_is_a_fault_with_the_nearest() -> None:
    schema = Schema(columns=(Column(name="x"),), target=Target(name="y", kind="class", classes=("benign", "malign")))
    (fault,) = faults_of(schema, table(x=[1, 2], y=["Benign", "malign"]))
    assert fault == (
        "target y: expected one of the classes benign, malign, got 'Benign' at line 2 (1 of 2 cells): "
        "correct the cells (benign is listed), or add the class to the task for all sites"
    )


@pytest.mark.parametrize(
    ("classes", "cells"), [(("0", "1"), ["1.0", "00", "1"]), (("True", "False"), ["false", "True"])]
)
def test_labels_that_are_equal_are_one_class(classes: tuple[str, ...], cells: list[str]) -> None:
    schema = Schema(columns=(Column(name="x"),), target=Target(name="y", kind="class", classes=classes))
    encoded = encode_table(schema, table(x=[1] * len(cells), y=cells))
    assert encoded.targets.tolist() == [1, 0, 1][: len(cells)]


def test_rows_without_a_target_or_a_value_that_must_be_are_left_out_and_counted() -> None:
    schema = Schema(columns=(Column(name="a", missing="drop"), Column(name="b")), target=DIAGNOSIS, weight="w")
    read = table(a=[1, np.nan, 3, np.nan], b=[np.nan, 2, 3, 4], y=["M", "M", "", "NA"], w=[1, 2, 3, 4])
    encoded = encode_table(schema, read)
    np.testing.assert_array_equal(encoded.columns, [[1, NAN]])
    assert dict(encoded.left_out) == {"without y": 2, "without a": 1}
    assert (encoded.places.tolist(), encoded.targets.tolist()) == ([0], [0])
    assert encoded.weights is not None
    assert encoded.weights.tolist() == [1.0]


def test_missing_target_is_refused_if_the_schema_says_so() -> None:
    schema = Schema(columns=(Column(name="a"),), target=Target(name="y", missing="refuse"))
    (fault,) = faults_of(schema, table(a=[1, 2], y=[1.0, np.nan]))
    assert "expected a target in each row, got none at line 3 (1 of 2 cells)" in fault


def test_count_is_a_whole_number_of_0_or_more() -> None:
    schema = Schema(columns=(Column(name="a"),), target=Target(name="y", kind="count"))
    assert encode_table(schema, table(a=[1, 2], y=[0, 3])).targets.tolist() == [0.0, 3.0]
    (fault,) = faults_of(schema, table(a=[1, 2], y=[1, 2.5]))
    assert "expected counts of 0 or more, got 2.5 at line 3 (1 of 2 cells)" in fault


def test_table_without_rows_is_a_fault() -> None:
    schema = Schema(columns=(Column(name="a"),), target=Target(name="y"))
    assert "at least one row" in faults_of(schema, table(a=[], y=[]))[0]
    assert "2 without y" in faults_of(schema, table(a=[1, 2], y=["", ""]))[0]


def test_rows_to_predict_need_no_target_and_all_stay() -> None:
    schema = Schema(columns=(Column(name="a", missing="drop"),), target=DIAGNOSIS, weight="w")
    encoded = encode_table(schema, table(a=[1, np.nan]), targets=False)
    np.testing.assert_array_equal(encoded.columns, [[1], [NAN]])
    assert (len(encoded.targets), encoded.weights, encoded.places.tolist()) == (0, None, [0, 1])


def test_columns_that_the_task_does_not_know_are_noted() -> None:
    schema = Schema(columns=(Column(name="a"),), target=Target(name="y"), ignored=("id",))
    encoded = encode_table(schema, table(a=[1], y=[1], id=[7], extra=[8], more=["x"]))
    assert encoded.notes == ("columns that the task does not use: 'extra', 'more'",)


def test_column_without_values_is_noted() -> None:
    schema = Schema(columns=(Column(name="a"),), target=Target(name="y"))
    assert encode_table(schema, table(a=[np.nan], y=[1])).notes == ("column a: no values in this table",)


def test_features_are_filled_and_standardized_and_categories_are_zeros_and_ones() -> None:
    color = Column(name="color", kind="category", categories=("red", "green"))
    schema = Schema(columns=(Column(name="a"), color), target=Target(name="y"))
    preparation = Preparation(schema, np.array([1.0, 0.0]), np.array([2.0, 1.0]), np.array([5.0, 0.0]))
    encoded = encode_table(schema, table(a=[3, np.nan, 1], color=["green", "blue", "red"], y=[0, 0, 0]))
    np.testing.assert_array_equal(preparation.features(encoded.columns), [[1, 1, 0], [2, 0, 1], [0, 0, 0]])
    assert schema.feature_names == ("a", "color=green", "color=(missing)")


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (lambda: Column(name="a", kind="category"), "1 to 1000 categories, got 0"),
        (lambda: Column(name="a", kind="ordinal", categories=("x",)), "2 to 1000 categories, got 1"),
        (lambda: Column(name="a", categories=("x",)), "no categories for a number"),
        (lambda: Column(name="a", kind="category", categories=("1", "01")), "'1' and '01', which are one label"),
        (lambda: Column(name="a", kind="category", categories=("x", "x")), "'x' twice"),
        (lambda: Column(name="a", kind="boolean", strip="%"), "strip for a number only"),
        (lambda: Column(name="a", form="YYYYMMDD"), "form for a date only"),
        (lambda: Column(name="a", missing_cells=("x",) * 1001), "missing_cells: expected at most 1000, got 1001"),
        (lambda: Schema(columns=(Column(name="a"),), target=DIAGNOSIS, missing_cells=("x",) * 1001), "at most 1000"),
        (lambda: Target(name="y", kind="class", classes=("x",)), "2 to 1000 classes, got 1"),
        (lambda: Target(name="y", classes=("x", "z")), "no classes for a number"),
        (lambda: Schema(columns=(), target=DIAGNOSIS), "at least one input column"),
        (lambda: Schema(columns=(Column(name="y"),), target=DIAGNOSIS), "'y' twice"),
        (lambda: Schema(columns=(Column(name="a"),), target=DIAGNOSIS, ignored=("a",)), "'a' twice"),
    ],
)
def test_schema_that_does_not_fit_itself_is_refused(wrong: Any, expected: str) -> None:
    with pytest.raises(BadConfiguration, match="expected") as caught:
        wrong()
    assert expected in str(caught.value)
