"""The examples that speak PyGAD: the code of a fitness function, a callback, integer genes, a front."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from services import report_of, run_fedmq

from fedmq import load_model

EXAMPLES = Path(__file__).parents[2] / "examples"


def simulated(folder: Path, example: str) -> tuple[str, Any]:
    """Return what the simulation of an example printed, and what the run found."""
    done = run_fedmq("simulate", str(EXAMPLES / example), "--seed", "1", "--out", "run", cwd=folder, timeout_s=50.0)
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads((folder / "run" / "result.json").read_text())


def test_rule_list_is_found_with_integer_genes(tmp_path: Path) -> None:
    _, found = simulated(tmp_path, "rule_list.py")
    assert found["genes"] == [0, 6, 1, 2, 6, 1, 0]
    assert found["gene_names"][0] == "measurement 1"
    assert found["genes"] == load_model(tmp_path / "run" / "model.npz").parameters.tolist()
    assert all(isinstance(gene, int) for gene in found["genes"])
    assert report_of(tmp_path / "run")["value"] == -300  # stop_criteria: all rows are right


def test_features_are_selected_with_a_front_a_constraint_and_a_callback(tmp_path: Path) -> None:
    printed, found = simulated(tmp_path, "feature_selection.py")
    assert [f"generation {number}:" in printed for number in (1, 20, 21)] == [True, True, False]
    report = report_of(tmp_path / "run")
    assert (report["why"], report["rounds"]) == ("done", 21)  # the callback has stopped it
    assert load_model(tmp_path / "run" / "model.npz").parameters.dtype == np.int64
    counts = [sum(one["genes"]) for one in found["front"]]
    assert counts == sorted(counts, reverse=True)
    assert max(counts) <= 5
    page = run_fedmq("report", "run", "-o", "page.html", cwd=tmp_path)
    assert page.returncode == 0, page.stderr
    text = (tmp_path / "page.html").read_text()
    assert "Pareto front" in text
    assert "column 7" in text
    assert "the same SHA-256" in text  # the report replays the run, with its constraints
