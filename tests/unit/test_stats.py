"""`fedmq stats`: the statistics that it prints are those of the pooled rows."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from splits import classification, inputs_of, regression, splits, state_after

from fedmq.aggregator.stats import _task
from fedmq.algorithms.findings import ColumnFigures, Findings
from fedmq.algorithms.registry import find_algorithm
from fedmq.cli.main import fedmq
from fedmq.errors import BadConfiguration
from fedmq.observe.console import PrintableConsole
from fedmq.observe.statistics_table import correlation_table, statistics_table
from fedmq.tasks.task import Rows

ROUNDS = 6
COLUMN = ColumnFigures(
    name="age",
    kind="number",
    count=9,
    missing=1,
    mean=2.0,
    deviation=1.0,
    smallest=(0.0, 1.0),
    largest=(3.0, 4.0),
    quantiles={"0.05": 0.5, "0.5": 2.0, "0.95": 3.5},
    edges=(0.0, 1.0, 2.0, 4.0, 8.0),
    counts=(0, 6, 2, 0),
)


@pytest.mark.parametrize("classes", [False, True])
def test_correlations_are_those_of_the_pooled_rows_for_any_split(classes: bool) -> None:
    inputs = inputs_of(200, 3, "stats")
    inputs[:, 2] = inputs[:, 0] * 2.0 + inputs[:, 2] * 1e-3
    targets = (inputs[:, 0] > inputs[:, 0].mean()).astype(np.float64) if classes else inputs[:, 1] * 3.0 - 1.0
    task = classification(3, 2) if classes else regression(3)
    strategy = find_algorithm("statistics", task, {"correlation": True})
    columns = [targets == 0, targets == 1] if classes else [targets]
    expected = np.corrcoef(np.column_stack([inputs, *columns]).astype(np.float64), rowvar=False)
    found = []
    for _, shards in splits(Rows(inputs, targets)):
        findings = strategy.findings(state_after(strategy, task, shards, ROUNDS))  # type: ignore[attr-defined]
        found.append(findings.correlations)
        assert findings.correlated[:3] == ("x1", "x2", "x3")
    assert np.allclose(found[0], expected, atol=1e-9)
    assert all(one == found[0] for one in found), "the same bits for any split"


def test_bars_share_out_the_rows_of_the_part_that_has_values() -> None:
    assert COLUMN.bars(3) == pytest.approx([6.0, 1.0, 1.0])
    assert ColumnFigures(**{**_fields(COLUMN), "counts": (0, 9, 0, 0)}).bars(3) == []


def _fields(one: ColumnFigures) -> dict[str, object]:
    return {name: getattr(one, name) for name in one.__struct_fields__}


@pytest.mark.parametrize("width", [80, 130])
def test_table_fits_the_terminal(width: int) -> None:
    coded = ColumnFigures(**{**_fields(COLUMN), "name": "group", "kind": "category", "categories": {"a": 5, "b": 4}})
    console = PrintableConsole(width=width, file=io.StringIO(), record=True)
    console.print(statistics_table(Findings(columns=(COLUMN, coded)), width))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= width
    assert lines[1].split()[:5] == ["age", "number", "1", "2", "1"]
    assert "a 5, b 4" in lines[2]
    assert ("█" in lines[1]) == (width == 130)


def test_correlations_with_classes_leave_out_what_follows_from_another() -> None:
    two = Findings(
        correlated=("a", "B", "M"),
        correlations=((1.0, -0.5, 0.5), (-0.5, 1.0, -1.0), (0.5, -1.0, 1.0)),
        classes={"B": 1, "M": 1},
    )
    assert two.strongest_correlations(9) == [(0.5, "a", "M")]


def test_strongest_correlations_come_first() -> None:
    findings = Findings(correlated=("a", "b", "c"), correlations=((1.0, 0.1, -0.9), (0.1, 1.0, 0.4), (-0.9, 0.4, 1.0)))
    console = PrintableConsole(width=80, file=io.StringIO(), record=True)
    console.print(correlation_table(findings))
    assert [line.split() for line in console.export_text().splitlines()] == [
        ["-0.900", "a", "c"],
        ["+0.400", "b", "c"],
        ["+0.100", "a", "b"],
    ]


def test_only_the_columns_that_are_named_are_asked_about(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("age,bmi,ill\n" + "".join(f"{40 + k},{20 + k * 0.5},{k % 2}\n" for k in range(12)))
    assert CliRunner().invoke(fedmq, ["new", "t", "--from", "a.csv", "--target", "ill"]).exit_code == 0
    task = _task("t.toml", "bmi")
    assert task.schema is not None
    assert [column.name for column in task.schema.columns] == ["bmi"]
    assert task.holdout == 0.0, "statistics train nothing, so no row is held out of them"
    with pytest.raises(BadConfiguration, match=r"got 'bmj', nearest: bmi$"):
        _task("t.toml", "bmj")
    with pytest.raises(BadConfiguration, match=r"expected a FILE\.toml"):
        _task("xor", "bmi")
