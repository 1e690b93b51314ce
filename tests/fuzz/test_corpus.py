"""Replay all inputs that crashed once, and check the fuzzers with a few thousand new inputs."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from fuzz import CORPUS, TARGETS, fuzz

INPUTS = {"decoder": 5_000, "store": 500, "configuration": 500}


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*.bin")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_input_of_the_corpus_does_not_crash(path: Path) -> None:
    with closing(TARGETS[path.parent.name]()) as target:
        assert target.take(path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_new_inputs_do_not_crash(target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("fuzz.CORPUS", tmp_path)  # a crash fails the test and is not saved
    assert fuzz(target, INPUTS[target], seed=7, growth_max=1.0)


@pytest.mark.parametrize("name", ["decoder", "configuration"])
def test_same_seed_draws_the_same_inputs(name: str) -> None:
    """Images of stores differ: SQLite leaves old memory in unused bytes."""
    with closing(TARGETS[name]()) as target:
        first, second = Random(name), Random(name)
        assert [target.draw(first) for _ in range(50)] == [target.draw(second) for _ in range(50)]
