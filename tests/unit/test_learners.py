"""The learners of the built-in queries: answers, and what they reject."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from strategy_rounds import learned

from fedmq.algorithms.averaging.query import EvolutionLearner, GradientLearner, Train
from fedmq.algorithms.evolution.query import Evolve
from fedmq.errors import Rejected, WorkCancelled, WorkError
from fedmq.models.fourier import Fourier
from fedmq.tasks.task import Task
from fedmq.tasks.task_file import find_task, task_rows

Floats = npt.NDArray[np.float64]
XOR, XOR_ROWS = find_task("xor"), task_rows("xor", 1, 2)
LINEAR, BOB, ALICE = find_task("linear"), task_rows("linear", 1, 2), task_rows("linear", 2, 2)


def pool(size: int = 100, seed: int = 1) -> dict[str, npt.NDArray[Any]]:
    genes = np.random.default_rng(seed).uniform(-2, 2, (size, XOR.model.num_parameters))
    return {"ids": np.arange(size), "pool": genes}


def evolved(work: Evolve, arrays: dict[str, npt.NDArray[Any]], seed: int = 1) -> dict[str, npt.NDArray[Any]]:
    return learned(XOR, work, arrays, XOR_ROWS, np.random.default_rng(seed))


def test_whole_pool_is_scored_on_the_trainers_rows() -> None:
    arrays = pool()
    found = evolved(Evolve(elites=10), arrays)
    expected = XOR.score(arrays["pool"], XOR_ROWS)
    np.testing.assert_array_equal(found["losses"], expected.losses)
    np.testing.assert_array_equal(found["correct"], expected.correct)


def test_elites_are_new_and_best_first() -> None:
    arrays = pool()
    found = evolved(Evolve(elites=10, proposals=3), arrays)
    assert found["elites"].shape == (3, XOR.model.num_parameters)
    assert not {elite.tobytes() for elite in found["elites"]} & {one.tobytes() for one in arrays["pool"]}
    losses = XOR.score(found["elites"], XOR_ROWS).losses
    assert (np.diff(losses) >= 0).all()


def test_answer_has_the_dtypes_of_the_protocol() -> None:
    found = evolved(Evolve(elites=0), pool())
    assert {name: array.dtype for name, array in found.items()} == {
        "losses": np.dtype(np.float64),
        "correct": np.dtype(np.int64),
        "elites": np.dtype(np.float64),
    }


@pytest.mark.parametrize("work", [Evolve(elites=10, generations=0), Evolve(elites=10, proposals=0)])
def test_without_generations_or_proposals_there_are_only_scores(work: Evolve) -> None:
    assert evolved(work, pool())["elites"].shape == (0, XOR.model.num_parameters)


def test_pool_of_one_is_scored() -> None:
    assert evolved(Evolve(elites=1), pool(1))["losses"].shape == (1,)


def test_same_generator_gives_the_same_elites() -> None:
    first, second = evolved(Evolve(elites=10), pool(), seed=4), evolved(Evolve(elites=10), pool(), seed=4)
    np.testing.assert_array_equal(first["elites"], second["elites"])


def test_newer_round_cancels_the_work() -> None:
    with pytest.raises(WorkCancelled):
        learned(XOR, Evolve(elites=10), pool(), XOR_ROWS, cancelled=lambda: True)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"pool": np.zeros((100, 21))}, "shape"),
        ({"pool": np.zeros((100, 22), np.float32)}, "dtype"),
        ({"pool": np.full((100, 22), np.nan)}, "not-finite"),
        ({"pool": np.zeros((0, 22)), "ids": np.zeros(0, np.int64)}, "values"),
        ({"ids": np.arange(99)}, "shape"),
        ({"more": np.zeros(1)}, "arrays"),
    ],
)
def test_arrays_that_do_not_fit_the_task_are_rejected(change: dict[str, npt.NDArray[Any]], reason: str) -> None:
    with pytest.raises(Rejected) as refused:
        evolved(Evolve(elites=10), {**pool(), **change})
    assert refused.value.reason == reason


def test_more_elites_than_candidates_are_rejected() -> None:
    with pytest.raises(Rejected) as refused:
        evolved(Evolve(elites=101), pool())
    assert refused.value.reason == "values"


def descended(steps: int, rows: Any, model: Floats | None = None) -> dict[str, npt.NDArray[Any]]:
    arrays = {"model": np.zeros(3) if model is None else model}
    learner = GradientLearner(epochs=steps, batch_size=0, learning_rate=0.2)
    return learned(LINEAR, Train(learner), arrays, rows, np.random.default_rng(1))


def test_ten_steps_of_bob_and_of_alice_match_the_tutorial() -> None:
    bob = descended(10, BOB)["model"]
    alice = descended(10, ALICE)["model"]
    np.testing.assert_allclose(bob, [1.3099636736, 0.1937459200, 0.1937459200], atol=1e-9)
    np.testing.assert_allclose(alice, [0.6729645056, 0.0, 0.2017469440], atol=1e-9)
    np.testing.assert_allclose((bob + alice) / 2, [0.9914640896, 0.0968729600, 0.1977464320], atol=1e-9)


def test_received_model_is_scored_before_it_is_trained() -> None:
    found = descended(1, BOB)
    assert found["losses"].tolist() == [4.0]
    assert found["correct"].tolist() == [1]
    assert found["correct"].dtype == np.int64


def test_diverging_learning_rate_is_refused_by_name() -> None:
    with pytest.raises(WorkError, match=r"^learning rate 5 diverged after 1 rounds: try 0\.5 "):
        learned(LINEAR, Train(GradientLearner(5000, learning_rate=5.0)), {"model": np.zeros(3)}, BOB)


def test_gradient_learner_refuses_a_model_without_gradients() -> None:
    task = Task(name="t", model=Fourier(2, 1, 8), loss="squared-error", metric="loss")
    with pytest.raises(Rejected, match="learner=gradient: expected a model MLP"):
        learned(task, Train(GradientLearner()), {"model": np.zeros(task.model.num_parameters)}, XOR_ROWS)


def test_evolution_learner_improves_the_model() -> None:
    model = np.random.default_rng(2).normal(0, 0.5, 22)
    work = Train(EvolutionLearner())
    found = learned(XOR, work, {"model": model}, XOR_ROWS, np.random.default_rng(1))
    assert found["model"].shape == (22,)
    assert XOR.score(found["model"][None], XOR_ROWS).losses[0] < found["losses"][0]


def test_model_of_another_size_is_rejected() -> None:
    with pytest.raises(Rejected) as refused:
        descended(1, BOB, model=np.zeros(4))
    assert refused.value.reason == "shape"
