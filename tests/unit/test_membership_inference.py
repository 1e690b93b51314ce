"""Membership inference: above chance without noise, at chance at the documented epsilon."""

import runpy
from pathlib import Path

ATTACKS = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "membership_inference.py"))["attacks"]


def test_members_are_found_without_noise_and_not_at_epsilon_1() -> None:
    without, private = ATTACKS(None, 12), ATTACKS(1.0, 12)
    for name in ("loss", "ratio"):
        assert without[name][1] > 0.6
        middle, low, high = private[name]
        assert low <= 0.5 <= high
        assert abs(middle - 0.5) < 0.05
