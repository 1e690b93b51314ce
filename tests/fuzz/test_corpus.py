"""What fuzzing has found is replayed for ever, and a few thousand new inputs show that the fuzzers themselves work."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from fuzz import CORPUS, TARGETS, fuzz

INPUTS = {"decoder": 5_000, "store": 500, "configuration": 500}


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*.bin")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_input_that_crashed_once_does_not_crash_again(path: Path) -> None:
    with closing(TARGETS[path.parent.name]()) as target:
        assert target.take(path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_a_few_inputs_crash_nothing(target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("fuzz.CORPUS", tmp_path)  # a crash is told here, and kept by whoever fuzzes
    assert fuzz(target, INPUTS[target], seed=7, growth_max=1.0)


@pytest.mark.parametrize("name", ["decoder", "configuration"])
def test_the_same_seed_draws_the_same_inputs(name: str) -> None:
    """Not so the images of stores: SQLite leaves what was in memory in the room that is free."""
    with closing(TARGETS[name]()) as target:
        first, second = Random(name), Random(name)
        assert [target.draw(first) for _ in range(50)] == [target.draw(second) for _ in range(50)]
