"""Whether an edge has reached its broker, and how many times."""

from __future__ import annotations

from fedmq.reach import Reach


def test_a_broker_is_reached_once_until_it_goes_away() -> None:
    reach = Reach("tcp://127.0.0.1:1", 0.0, None)
    assert (reach.contacts, reach.lacks) == (0, "the broker at tcp://127.0.0.1:1 is not there")
    for _ in range(2):
        reach.up()
    assert (reach.contacts, reach.lacks) == (1, "")
    reach.down()
    assert reach.lacks
    reach.up()
    assert reach.contacts == 2
