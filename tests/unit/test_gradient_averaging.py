"""`averaging` by sums: FedAvg, SCAFFOLD and FedSGD, the server's optimizers, and a trainer that is killed."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from strategy_rounds import begun, learned, trained

from fedmq.algorithms.averaging.parameters import AveragingParameters
from fedmq.algorithms.averaging.query import CHANGE_BITS, Descend, GradientLearner, SumGradient
from fedmq.algorithms.averaging.server_optimizer import ServerOptimizer
from fedmq.algorithms.base import CONTROL, Update, check_down
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration, Rejected, WorkError
from fedmq.models.networks import MLP, Linear, LogLinear
from fedmq.observe import events
from fedmq.protocol.run_config import Limits
from fedmq.simulation import Federation
from fedmq.simulation.partition import partition
from fedmq.simulation.simulate import simulate
from fedmq.tasks.task import Rows, Task
from fedmq.testing import check_algorithm
from fedmq.trainer.control_sums import ControlSum
from fedmq.trainer.spool import FileSpool

TASK = Task(name="blobs", model=MLP((4, 6, 3)), loss="cross-entropy", metric="accuracy", trainers=3, rounds=10)
METHODS = ("fedavg", "scaffold", "fedsgd")
LINE = Task(name="line", model=Linear(1), loss="squared-error", metric="loss")
AS_THEY_ARE = np.array([[0.0, 0.0], [1.0, 1.0]])  # rows of LINE


def blobs(count: int = 90) -> Rows:
    draws = np.random.default_rng(5)
    classes = np.sort(draws.integers(0, 3, count))
    centers = np.array([[2.0, 0.0, 0.0, 1.0], [0.0, 2.0, -1.0, 0.0], [-1.0, 0.0, 2.0, -1.0]])
    return Rows(centers[classes] + draws.normal(0, 0.7, (count, 4)), classes)


def shards(parts: int, order: np.ndarray | None = None) -> dict[str, Rows]:
    rows, places = blobs(), np.arange(90) if order is None else order
    pieces = np.array_split(places, parts)
    return {f"t{index}": Rows(rows.inputs[one], rows.targets[one]) for index, one in enumerate(pieces)}


def federation(rows: dict[str, Rows], rounds: int = 10, **parameters: Any) -> Federation:
    strategy = find_algorithm("averaging", TASK, parameters)
    limits = Limits(rounds_max=rounds, min_trainers=len(rows), quorum=1.0, deadline_s=1000.0)
    return Federation(TASK, strategy, rows, seed=3, limits=limits)


def digest(one: Federation) -> str:
    assert one.model is not None
    return hashlib.sha256(one.model.to_bytes()).hexdigest()


@pytest.mark.parametrize("method", METHODS)
def test_method_keeps_the_contract_of_an_algorithm(method: str) -> None:
    check_algorithm(find_algorithm("averaging", parameters={"method": method, "server_momentum": 0.5}), "xor")


@pytest.mark.parametrize("method", METHODS)
def test_method_learns_classes_that_no_trainer_has_together(method: str) -> None:
    one = federation(shards(3), method=method, server_learning_rate=4.0 if method == "fedsgd" else 1.0, rounds=14)
    model, rows = one.train(), blobs()
    assert model is not None
    assert (model.predict(rows.inputs) == rows.targets).mean() > 0.9


def test_gradient_of_all_rows_gives_one_model_for_any_split() -> None:
    shuffled = np.random.default_rng(1).permutation(90)
    rows = blobs()
    places = [one for one in partition("dirichlet:0.3", 90, 6, 1, rows.targets) if len(one)]
    skewed = {f"t{index}": Rows(rows.inputs[one], rows.targets[one]) for index, one in enumerate(places)}
    splits = (shards(3), shards(1), shards(7, shuffled), shards(2, shuffled[::-1]), skewed)
    found = [federation(one, 6, method="fedsgd", server_optimizer="adam", server_learning_rate=0.05) for one in splits]
    assert len({digest(one) for one in found if one.train() is not None}) == 1


@pytest.mark.parametrize("after", [2, 4, 7])
@pytest.mark.parametrize("message", ["working", "result is pending", "acknowledged"])
def test_killed_trainer_goes_on_with_its_control_variate(after: int, message: str) -> None:
    undisturbed = federation(shards(3), method="scaffold")
    undisturbed.train()
    one = federation(shards(3), method="scaffold")
    simulation, closes = one.simulation, lambda: sum(isinstance(event, events.RoundClosed) for event in one.events)
    one.start()
    simulation.run(lambda: closes() == after, 60.0)
    simulation.run(lambda: False, {"working": 0.0005, "result is pending": 0.004, "acknowledged": 0.02}[message])
    simulation.crash("t1")
    simulation.run(lambda: False, 1.0)
    simulation.start("t1")
    assert simulation.run(lambda: one.finished, 600.0)
    assert digest(one) == digest(undisturbed)


def test_control_variates_of_trainers_add_up_to_that_of_the_aggregator() -> None:
    strategy = find_algorithm("averaging", parameters={"method": "scaffold"})
    rows, sums = shards(3), np.zeros(TASK.model.num_parameters, np.int64)
    state, late = begun(strategy, TASK, rows), list[Update]()
    first = state.round
    for number in range(first, first + 4):
        plan = strategy.ask(state)
        found = [trained(TASK, plan, rows, name, number) for name in rows]
        sums += sum(one.arrays[CONTROL] for one in found)
        arrived, late = ([*found[1:], *late], found[:1]) if number < first + 3 else ([*found, *late], [])
        for one in arrived:
            state = strategy.tell(state, replace(one, staleness=number - one.round))
        state = strategy.close(state, rows)
    np.testing.assert_array_equal(state.inner.inner.control, sums)
    np.testing.assert_allclose(strategy.ask(state).arrays[CONTROL], sums * 2.0**-CHANGE_BITS / 90)


def test_late_change_counts_with_less_weight() -> None:
    strategy = find_algorithm("averaging", parameters={"epochs": 1})
    rows = shards(2)
    state = begun(strategy, TASK, rows)
    first, number = strategy.ask(state), state.round
    updates = {name: trained(TASK, first, rows, name, number) for name in rows}
    state = strategy.close(strategy.tell(state, updates["t0"]), rows)
    second = strategy.ask(state)
    now = trained(TASK, second, rows, "t0", number + 1)
    state = strategy.tell(strategy.tell(state, replace(updates["t1"], staleness=1)), now)
    state = strategy.close(state, rows)
    change = (now.arrays["change"] + updates["t1"].arrays["change"] / 2) * 2.0**-CHANGE_BITS / (45 + 45 / 2)
    np.testing.assert_allclose(strategy.ask(state).arrays["model"], second.arrays["model"] + change, atol=1e-12)


def test_full_batch_step_of_fedavg_is_a_step_of_fedsgd() -> None:
    rows, models = shards(3), []
    for parameters in ({"epochs": 1, "batch_size": 0, "l2": 0.1}, {"method": "fedsgd", "l2": 0.1}):
        strategy = find_algorithm("averaging", TASK, parameters)
        state = begun(strategy, TASK, rows)
        for name in rows:
            state = strategy.tell(state, trained(TASK, strategy.ask(state), rows, name, state.round))
        models.append(strategy.ask(strategy.close(state, rows)).arrays["model"])
    np.testing.assert_allclose(models[0], models[1], atol=1e-5)


def test_adam_steps_are_those_of_its_paper_and_momentum_adds_up() -> None:
    adam = AveragingParameters(server_optimizer="adam", server_learning_rate=0.1)
    optimizer, moved = ServerOptimizer.begin(adam, 2).step(adam, np.array([4.0, -1e-3]))
    np.testing.assert_allclose(moved, [0.1, -0.1], rtol=1e-4)
    heavy = AveragingParameters(server_momentum=0.5, server_learning_rate=2.0)
    optimizer = ServerOptimizer.begin(heavy, 1)
    for expected in (2.0, 3.0, 3.5):
        optimizer, moved = optimizer.step(heavy, np.ones(1))
        assert moved == pytest.approx(expected)


def test_rate_that_diverges_is_refused_by_name() -> None:
    rows = Rows(np.array([[30.0], [-20.0]]), np.array([1.0, 2.0]))
    query = Descend(learner=GradientLearner(20, 0, 1.0))
    with pytest.raises(WorkError, match=r"^learning rate 1 diverged after 1 rounds: try 0\.1 \(--param learning_rate"):
        learned(LINE, query, {"model": np.zeros(2), "standard": AS_THEY_ARE}, rows)
    for model in (np.full(2, 1e9), np.array([10.0, 0.0])):
        with pytest.raises(WorkError, match=r"^the model diverged after 0 rounds: .*--param learning_rate"):
            learned(LINE, SumGradient(), {"model": model, "standard": AS_THEY_ARE}, rows)


@pytest.mark.parametrize("method", METHODS)
def test_method_learns_the_same_from_columns_of_any_scale(method: str) -> None:
    rows, scales = shards(3), np.array([1024.0, 2.0**-12, 1.0, 4.0])
    found = []
    for factors in (1.0, scales):
        scaled = {name: Rows(one.inputs * factors, one.targets) for name, one in rows.items()}
        model = federation(scaled, 6, method=method).train()
        assert model is not None
        found.append(TASK.model.forward(model.parameters[None], blobs().inputs * factors))
    np.testing.assert_allclose(*found, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_method_learns_values_of_any_unit(method: str) -> None:
    draws = np.random.default_rng(2)
    inputs = draws.normal(300.0, 20.0, (60, 1))
    rows = Rows(inputs, 1e5 * inputs[:, 0] + 7e8 + draws.normal(0.0, 1e4, 60))
    parts = {name: Rows(rows.inputs[one], rows.targets[one]) for name, one in (("a", slice(20)), ("b", slice(20, 60)))}
    strategy = find_algorithm("averaging", LINE, {"method": method, "learning_rate": 0.2})
    limits = Limits(rounds_max=30, min_trainers=2, quorum=1.0, deadline_s=1000.0)
    one = Federation(LINE, strategy, parts, seed=3, limits=limits)
    model = one.train()
    assert model is not None
    errors = model.predict(rows.inputs) - rows.targets
    assert np.square(errors).sum() / np.square(rows.targets - rows.targets.mean()).sum() < 0.01


def test_model_of_counts_is_refused_for_exact_gradients() -> None:
    task = Task(name="counts", model=LogLinear(1), loss="squared-error", metric="loss")
    with pytest.raises(BadConfiguration, match="MLP or Linear for method=fedsgd: use newton"):
        find_algorithm("averaging", task, {"method": "fedsgd"}).init(task, 1)
    with pytest.raises(Rejected, match="method=fedsgd: expected a model MLP or Linear"):
        check_down(SumGradient(), task, {"model": np.zeros(2), "standard": AS_THEY_ARE})


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"rule": "clip", "method": "scaffold"}, "method: expected fedavg or fedsgd with rule=clip"),
        (
            {"learner": "evolution", "server_optimizer": "adam"},
            "server: expected their defaults with",
        ),
        ({"epochs": 0}, "epochs: expected a whole number from 1"),
        ({"learning_rate": 0.0}, "learning_rate"),
    ],
)
def test_parameters_that_do_not_go_together_are_refused(parameters: dict[str, Any], words: str) -> None:
    with pytest.raises(BadConfiguration, match=words):
        find_algorithm("averaging", TASK, parameters)


def test_control_sum_counts_each_round_once_in_any_order() -> None:
    one, two = np.array([1, 2]), np.array([10, 20])
    total = ControlSum("run").plus(2, b"b", two).plus(1, b"a", one).plus(2, b"b", two)
    assert total.total is not None
    assert total.total.tolist() == [11, 22]
    found = total.with_pending([(2, two), (3, one)], (2,))
    assert found is not None
    assert found.tolist() == [12, 24]
    assert ControlSum("run").with_pending([], (2,)) is None
    assert total.is_of_earlier_run(1, b"a")
    assert total.is_of_earlier_run(2, b"other")
    assert not total.is_of_earlier_run(2, b"b")
    assert not total.is_of_earlier_run(3, b"c")


def test_control_sum_survives_in_the_spool(tmp_path: Path) -> None:
    spool = FileSpool(tmp_path / "bob")
    total = ControlSum("run").plus(4, b"digest", np.array([3, -(2**60)]))
    spool.carry(total)
    (found,) = FileSpool(tmp_path / "bob").controls()
    assert (found.run, found.rounds) == ("run", {4: b"digest"})
    assert found.total is not None
    assert found.total.tolist() == [3, -(2**60)]
    (tmp_path / "bob" / "other.control").write_bytes(b"damaged")
    assert len(spool.controls()) == 1
    spool.carry(ControlSum("run"))
    assert spool.controls() == []


def test_virtual_trainers_have_the_control_variates_of_deployed_ones() -> None:
    deployed = federation(shards(3), method="scaffold")
    deployed.train()
    options: dict[str, Any] = {"algorithm": "averaging", "parameters": {"method": "scaffold"}, "rounds": 10, "seed": 3}
    run = simulate(TASK, shards(3), **options)
    assert deployed.model is not None
    assert run.model is not None
    assert run.model.parameters.tobytes() == deployed.model.parameters.tobytes()
    with pytest.raises(BadConfiguration, match="method=scaffold: expected one process"):
        simulate(TASK, shards(3), processes=2, **options)
