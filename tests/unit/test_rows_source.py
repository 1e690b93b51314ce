"""The rows of a trainer, run by run: read again when their file has changed."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from fedmq.errors import BadData
from fedmq.tables.table import Table
from fedmq.tasks.task import Rows
from fedmq.trainer.decline import decline_of
from fedmq.trainer.rows_source import RUNS_REMEMBERED, RowsSource


def write(path: Path, rows: int, value: float = 0.0) -> None:
    """Replace the file, as an export does."""
    fresh = path.with_suffix(".new")
    np.savetxt(fresh, np.full((rows, 3), value), delimiter=",")
    fresh.replace(path)


def firsts(source: RowsSource, *runs: str) -> list[float]:
    return [float(table(source, run).columns["x1"][0]) for run in runs]


def table(source: RowsSource, run: str) -> Table:
    found = source.of(run)
    assert isinstance(found, Table)
    return found


def test_new_run_gets_the_changed_file_and_an_old_one_keeps_its_rows(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "rows.csv"
    write(path, 2)
    source = RowsSource(str(path))
    assert (firsts(source, "first"), source.count("first")) == ([0.0], 2)
    write(path, 5, 1.0)
    assert firsts(source, "second", "first") == [1.0, 0.0]
    assert (source.count("second"), source.count("first")) == (5, 2)
    assert caplog.messages == [f"{path} has changed and is read again for run second: 5 rows, before 2"]


def test_unchanged_file_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "rows.csv", 2)
    source = RowsSource(str(tmp_path / "rows.csv"))
    monkeypatch.setattr("fedmq.trainer.rows_source.load_data", lambda _spec, _names: pytest.fail("it was read"))
    assert source.of("first") is source.of("second")


@pytest.mark.parametrize("how", ["removed", "damaged", "too few"])
def test_file_that_became_unusable_declines_new_runs_until_it_is_right_again(how: str, tmp_path: Path) -> None:
    def at_least_two(count: int) -> None:
        if count < 2:
            raise BadData("too few")

    path = tmp_path / "rows.csv"
    write(path, 2)
    source = RowsSource(str(path), at_least_two)
    source.of("old")
    if how == "removed":
        path.unlink()
    elif how == "damaged":
        path.write_text("a,b,c\n1,7.25\n")
    else:
        write(path, 1)
    for _ in range(2):
        with pytest.raises(BadData) as refused:
            source.of("new")
        assert decline_of(refused.value) == ("rows", "the rows cannot be used"), "no path and no value leaves"
    assert source.count("old") == 2
    assert table(source, "old").num_rows == 2
    write(path, 3)
    assert table(source, "new").num_rows == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_file_that_may_not_be_read_any_more_declines_new_runs(tmp_path: Path) -> None:
    write(tmp_path / "rows.csv", 2)
    source = RowsSource(str(tmp_path / "rows.csv"))
    (tmp_path / "rows.csv").chmod(0)
    with pytest.raises(BadData):
        source.of("new")


def test_changed_rights_count_as_a_change(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "rows.csv", 2)
    source = RowsSource(str(tmp_path / "rows.csv"))
    (tmp_path / "rows.csv").chmod(0o600)
    source.of("new")
    assert len(caplog.messages) == 1


def test_folder_is_read_again_when_a_file_is_added(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", 2)
    source = RowsSource(str(tmp_path))
    source.of("first")
    write(tmp_path / "b.csv", 3)
    assert table(source, "second").num_rows == 5


def test_task_file_is_read_again_and_its_failure_is_that_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "from fedmq import Linear, Task\n"
        "task = Task(name='mine', model=Linear(1), loss='squared-error', metric='loss', target=0.0)\n"
        "def rows(part, parts):\n    return [[1.0]], [2.0]\n"
    )
    source = RowsSource(f"{path}:1/2")
    source.of("first")
    path.write_text("raise ValueError(7.25)\n")
    with pytest.raises(BadData):
        source.of("second")


def test_reload_gives_the_new_rows_to_all_runs(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write(path, 2)
    source = RowsSource(str(path))
    source.of("first")
    write(path, 3, 1.0)
    assert source.reload() == 3
    assert firsts(source, "first", "second") == [1.0, 1.0]


def test_reload_that_fails_keeps_the_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write(path, 2)
    source = RowsSource(str(path))
    source.of("first")
    path.unlink()
    with pytest.raises(BadData):
        source.reload()
    assert firsts(source, "first") == [0.0]


def test_rows_in_memory_are_of_two_versions_at_most(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    write(path, 1)
    source, seen = RowsSource(str(path)), list[Rows | Table]()
    for night in range(RUNS_REMEMBERED + 5):
        write(path, 1, float(night))
        seen.append(source.of(f"night-{night}"))
        assert len({id(rows) for rows in (*source._of.values(), source.newest)}) <= 2
    for run in range(RUNS_REMEMBERED + 5):
        source.of(f"other-{run}")
    assert len(source._of) == RUNS_REMEMBERED


def test_table_without_the_names_of_a_task_is_read_with_their_help(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("1,2\n3,4\n5,6\n")  # whether the first line holds names cannot be known from the file
    source = RowsSource(str(path))
    assert table(source, "first").names == ("x1", "x2")
    named = source.of("second", ("1", "2"))
    assert isinstance(named, Table)
    assert (named.names, named.num_rows) == (("1", "2"), 2)
