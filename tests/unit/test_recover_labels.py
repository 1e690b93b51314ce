"""The example of the curious aggregator does what docs/privacy.md says of it."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
NAMES = runpy.run_path(str(ROOT / "examples" / "recover_labels.py"))
PAGE = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
scores_needed, recovered, make_rows, Victim = (
    NAMES[name] for name in ("scores_needed", "recovered", "make_rows", "Victim")
)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bits", [30, 16])
def test_exact_sums_give_every_label_with_as_many_scores_as_rows_and_one(bits: int, seed: int) -> None:
    assert scores_needed(30, bits, "losses", seed) <= 31


@pytest.mark.parametrize("seed", range(3))
def test_whole_numbers_take_random_candidates_longer(seed: int) -> None:
    assert 31 < scores_needed(30, 0, "losses", seed) <= 90


@pytest.mark.parametrize("bits", [30, 0])
def test_no_rounding_helps_against_candidates_that_point_at_a_row(bits: int) -> None:
    assert scores_needed(30, bits, "pointed", 0) == 30


def test_the_counts_of_correct_rows_say_as_much_whatever_the_losses_are_rounded_to() -> None:
    assert scores_needed(30, 0, "counts", 0) == scores_needed(30, 30, "counts", 0) <= 45


@pytest.mark.parametrize(("most", "labels"), [(10, 10), (30, 30), (None, 90)])
def test_a_cap_on_evaluations_is_a_cap_on_labels_that_are_pointed_at(most: int | None, labels: int) -> None:
    assert recovered(90, most, 0) == labels


def test_a_round_that_would_go_beyond_the_cap_is_not_answered_at_all() -> None:
    victim = Victim(make_rows(30, 0), 16, 99)
    assert victim.score(np.zeros((100, NAMES["TASK"].model.num_parameters))) is None


def test_the_figures_on_the_page_are_those_of_the_script() -> None:
    rows = re.findall(r"^\| (\d+) \| (losses|pointed|counts) \|(.*)\|$", PAGE, flags=re.MULTILINE)
    assert len(rows) == 9
    for count, way, cells in rows:
        if int(count) < 90:
            needed = [np.median([scores_needed(int(count), bits, way, seed) for seed in range(5)]) for bits in (30, 0)]
            figures = [float(cell) for cell in cells.split("|")]
            assert [figures[0], figures[-1]] == needed
