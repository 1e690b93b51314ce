"""The planted bugs fit the code: `make mutants` takes long, so its list is checked here."""

from __future__ import annotations

import msgspec
import pytest
from mutants import misfit
from mutations import MUTATIONS


def test_every_planted_bug_fits_the_code() -> None:
    assert [why for one in MUTATIONS if (why := misfit(one)) is not None] == []


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"file": "aggregator/none.py"}, ["aggregator/none.py"]),
        ({"symbol": "Rounds.no_such_method"}, ["Rounds.no_such_method", "got 0"]),
        ({"pattern": "no such text"}, ["'no such text'", "got 0"]),
        ({"symbol": "Rounds", "pattern": "self"}, ["Rounds", "'self'"]),
        ({"new": "("}, ["'('"]),
        ({"tests": ("tests/unit/test_none.py",)}, ["tests/unit/test_none.py"]),
    ],
)
def test_planted_bug_that_does_not_fit_is_reported_with_its_place(changes: dict[str, str], named: list[str]) -> None:
    why = misfit(msgspec.structs.replace(MUTATIONS[0], **changes))
    assert why is not None
    assert [value for value in (MUTATIONS[0].what, *named) if value not in why] == []
