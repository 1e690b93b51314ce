"""The earliest of optional times."""

from __future__ import annotations

from fedmq.runtime.clock import earliest


def test_earliest_is_the_smallest_time_without_none() -> None:
    assert earliest(None, 3.0, 2.0, None) == 2.0
    assert earliest(0.0, 1.0) == 0.0


def test_earliest_of_no_times_is_none() -> None:
    assert earliest() is None
    assert earliest(None, None) is None
