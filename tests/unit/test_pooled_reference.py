"""The three clinics of the examples against scikit-learn on their pooled rows: the same rows, the same figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fedmq.algorithms.registry import find_algorithm
from fedmq.data.readers import read_table
from fedmq.simulation import Federation
from fedmq.tasks.row_views import RowViews
from fedmq.tasks.task_file import find_task

CLINICS = Path(__file__).parents[2] / "examples" / "tumor"


def test_three_clinics_reach_the_figures_of_scikit_learn_on_pooled_rows() -> None:
    task = find_task(str(CLINICS / "tumor.toml"))
    tables = {site: read_table(str(CLINICS / f"{site}.csv")) for site in ("north", "south", "west")}
    federation = Federation(task, find_algorithm("newton", task), tables)
    federation.train(60.0)
    assert federation.aggregator is not None
    evaluation = federation.aggregator.rounds.evaluation
    assert evaluation is not None
    assert evaluation.measured is not None
    found = evaluation.measured.held_out

    pooled = RowViews.pooled([RowViews(task, table) for table in tables.values()])
    training, held_out = pooled.view("columns"), pooled.view("held-out")
    logistic = LogisticRegression(C=1.0, solver="newton-cholesky")
    reference = make_pipeline(SimpleImputer(strategy="median"), StandardScaler(), logistic)
    reference.fit(training.inputs, training.targets)
    shares = reference.predict_proba(held_out.inputs)[:, 1]
    assert found.rows == len(held_out.inputs)
    assert found.accuracy == pytest.approx(accuracy_score(held_out.targets, shares > 0.5), abs=0.005)
    assert found.auc == pytest.approx(roc_auc_score(held_out.targets, shares), abs=0.001)
    assert found.log_loss == pytest.approx(log_loss(held_out.targets, np.clip(shares, 1e-9, 1 - 1e-9)), abs=0.001)
