"""The example of a curious aggregator: it recovers labels as docs/privacy.md describes."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
NAMES = runpy.run_path(str(ROOT / "examples" / "recover_labels.py"))
PAGE = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
scores_needed, recovered, make_rows, Victim, read_from_secure_sums = (
    NAMES[name] for name in ("scores_needed", "recovered", "make_rows", "Victim", "read_from_secure_sums")
)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bits", [30, 16])
def test_exact_sums_give_all_labels_with_one_score_more_than_rows(bits: int, seed: int) -> None:
    assert scores_needed(30, bits, "losses", seed) <= 31


@pytest.mark.parametrize("seed", range(3))
def test_coarse_losses_need_more_random_candidates(seed: int) -> None:
    assert 31 < scores_needed(30, 0, "losses", seed) <= 90


@pytest.mark.parametrize("bits", [30, 0])
def test_rounding_does_not_help_against_pointed_candidates(bits: int) -> None:
    assert scores_needed(30, bits, "pointed", 0) == 30


def test_counts_of_correct_rows_give_labels_at_any_rounding() -> None:
    assert scores_needed(30, 0, "counts", 0) == scores_needed(30, 30, "counts", 0) <= 45


@pytest.mark.parametrize(("most", "labels"), [(10, 10), (30, 30), (None, 90)])
def test_cap_on_evaluations_caps_the_recovered_labels(most: int | None, labels: int) -> None:
    assert recovered(90, most, 0) == labels


def test_round_beyond_the_cap_is_not_answered() -> None:
    victim = Victim(make_rows(30, 0), 16, 99)
    assert victim.score(np.zeros((100, NAMES["TASK"].model.num_parameters))) is None


def test_page_has_the_figures_of_the_script() -> None:
    rows = re.findall(r"^\| (\d+) \| (losses|pointed|counts) \|(.*)\|$", PAGE, flags=re.MULTILINE)
    assert len(rows) == 9
    for count, way, cells in rows:
        if int(count) < 90:
            needed = [np.median([scores_needed(int(count), bits, way, seed) for seed in range(5)]) for bits in (30, 0)]
            figures = [float(cell) for cell in cells.split("|")]
            assert [figures[0], figures[-1]] == needed


def test_attack_on_a_secure_sum_of_three_sites_is_no_better_than_chance() -> None:
    """A best guess from the total is: the page has the figures. One of a pointed candidate is certain."""
    read = {
        way: np.mean([read_from_secure_sums(3, way, seed) for seed in range(5)], axis=0)
        for way in ("losses", "counts", "pointed")
    }
    for masked, total, *_ in read.values():
        assert abs(masked - 0.5) < 0.12  # 450 labels, and the masks are new each time: 5 deviations
        assert total <= 0.5
    assert read["pointed"][2:].tolist() == [1.0, 1.0]
    (figures,) = re.findall(r"^\| 3 \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|$", PAGE, flags=re.MULTILINE)
    known_of_one, known_of_all = ([read[way][place] for way in ("losses", "counts")] for place in (2, 3))
    assert [round(100 * one) for one in (*known_of_one, *known_of_all)] == [int(one) for one in figures]


def test_total_of_as_many_candidates_as_rows_gives_every_label() -> None:
    assert read_from_secure_sums(3, "losses", 0, most=270)[3] == 1.0
