"""Each condition of a site, met by an honest run and by a curious aggregator that asks what it should not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from splits import classification, inputs_of
from table_rows import table, table_task

from fedmq.algorithms.base import Query, encode_query
from fedmq.algorithms.evaluation.held_out import HeldOut, held_out_plan
from fedmq.algorithms.evaluation.query import Evaluate
from fedmq.algorithms.registry import find_algorithm
from fedmq.algorithms.statistics.components import Products
from fedmq.algorithms.statistics.query import Histograms, Moments, Spread
from fedmq.errors import BadConfiguration, PolicyRefused
from fedmq.models.trees import Trees
from fedmq.observe import events
from fedmq.protocol.codec import decode, encode
from fedmq.protocol.messages import Round
from fedmq.simulation import Federation
from fedmq.tables.schema import Column, Schema, Target
from fedmq.tasks.task import Rows, Task
from fedmq.trainer.decline import decline_of
from fedmq.trainer.questions import Answered, Questions
from fedmq.trainer.round_handler import on_rows
from fedmq.trainer.site_policy import PERMIT_ALL, SitePolicy
from fedmq.trainer.spool import ANSWERED_FILE, FileSpool

COUNT, INPUTS = 60, 3
TASK = classification(INPUTS, 2)
ROWS = Rows(inputs_of(COUNT, INPUTS, "site"), np.arange(COUNT) % 2)


def ask(site: SitePolicy, query: Query, arrays: Mapping[str, Any], task: Task = TASK) -> dict[str, Any]:
    """Return what a trainer with this policy answers to a question of any aggregator."""
    message = Round(run="run", term=1, round=1, seed=0, deadline_s=9.0, task=task, query=encode_query(query))
    packet = decode(encode("round/run", message, dict(arrays)))
    return on_rows(ROWS, "south", site=site)(packet, lambda: False)


def trained(site: SitePolicy, algorithm: str = "newton") -> tuple[Federation, list[events.TrainerLeft]]:
    """Train honestly with two trainers, of which `south` has a policy."""
    sites = {"north": PERMIT_ALL, "south": site}
    half = COUNT // 2
    federation = Federation(
        TASK,
        find_algorithm(algorithm, TASK),
        {
            "north": Rows(ROWS.inputs[:half], ROWS.targets[:half]),
            "south": Rows(ROWS.inputs[half:], ROWS.targets[half:]),
        },
        learn=lambda rows, name: on_rows(rows, name, site=sites[name]),
    )
    federation.train(60.0)
    return federation, [one for one in federation.events if isinstance(one, events.TrainerLeft)]


def one_candidate() -> dict[str, Any]:
    return {"candidates": np.zeros((1, TASK.model.num_parameters))}


@pytest.mark.parametrize(
    ("setting", "permits", "refuses"),
    [
        ("--min-rows", SitePolicy(min_rows=30), SitePolicy(min_rows=31)),
        ("--allow-algorithms", SitePolicy(algorithms=("newton",)), SitePolicy(algorithms=("ridge",))),
        ("--parameters-per-row-max", SitePolicy(parameters_per_row_max=0.27), SitePolicy(parameters_per_row_max=0.1)),
        ("--allow-columns", PERMIT_ALL, SitePolicy(columns=("age",))),
    ],
)
def test_an_honest_run_trains_or_reads_why_a_site_declines(
    setting: str, permits: SitePolicy, refuses: SitePolicy
) -> None:
    federation, left = trained(permits)
    assert federation.finished
    assert left == []
    _, left = trained(refuses)
    assert [(one.trainer, one.reason) for one in left[:1]] == [("south", "policy")]
    assert left[0].detail.startswith(setting)


@pytest.mark.parametrize(
    ("site", "query", "arrays"),
    [
        (SitePolicy(min_rows=COUNT + 1), Spread(columns=INPUTS), {}),
        (SitePolicy(algorithms=("newton",)), Evaluate(), one_candidate()),
        (SitePolicy(algorithms=("es",)), Products(), {"standard": np.ones((2, INPUTS + 1))}),
        (SitePolicy(parameters_per_row_max=0.05), Evaluate(), one_candidate()),
        (SitePolicy(columns=("age",)), Spread(columns=INPUTS), {}),
    ],
    ids=["rows", "algorithm", "products", "parameters", "columns"],
)
def test_a_curious_aggregator_gets_no_answer_and_no_number_of_the_rows(
    site: SitePolicy, query: Query, arrays: dict[str, Any]
) -> None:
    assert ask(PERMIT_ALL, query, arrays), "without the policy it is answered"
    with pytest.raises(PolicyRefused) as caught:
        ask(site, query, arrays)
    declined = decline_of(caught.value)
    assert declined.reason == "policy"
    assert str(COUNT) not in declined.detail.replace(str(COUNT + 1), ""), "how many rows a site has is its own"


def test_columns_that_are_not_allowed_are_named() -> None:
    columns = tuple(Column(name=name) for name in ("age", "income", "bmi"))
    task = Task(
        name="t",
        model=TASK.model,
        loss="cross-entropy",
        metric="accuracy",
        schema=Schema(columns=columns, target=Target(name="y", kind="class", classes=("0", "1"))),
    )
    site = SitePolicy(columns=("age", "bmi", "y"))
    with pytest.raises(PolicyRefused, match=r"got a task with income$"):
        site.check("spread", task, COUNT)
    SitePolicy(columns=("age", "bmi", "income", "y")).check("spread", task, COUNT)


def test_small_counts_are_sent_as_zero() -> None:
    edges = np.tile(np.quantile(ROWS.inputs[:, 0], [0.02, 0.5]), (INPUTS, 1))
    plain = ask(PERMIT_ALL, Histograms(), {"edges": edges})["histograms"]
    sent = ask(SitePolicy(min_cell=3), Histograms(), {"edges": edges})["histograms"]
    assert ((plain > 0) & (plain < 3)).any()
    assert np.array_equal(sent, np.where(plain < 3, 0, plain))


def test_a_rare_class_is_sent_as_zero() -> None:
    bits = np.zeros(INPUTS, np.int64) + 50
    rows = Rows(ROWS.inputs, (np.arange(COUNT) < 2).astype(np.int64))
    message = Round(run="run", term=1, round=1, seed=0, deadline_s=9.0, task=TASK, query=encode_query(Moments()))
    packet = decode(encode("round/run", message, {"fraction_bits": bits}))
    answers = [
        on_rows(rows, "south", site=site)(packet, lambda: False)["classes"].tolist()
        for site in (PERMIT_ALL, SitePolicy(min_cell=3))
    ]
    assert answers == [[COUNT - 2, 2], [COUNT - 2, 0]]


def test_sums_over_few_values_are_sent_as_zero() -> None:
    inputs = inputs_of(COUNT, INPUTS, "site")
    task = table_task("ill", schema_columns=(Column(name="age"), Column(name="rare")))
    columns = {"age": inputs[:, 0], "rare": np.full(COUNT, np.nan), "ill": np.array(["no", "yes"] * (COUNT // 2))}
    columns["rare"][7] = 41.5
    data = table(("age", "rare", "ill"), columns)
    arrays = {"fraction_bits": np.full(2, 50)}
    message = Round(run="run", term=1, round=1, seed=0, deadline_s=9.0, task=task, query=encode_query(Moments()))
    packet = decode(encode("round/run", message, arrays))
    plain, sent = (
        on_rows(data, "south", site=site)(packet, lambda: False) for site in (PERMIT_ALL, SitePolicy(min_cell=3))
    )
    assert plain["limbs"][1].any()
    assert (sent["counts"].tolist(), sent["limbs"][1].tolist()) == ([COUNT, 0], [0] * 8)
    assert np.array_equal(sent["limbs"][0], plain["limbs"][0])


def test_probability_of_a_single_held_out_row_is_sent_as_zero() -> None:
    query = HeldOut()
    bounds = query.answer(TASK, held_out_plan(TASK, query, np.zeros(TASK.model.num_parameters)).shapes, 9)
    answer = {name: np.ones(one.shape, np.int64) for name, one in bounds.items()}
    answer["calibration"][0, 4] = 3
    sent = SitePolicy(min_cell=3).suppressed(query, answer)
    assert np.flatnonzero(sent["shares"].any(axis=1)).tolist() == [4]


def test_boosting_is_refused_where_small_cells_are_not_sent() -> None:
    task = classification(INPUTS, 2, Trees(INPUTS, 2, "softmax", trees=2, depth=2))
    with pytest.raises(PolicyRefused, match="--min-cell 3"):
        SitePolicy(min_cell=3).check("tree-histograms", task, COUNT)
    SitePolicy(min_rows=3).check("tree-histograms", task, COUNT)


def test_rounds_of_a_run_are_limited_for_any_name_of_the_aggregator() -> None:
    questions = Questions(per_run=3)
    for _ in range(3):
        assert questions.refusal("run") is None
        questions.count("run")
    assert questions.refusal("run") == "--rounds-per-run 3 are answered"
    assert questions.refusal("another") is None


def test_rounds_of_a_day_are_limited_over_all_runs_and_restarts() -> None:
    day = 100
    questions = Questions(per_day=2, today=lambda: day)
    questions.count("run")
    kept = questions.count("forged-name")
    again = Questions(per_day=2, today=lambda: day, answered=kept)
    assert again.refusal("third") == "--rounds-per-day 2 are answered: ask again tomorrow (UTC)"
    day = 99
    assert again.refusal("third") is not None, "a clock that is set back begins no new day"
    day = 101
    assert again.refusal("third") is None


def test_waiting_rounds_count_towards_the_day() -> None:
    questions = Questions(per_day=2, today=lambda: 1)
    questions.count("run")
    assert questions.refusal("another", waiting=0) is None
    assert questions.refusal("another", waiting=1) is not None


def test_answered_rounds_survive_a_restart_and_damage_is_said(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path / "south")
    assert spool.answered() == Answered()
    spool.answer(Answered(5, 2, {"run": 2}))
    assert FileSpool(tmp_path / "south").answered() == Answered(5, 2, {"run": 2})
    path = tmp_path / "south" / ANSWERED_FILE
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadConfiguration, match="delete it to begin to count anew"):
        spool.answered()
