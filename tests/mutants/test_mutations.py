"""The planted bugs fit the code: `make mutants` takes long, and says so only when somebody runs it."""

from __future__ import annotations

from mutants import misfit
from mutations import MUTATIONS


def test_each_planted_bug_still_fits_the_code() -> None:
    assert [why for one in MUTATIONS if (why := misfit(one)) is not None] == []
