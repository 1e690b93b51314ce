"""Sweeps: the same runs as one at a time, and intervals over their seeds."""

import math
from pathlib import Path

import pytest
from click.testing import CliRunner

import fedmq
from fedmq.cli.main import fedmq as command
from fedmq.errors import BadConfiguration
from fedmq.simulation.sweep import Interval


def test_sweep_has_the_runs_of_each_combination_and_seed() -> None:
    found = fedmq.sweep("xor", over={"population": [50, 100], "rounds": [2, 3]}, seeds=2, seed=4)
    assert [(dict(one.settings), one.seed) for one in found.runs[:2]] == [
        ({"population": 50, "rounds": 2}, 4),
        ({"population": 50, "rounds": 2}, 5),
    ]
    assert len(found.runs) == 8
    alone = fedmq.simulate("xor", parameters={"population": 100}, rounds=3, seed=5)
    assert found.runs[-1].model_sha256 == alone.model_sha256
    assert len(found.table) == 4
    assert found.plot().html.count("<svg") == 4


def test_interval_is_that_of_student() -> None:
    assert Interval.of([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx((3.0, 1.9632), abs=1e-3)  # 2.776 * sqrt(2.5 / 5)
    assert math.isnan(Interval.of([1.0]).half)
    assert Interval.of([1.0] * 4, noise=0.1).half == pytest.approx(0.098), "accuracies that are cut at 1"


def test_command_writes_table_and_chart(tmp_path: Path) -> None:
    arguments = ["simulate", "xor", "--rounds", "2", "--seeds", "2", "--seed", "1", "--sweep", "population=50,60"]
    done = CliRunner().invoke(command, [*arguments, "--processes", "2", "--out", str(tmp_path / "swept")])
    assert done.exit_code == 0, done.output
    lines = (tmp_path / "swept" / "sweep.csv").read_text().splitlines()
    assert lines[0] == "population,seed,accuracy,bytes_up,model_sha256"
    assert len(lines) == 5
    assert "population=60" in done.output


@pytest.mark.parametrize("over", [{}, {"population": []}, {"nonsense": [1]}])
def test_sweep_over_nothing_is_refused(over: dict[str, list[int]]) -> None:
    with pytest.raises(BadConfiguration):
        fedmq.sweep("xor", over=over, seeds=1)
