"""Random streams: equal paths draw equal numbers everywhere, other paths others."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedmq.runtime.rng import derive_rng

parts = st.integers(0, 2**53) | st.text(max_size=12)
paths = st.lists(parts, max_size=4).map(tuple)


def draws(seed: int, *path: str | int) -> bytes:
    return derive_rng(seed, *path).bytes(16)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.integers(0, 2**53), paths)
def test_the_same_path_draws_the_same_numbers(seed: int, path: tuple[str | int, ...]) -> None:
    assert draws(seed, *path) == draws(seed, *path)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 2**53), paths), min_size=2, max_size=6, unique=True))
def test_other_paths_draw_other_numbers(places: list[tuple[int, tuple[str | int, ...]]]) -> None:
    assert len({draws(seed, *path) for seed, path in places}) == len(places)


def test_a_number_and_its_text_are_not_the_same_path() -> None:
    assert draws(7, 1) != draws(7, "1")
    assert draws(7, "a", "b") != draws(7, "ab")
    assert draws(7, "a, b") != draws(7, "a", "b")
    assert draws(7, 1) != draws(1, 7)


def test_the_numbers_do_not_change_between_versions() -> None:
    """A later version continues a stored run, so these draws must not change."""
    assert derive_rng(7, "trainer", "bob", 3).integers(0, 1_000_000, 4).tolist() == [165319, 707230, 355756, 265440]


def test_streams_of_neighboring_rounds_are_independent() -> None:
    table = np.array([derive_rng(7, "trainer", "bob", number).normal(size=1000) for number in range(1, 21)])
    correlations = np.corrcoef(table) - np.eye(len(table))
    assert np.abs(correlations).max() < 0.15  # 4.7 standard deviations of 1 / sqrt(1000)
    assert abs(table.mean()) < 0.03


def test_drawing_does_not_touch_the_global_generator() -> None:
    before = np.random.get_state()[1].tobytes()  # type: ignore[index]  # noqa: NPY002
    derive_rng(7, "a").normal(size=100)
    assert np.random.get_state()[1].tobytes() == before  # type: ignore[index]  # noqa: NPY002
