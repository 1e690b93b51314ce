"""Losses in fixed point: nearest integer, order kept, within an int64, and the same run as with float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmq.errors import Rejected
from fedmq.protocol.codec import Array, Packet
from fedmq.protocol.fixed_point import FRACTION_BITS, UNITS_MAX, dequantize, from_units, quantize, to_units
from fedmq.protocol.messages import FRACTION_BITS_MAX
from fedmq.simulation import Federation
from fedmq.tasks.task import Rows
from fedmq.tasks.task_file import find_task, task_rows
from fedmq.trainer.round_handler import on_rows
from fedmq.trainer.worker import Cancelled, Learn

scales = st.integers(0, FRACTION_BITS_MAX)
fitting = st.floats(-(2.0**22), 2.0**22)  # in units of any scale, a float64 holds it exactly
anything = st.floats(allow_nan=True, allow_infinity=True)
thorough = settings(max_examples=300, deadline=None, derandomize=True)


@thorough
@given(st.lists(fitting, min_size=1), scales)
def test_rounded_loss_differs_by_at_most_half_a_unit(losses: list[float], fraction_bits: int) -> None:
    again = from_units(to_units(np.array(losses), fraction_bits), fraction_bits)
    assert (np.abs(again - losses) <= 0.5 * 2.0**-fraction_bits).all()


@thorough
@given(st.lists(anything.filter(lambda loss: loss == loss), min_size=1), scales)
def test_rounding_keeps_the_order_of_losses(losses: list[float], fraction_bits: int) -> None:
    units = to_units(np.sort(np.array(losses)), fraction_bits)
    assert (np.diff(units) >= 0).all() or (units[1:] >= units[:-1]).all()
    assert (np.diff(from_units(units, fraction_bits)) >= 0).all()


@thorough
@given(st.lists(anything, min_size=1), scales)
def test_any_float_fits_the_units(losses: list[float], fraction_bits: int) -> None:
    units = to_units(np.array(losses), fraction_bits)
    assert units.dtype == np.int64
    assert (units >= -UNITS_MAX).all()
    assert (units <= UNITS_MAX).all()
    assert np.isfinite(from_units(units, fraction_bits)).all()


@thorough
@given(st.lists(st.integers(-(2**53), 2**53), min_size=1), scales)
def test_units_survive_the_conversion_to_floats(units: list[int], fraction_bits: int) -> None:
    assert to_units(from_units(np.array(units), fraction_bits), fraction_bits).tolist() == units


@pytest.mark.parametrize(
    ("loss", "units"),
    [
        (0.0, 0),
        (1.0, 1 << FRACTION_BITS),
        (2.0**-17, 0),  # half a unit goes to the even neighbor
        (3 * 2.0**-17, 2),
        (2.0**46, UNITS_MAX),
        (1e300, UNITS_MAX),
        (-1e300, -UNITS_MAX),
        (float("inf"), UNITS_MAX),
        (float("-inf"), -UNITS_MAX),
        (float("nan"), UNITS_MAX),
    ],
)
def test_loss_in_units(loss: float, units: int) -> None:
    assert to_units(np.array([loss]), FRACTION_BITS).tolist() == [units]


def test_only_losses_are_quantized_and_the_input_is_not_changed() -> None:
    arrays = {"losses": np.array([0.25]), "correct": np.array([1]), "model": np.array([0.3])}
    sent = quantize(arrays, 4)
    assert {name: array.tolist() for name, array in sent.items()} == {"losses": [4], "correct": [1], "model": [0.3]}
    assert dequantize(sent, 4)["losses"].tolist() == arrays["losses"].tolist() == [0.25]
    assert (
        quantize({"model": arrays["model"]}, 4).keys() == dequantize({"model": arrays["model"]}, 4).keys() == {"model"}
    )


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_losses_that_are_no_integers_are_rejected(dtype: type[np.generic]) -> None:
    with pytest.raises(Rejected, match="losses of int64") as refusal:
        dequantize({"losses": np.array([1.0], dtype)}, 16)
    assert refusal.value.reason == "dtype"


@pytest.mark.parametrize("seed", range(5))
def test_run_equals_that_with_unrounded_losses(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """On split XOR; in general a run is only as good, for two candidates may be nearer than a unit."""

    def genes() -> bytes:
        rows = {name: task_rows("xor", part, 2) for part, name in enumerate(("alice", "bob"), start=1)}
        federation = Federation(find_task("xor"), _evolution(), rows, seed=seed)
        assert federation.train() is not None
        assert federation.aggregator is not None
        assert federation.aggregator.rounds.solved
        return federation.aggregator.rounds.evaluation.parameters.tobytes()  # type: ignore[union-attr]

    rounded = genes()
    monkeypatch.setattr("fedmq.trainer.session.quantize", lambda arrays, fraction_bits: dict(arrays))
    monkeypatch.setattr("fedmq.runs.records.dequantize", lambda arrays, fraction_bits: dict(arrays))
    assert genes() == rounded


def _evolution() -> Any:
    from fedmq.algorithms.evolution.strategy import Evolution

    return Evolution()


def test_loss_that_is_no_number_does_not_stop_a_run() -> None:
    def broken(rows: Rows, name: str) -> Learn:
        work: Callable[[Packet, Cancelled], dict[str, Array]] = on_rows(rows, name)

        def answer(packet: Packet, cancelled: Cancelled) -> dict[str, Array]:
            arrays = work(packet, cancelled)
            losses = arrays["losses"].copy()
            losses[:3] = np.nan, np.inf, 1e300
            return {**arrays, "losses": losses}

        return answer

    rows = {name: task_rows("xor", part, 2) for part, name in enumerate(("alice", "bob"), start=1)}
    federation = Federation(find_task("xor"), _evolution(), rows, seed=1, learn=broken)
    assert federation.train() is not None
    assert federation.aggregator is not None
    assert federation.aggregator.rounds.rejections == {}
