"""The example of Bob and Alice: it gives the known parameters."""

from __future__ import annotations

import runpy
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "bob_and_alice.py"
NAMES = runpy.run_path(str(EXAMPLE))
BOB, ALICE, train = NAMES["BOB"], NAMES["ALICE"], NAMES["train"]


@pytest.mark.parametrize(
    ("rows", "steps", "averages", "expected"),
    [
        ({"bob": BOB, "alice": ALICE}, 10, 1, (0.9914640896, 0.0968729600, 0.1977464320)),
        ({"bob": BOB}, 10, 1, (1.3099636736, 0.1937459200, 0.1937459200)),
        ({"alice": ALICE}, 10, 1, (0.6729645056, 0.0, 0.2017469440)),
        ({"bob": BOB, "alice": ALICE}, 1, 1000, (1.5, 0.5, -0.25)),
    ],
    ids=["one average", "bob alone", "alice alone", "the pooled optimum"],
)
def test_training_gives_the_known_parameters(rows: dict, steps: int, averages: int, expected: tuple) -> None:
    np.testing.assert_allclose(train(rows, steps, averages), expected, rtol=0, atol=2e-8)


@pytest.mark.skipif(find_spec("torch") is None, reason="expected PyTorch, got none: set CI=true for make test")
def test_pytorch_gives_the_known_parameters_to_a_millionth() -> None:
    example = runpy.run_path(str(EXAMPLE.with_name("bob_and_alice_torch.py")))
    bob, alice, train = {"bob": example["BOB"]}, {"alice": example["ALICE"]}, example["train"]
    expected = (0.9914640896, 0.0968729600, 0.1977464320)
    np.testing.assert_allclose(train(bob | alice, 10, 1), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(train(bob, 10, 1), (1.3099636736, 0.1937459200, 0.1937459200), rtol=0, atol=1e-6)
    np.testing.assert_allclose(train(alice, 10, 1), (0.6729645056, 0.0, 0.2017469440), rtol=0, atol=1e-6)
    np.testing.assert_allclose(train(bob | alice, 1, 300), (1.5, 0.5, -0.25), rtol=0, atol=1e-6)


def test_example_is_short() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) < 45
