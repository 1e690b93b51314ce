"""Losses that do not fit their units: an error that names the fix if all saturate, a count if some do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedmq import load_model
from fedmq.algorithms.averaging.query import GradientLearner, Train
from fedmq.algorithms.base import Query, encode_query
from fedmq.algorithms.evolution.query import Evolve
from fedmq.algorithms.evolution.strategy import Evolution
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration, BadData
from fedmq.models.networks import MLP, Linear
from fedmq.observe import events
from fedmq.observe.event_text import event_line
from fedmq.protocol.codec import Array, Packet, decode, encode
from fedmq.protocol.fixed_point import UNITS_MAX, fitting_bits, saturated
from fedmq.protocol.messages import Round
from fedmq.simulation import Federation
from fedmq.tasks.task import Rows, Task
from fedmq.trainer.round_handler import on_rows


def price_task(**settings: object) -> Task:
    return Task(name="price", model=Linear(2), loss="squared-error", metric="loss", target=4.0, **settings)  # type: ignore[arg-type]


def price_rows(part: int, count: int = 2000) -> Rows:
    inputs = np.random.default_rng(part).normal(size=(count, 2))
    return Rows(inputs, 300_000.0 + 80_000.0 * inputs[:, 0] - 40_000.0 * inputs[:, 1])


def round_of(task: Task, query: Query, **arrays: Array) -> Packet:
    message = Round(run="run", term=1, round=1, seed=1, deadline_s=1.0, task=task, query=encode_query(query))
    return decode(encode("round/run", message, arrays))


def pool_round(task: Task, genes: list[list[float]]) -> Packet:
    return round_of(task, Evolve(elites=0, generations=0), ids=np.arange(len(genes)), pool=np.array(genes))


def answered(packet: Packet, rows: Rows, fraction_bits: int = 16) -> dict[str, Array]:
    return on_rows(rows, "bob", fraction_bits=fraction_bits)(packet, lambda: False)


def test_answer_with_only_saturated_losses_is_refused_with_scale_and_bits() -> None:
    packet = pool_round(price_task(), [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]])
    with pytest.raises(BadData) as refused:
        answered(packet, price_rows(1))
    line = str(refused.value)
    assert "\n" not in line
    assert len(line) <= 200, "it fits into a Goodbye"
    for part in ("7.04e+13", "all 2 candidates", "output_scale=100000 in the task", "--score-bits 12"):
        assert part in line
    assert len(set(answered(packet, price_rows(1), 12)["losses"].tolist())) == 2, "the named bits fit"


def test_refusal_names_the_inputs_when_the_targets_are_small() -> None:
    rows = Rows(np.full((2000, 2), 3e6), np.ones(2000))
    with pytest.raises(BadData, match="scale the input columns to about 1 at every site"):
        answered(pool_round(price_task(), [[1.0, 2.0, 0.0]]), rows)


def test_model_that_averaging_scores_is_refused_when_its_loss_saturates() -> None:
    train = round_of(price_task(), Train(GradientLearner(1, 0, 1e-9)), model=np.zeros(3))
    with pytest.raises(BadData, match="output_scale=100000"):
        answered(train, price_rows(1))


def test_candidates_that_fit_are_ranked_while_others_saturate() -> None:
    answer = answered(pool_round(price_task(), [[0.0, 0.0, 0.0], [80_000.0, -40_000.0, 300_000.0]]), price_rows(1))
    assert saturated(answer["losses"], 16).tolist() == [True, False]


def test_no_loss_of_a_row_is_clipped_below_the_units() -> None:
    """A row was clipped at 1e12, in silence: candidates with errors beyond a million ranked alike."""
    task, rows = price_task(), Rows(np.zeros((3, 2)), np.full(3, 5e6))
    losses = task.score(np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 1e6]]), rows).losses
    assert losses.tolist() == [3 * 25e12, 3 * 16e12]


def test_saturated_losses_are_counted_at_the_close_and_printed() -> None:
    def overflowing(rows: Rows, name: str) -> object:
        work = on_rows(rows, name)

        def answer(packet: Packet, cancelled: object) -> dict[str, Array]:
            arrays = work(packet, cancelled)  # type: ignore[arg-type]
            return {**arrays, "losses": np.where(np.arange(len(arrays["losses"])) < 3, np.inf, arrays["losses"])}

        return answer

    rows = {name: price_rows(part, 20) for part, name in enumerate(("alice", "bob"))}
    task = price_task(output_scale=1e5, rounds=2)
    federation = Federation(task, Evolution(), rows, seed=1, learn=overflowing)  # type: ignore[arg-type]
    federation.train()
    closes = [event for event in federation.events if isinstance(event, events.RoundClosed)]
    assert [close.saturated for close in closes] == [6] * len(closes), "3 of each of two trainers"
    assert "6 losses saturate" in (event_line(closes[0], "loss") or "")


@pytest.mark.parametrize("seed", range(1, 6))
def test_prices_in_the_hundreds_of_thousands_are_learned_with_a_scale(seed: int) -> None:
    rows = {name: price_rows(part) for part, name in enumerate(("alice", "bob"))}
    federation = Federation(price_task(output_scale=1e5, rounds=60), Evolution(), rows, seed=seed)
    model = federation.train()
    assert model is not None
    assert federation.aggregator is not None
    assert federation.aggregator.rounds.solved
    predicted = model.predict([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(predicted, [300_000.0, 380_000.0, 260_000.0], atol=15_000.0)


def test_gradients_of_averaging_are_of_scaled_targets() -> None:
    rows = {name: price_rows(part) for part, name in enumerate(("alice", "bob"))}
    strategy = find_algorithm("averaging", parameters={"epochs": 1, "batch_size": 0, "learning_rate": 0.2})
    model = Federation(price_task(output_scale=1e5, rounds=40), strategy, rows).train()
    assert model is not None
    np.testing.assert_allclose(model.predict([[0.0, 0.0]]), [300_000.0], rtol=0.01)


def test_model_file_keeps_its_scale(tmp_path: Path) -> None:
    trained = price_task(output_scale=1e5).trained(np.array([0.8, -0.4, 3.0]))
    (tmp_path / "model.npz").write_bytes(trained.to_bytes())
    np.testing.assert_allclose(load_model(tmp_path / "model.npz").predict([[1.0, 1.0]]), [340_000.0])
    assert b"output_scale" not in price_task().trained(np.zeros(3)).to_bytes(), "as before there were scales"


def test_scale_is_for_squared_errors_and_positive() -> None:
    with pytest.raises(BadConfiguration, match="output_scale: expected 1 for the loss cross-entropy"):
        Task(name="a", model=MLP([2, 2]), loss="cross-entropy", metric="accuracy", target=1.0, output_scale=10.0)
    for wrong in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(BadConfiguration, match="output_scale: expected a number"):
            price_task(output_scale=wrong)


def test_fitting_bits_leave_room_and_are_none_beyond_the_largest_unit() -> None:
    assert fitting_bits(1.0, 16) == 16
    assert fitting_bits(UNITS_MAX * 2.0**-16, 16) == 13
    assert fitting_bits(2.0**61, 16) is None
