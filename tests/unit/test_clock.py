"""The earliest of optional times, and clocks that are wrong."""

from __future__ import annotations

import math

import pytest

from fedmq.aggregator.service import resume
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration
from fedmq.runs.store import Store
from fedmq.runtime.clock import earliest, time_text
from fedmq.security.signing import NoSigning
from fedmq.testing import VirtualClock, run_config


def test_earliest_is_the_smallest_time_without_none() -> None:
    assert earliest(None, 3.0, 2.0, None) == 2.0
    assert earliest(0.0, 1.0) == 0.0


def test_earliest_of_no_times_is_none() -> None:
    assert earliest() is None
    assert earliest(None, None) is None


@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("seconds", [1e18, -1e300, math.nan, math.inf])
def test_time_that_no_calendar_has_is_a_question_mark(seconds: float, local: bool) -> None:
    assert time_text(seconds, local=local) == "?"
    assert time_text(0.0) == "1970-01-01 00:00 UTC"


def test_run_that_last_started_in_the_future_is_not_continued() -> None:
    """Trainers would reject each of its messages."""
    clock, store = VirtualClock(), Store(":memory:")
    config = run_config()
    store.begin(config, term=int(1000 * (clock.wall() + 25 * 3600)))
    with pytest.raises(BadConfiguration, match="set the clock of this machine"):
        resume(store, find_algorithm("evolution"), clock, NoSigning(), None, None)
    store.close()
