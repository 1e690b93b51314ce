"""Private runs from end to end in a simulation, and the budget of a site."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import fedmq
from fedmq.algorithms.base import Plan, Update, encode_query, failure_of
from fedmq.algorithms.checkpoint import dump, load
from fedmq.algorithms.private.query import Noise
from fedmq.algorithms.registry import find_algorithm, private_algorithm
from fedmq.cli.main import fedmq as command
from fedmq.errors import BadConfiguration, PolicyRefused, Rejected, RunFailed
from fedmq.models.networks import MLP
from fedmq.observe.regression_text import regression_remarks
from fedmq.protocol.codec import Packet
from fedmq.protocol.messages import Round
from fedmq.protocol.run_config import Privacy
from fedmq.runs.replay import replay
from fedmq.runs.store import Store
from fedmq.runtime.run_folder import STORE
from fedmq.tables.schema import Column, Schema, Target
from fedmq.tables.table import Table, text
from fedmq.tasks.task import Task
from fedmq.trainer.epsilon_budget import EpsilonBudget
from fedmq.trainer.round_handler import on_rows

ROWS = 300
LABELS = ("low", "high")
SCHEMA = Schema(
    columns=(Column(name="a", bounds=(-3.0, 3.0)), Column(name="b", bounds=(-3.0, 3.0))),
    target=Target(name="y", kind="class", classes=LABELS),
)
TASK = Task(name="line", model=MLP((2, 2)), loss="cross-entropy", metric="accuracy", schema=SCHEMA, trainers=3)


def table(seed: int = 0, rows: int = ROWS) -> Table:
    generator = np.random.default_rng(seed)
    a, b = generator.normal(size=(2, rows))
    labels = text([LABELS[int(one)] for one in a + 0.5 * b > 0])
    return Table("line", ("a", "b", "y"), {"a": a, "b": b, "y": labels}, rows, np.arange(1, rows + 1))


def simulated(**options: object) -> fedmq.Run:
    return fedmq.simulate(
        TASK, table(), **{"algorithm": "ridge", "epsilon": 8.0, "seed": 1, "progress": False, **options}
    )


def test_private_run_learns_spends_its_epsilon_and_is_replayed(tmp_path: Path) -> None:
    run = simulated(out=tmp_path / "run")
    report = run.report
    assert report.value is not None
    assert report.value > 0.85
    assert (report.rounds, report.epsilon_spent) == (2, 8.0)
    assert report.privacy == "epsilon 8 of 8 spent, delta 1e-05"
    assert run.findings is not None
    (remark,) = regression_remarks(run.findings)
    assert remark == "Noise alone moves the accuracy by ±1.1 points (standard deviation)."
    assert run.report.config.limits.quorum == 1.0
    assert simulated().model_sha256 == run.model_sha256
    assert simulated(seed=2).model_sha256 != run.model_sha256
    with Store(tmp_path / "run" / STORE) as store:
        config = store.config
        assert config is not None
        strategy = find_algorithm(config.algorithm, config.task, config.parameters, config.privacy)
        replayed = replay(store, config.task, strategy, config.seed, from_start=True)
    evaluation = strategy.evaluation(replayed.state)
    assert run.model is not None
    assert np.array_equal(evaluation.parameters, run.model.parameters)


def test_secure_run_has_the_model_of_a_plain_one_with_as_much_noise(tmp_path: Path) -> None:
    secure = simulated(secure=True, out=tmp_path / "run")
    plain = simulated(quorum=0.5)  # two of three trainers have the noise of the total
    assert secure.report.config.privacy == plain.report.config.privacy
    assert secure.model_sha256 == plain.model_sha256
    assert "secure sum of 3" in CliRunner().invoke(command, ["runs", "show", str(tmp_path / "run")]).output


@pytest.mark.parametrize("algorithm", ["newton", "es", "boosting"])
def test_each_private_algorithm_learns(algorithm: str) -> None:
    model = fedmq.Trees(2, 2, "softmax", trees=20, depth=3) if algorithm == "boosting" else MLP((2, 2))
    task = Task(name="line", model=model, loss="cross-entropy", metric="accuracy", schema=SCHEMA, trainers=3)
    run = fedmq.simulate(
        task, table(), algorithm=algorithm, epsilon=30.0, seed=1, rounds=21, holdout=0.2, progress=False
    )
    assert (run.report.value_of, run.report.epsilon_spent) == ("held-out", 30.0)
    fresh = table(1)
    assert run.model is not None
    assert np.mean(run.model.predict(fresh) == fresh.columns["y"]) > 0.85


@pytest.mark.parametrize("algorithm", ["ridge", "newton", "es", "boosting"])
def test_state_of_each_private_algorithm_is_kept_in_a_checkpoint(algorithm: str) -> None:
    model = fedmq.Trees(2, 2, "softmax", trees=4, depth=3) if algorithm == "boosting" else MLP((2, 2))
    task = Task(name="line", model=model, loss="cross-entropy", metric="accuracy", schema=SCHEMA)
    strategy = find_algorithm(algorithm, task, None, Privacy.of(3.0, 1e-5, 1, 1))
    state = strategy.init(task, 1)
    for _ in range(2):
        update = replace(answer_of(strategy.ask(state), "a", task=task), round=state.round)
        state = strategy.close(strategy.tell(state, update), ["a"])
        again = load(dump(state), type(state))
        assert dump(again) == dump(state)
    assert strategy.finished(again)


def test_sweep_over_epsilon_has_less_noise_with_more() -> None:
    found = fedmq.sweep(TASK, table(), over={"epsilon": [1, 3]}, seeds=1, algorithm="ridge")
    assert [dict(one.settings)["epsilon"] for one in found.runs] == [1, 3]
    assert found.runs[0].noise > 2.0 * found.runs[1].noise > 0.0


@pytest.mark.parametrize(("loss", "shown"), [(-5 << 12, None), (5 << 12, 0.1)])
def test_loss_that_is_noise_alone_is_not_shown(loss: int, shown: float | None) -> None:
    task = TASK.with_holdout(0.3)
    strategy = find_algorithm("ridge", task, None, Privacy.of(3.0, 1e-5, 1, 1))
    state = strategy.init(task, 1)
    for _ in range(2):
        update = replace(answer_of(strategy.ask(state), "a", task=task), round=state.round)
        if "loss" in update.arrays:
            update.arrays["loss"][0] = loss
        state = strategy.close(strategy.tell(state, update), ["a"])
    measured = strategy.evaluation(state).measured
    assert measured.held_out.log_loss == shown


def test_rounds_of_a_private_run_share_its_rho() -> None:
    privacy = Privacy.of(3.0, 1e-5, 9, 2)
    assert 9 * privacy.rho_of_question + privacy.rho_of_figures == pytest.approx(privacy.rho)
    spent = [privacy.spent(rounds) for rounds in range(12)]
    assert spent[0] == 0.0
    assert spent == sorted(spent)
    assert spent[10:] == [3.0, 3.0]


def answer_of(plan: Plan, name: str, rows: int = 50, task: Task = TASK) -> Update:
    shapes, generator = plan.shapes, np.random.default_rng(0)
    bounds = plan.query.answer(task, shapes, rows)
    arrays = {key: generator.integers(-9, 9, one.shape) for key, one in bounds.items()}
    return Update(name, 1, 0, rows, arrays)


def test_total_of_too_few_trainers_is_not_used() -> None:
    strategy = find_algorithm("newton", TASK, {"steps": 2}, Privacy.of(3.0, 1e-5, 2, 2))
    state = strategy.init(TASK, 1)
    plan = strategy.ask(state)
    alone = strategy.close(strategy.tell(state, answer_of(plan, "a")), ["a", "b"])
    assert strategy.findings(alone).figures["lost questions"] == 1
    assert not strategy.ask(alone).arrays["coefficients"].any()
    assert strategy.ask(alone).query.question == 2
    both = strategy.tell(strategy.tell(state, answer_of(plan, "a")), answer_of(plan, "b"))
    assert strategy.ask(strategy.close(both, ["a", "b"])).arrays["coefficients"].any()


def test_run_whose_questions_are_all_lost_fails_and_says_what_to_do() -> None:
    strategy = find_algorithm("ridge", TASK, None, Privacy.of(3.0, 1e-5, 1, 2))
    state = strategy.init(TASK, 1)
    assert failure_of(strategy, state) == ""
    alone = strategy.close(strategy.tell(state, answer_of(strategy.ask(state), "a")), ["a", "b"])
    assert failure_of(strategy, alone).startswith("--epsilon: expected answers of 2 trainers or more to a question")
    assert failure_of(strategy, load(dump(alone), type(alone)))  # also after a restart
    assert strategy.evaluation(alone) is None
    few = find_algorithm("newton", TASK, {"steps": 2}, Privacy.of(3.0, 1e-5, 2, 2))
    after = few.close(few.init(TASK, 1), ["a", "b"])
    assert failure_of(few, after) == "", "one question is left"
    assert failure_of(few, few.close(after, ["a", "b"]))


def test_private_run_that_a_trainer_declines_fails_without_a_model(tmp_path: Path) -> None:
    labels = text(["other"] * ROWS)
    unfit = replace(table(2), columns={**table(2).columns, "y": labels})
    with pytest.raises(RunFailed, match="expected answers of 3 trainers or more to a question, got fewer to all 1"):
        fedmq.simulate(TASK, [table(), table(1), unfit], algorithm="ridge", epsilon=8.0, out=tmp_path, progress=False)
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["why"], report["rounds"], report["model"]) == ("failed", 1, None)


def test_report_warns_of_a_delta_of_one_in_the_number_of_rows() -> None:
    text = simulated(delta=1 / ROWS).report.privacy
    assert text.endswith("delta 0.00333333: expected less than one in 300 rows, choose a smaller --delta")


def test_answer_far_beyond_its_noise_is_rejected() -> None:
    strategy = find_algorithm("ridge", TASK, None, Privacy.of(3.0, 1e-5, 1, 2))
    state = strategy.init(TASK, 1)
    answer = answer_of(strategy.ask(state), "a")
    answer.arrays["products"][0] = 1 << 60
    with pytest.raises(Rejected, match="products"):
        strategy.tell(state, answer)


def packet_of(rho: float, number: int = 1) -> Packet:
    private, _ = private_algorithm("ridge", TASK)
    plan = private.ask(private.init(TASK, 1, Noise(rho, 1)))
    ones = np.ones(2)
    arrays = {**plan.arrays, "column_shift": ones, "column_scale": ones, "column_fill": ones}
    message = Round(run="run", term=1, round=number, seed=1, deadline_s=9.0, task=TASK, query=encode_query(plan.query))
    return Packet("round/run", message, arrays, ())


def test_site_refuses_what_goes_beyond_its_epsilon_also_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "epsilon.json"

    def learn() -> tuple:
        budget = EpsilonBudget(1.0, 1e-5, path)
        return budget, on_rows(table(), "north", spending=budget)

    budget, answer = learn()
    answer(packet_of(0.01), lambda: False)
    first = budget.epsilon
    assert 0.0 < first < 1.0
    budget, answer = learn()
    assert budget.epsilon == first
    with pytest.raises(PolicyRefused, match=r"--epsilon-max 1: 0\.\d+ are spent in 1 answers"):
        answer(packet_of(0.05), lambda: False)
    assert learn()[0].spent.answers == 1
    path.write_text("no number")
    with pytest.raises(BadConfiguration, match="put a copy back"):
        learn()


def test_site_with_a_budget_answers_no_question_without_noise(tmp_path: Path) -> None:
    strategy = find_algorithm("ridge", TASK)
    plan = strategy.ask(strategy.init(TASK, 1))
    message = Round(run="run", term=1, round=1, seed=1, deadline_s=9.0, task=TASK, query=encode_query(plan.query))
    learn = on_rows(table(), "north", spending=EpsilonBudget(1.0, 1e-5, tmp_path / "epsilon.json"))
    with pytest.raises(PolicyRefused, match="without noise"):
        learn(Packet("round/run", message, plan.arrays, ()), lambda: False)


def test_rows_of_an_answer_do_not_depend_on_what_is_held_out() -> None:
    task = TASK.with_holdout(0.3)
    private, _ = private_algorithm("ridge", task)
    plan = private.ask(private.init(task, 1, Noise(0.1, 1)))
    ones = np.ones(2)
    arrays = {**plan.arrays, "column_shift": ones, "column_scale": ones, "column_fill": ones}
    message = Round(run="run", term=1, round=1, seed=1, deadline_s=9.0, task=task, query=encode_query(plan.query))
    counts = {
        on_rows(table(seed), "north")(Packet("round/run", message, arrays, ()), lambda: False).num_examples
        for seed in range(5)
    }  # type: ignore[attr-defined]
    assert counts == {210}


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"algorithm": "evolution"}, "--epsilon: expected one of the algorithms ridge, newton, boosting, es"),
        ({"epsilon": None, "delta": 1e-6}, "--delta: expected it with --epsilon"),
        ({"epsilon": 1e6}, "--epsilon: expected noise of each trainer with a deviation of at least 10 units"),
        ({"rounds": 1}, "--rounds: expected 2 or more in a private run"),
        ({"sample": 2.0}, "--sample: expected a private run without it"),
        ({"parameters": {"clip": 0}}, "parameter clip"),
    ],
)
def test_settings_that_do_not_fit_a_private_run_are_refused_in_one_line(options: dict, problem: str) -> None:
    with pytest.raises(BadConfiguration, match=problem):
        simulated(**options)


def test_columns_without_bounds_are_refused_by_name() -> None:
    columns = (Column(name="a", bounds=(0.0, 1.0)), Column(name="b"), Column(name="c", kind="date"))
    schema = Schema(columns=columns, target=Target(name="y"))
    task = Task(name="line", model=MLP((3, 1), output="identity"), loss="squared-error", metric="loss", schema=schema)
    with pytest.raises(BadConfiguration, match="expected bounds of each column, got none of 'b', 'c', 'y': add"):
        fedmq.simulate(task, table(), algorithm="ridge", epsilon=1.0, progress=False)
    with pytest.raises(BadConfiguration, match=r"bounds = \[LOW, HIGH\] that rise"):
        Column(name="a", bounds=(1.0, 1.0))
    with pytest.raises(BadConfiguration, match="bounds of a number or a date only"):
        Column(name="a", kind="boolean", bounds=(0.0, 1.0))
