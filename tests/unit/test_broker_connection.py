"""Whether an edge has reached its broker, and how many times."""

from __future__ import annotations

import pytest

from fedmq.errors import Unreachable
from fedmq.runtime.broker_connection import NOTICE_S, BrokerConnection


def test_a_broker_is_reached_once_until_it_goes_away() -> None:
    connection = BrokerConnection("tcp://127.0.0.1:1", 0.0, None)
    assert (connection.contacts, connection.problem) == (0, "the broker at tcp://127.0.0.1:1 is not there")
    for _ in range(2):
        connection.up()
    assert (connection.contacts, connection.problem) == (1, "")
    connection.down()
    assert connection.problem
    connection.up()
    assert connection.contacts == 2


@pytest.mark.parametrize(
    ("answers", "line", "error"),
    [
        (False, "the broker at tcp://127.0.0.1:1 is not there yet; trying again", "nothing answered: start it"),
        (
            True,
            "what is at tcp://127.0.0.1:1 ends our connections: no broker, or with other keys; trying again",
            "with our keys",
        ),
    ],
)
def test_who_never_was_our_broker_is_not_said_to_be_gone(
    caplog: pytest.LogCaptureFixture, answers: bool, line: str, error: str
) -> None:
    connection = BrokerConnection("tcp://127.0.0.1:1", 0.0, 8.0)
    for _ in range(5 * answers):
        connection.down()
    connection.check(NOTICE_S)
    assert caplog.messages == [line]
    with pytest.raises(Unreachable, match=error):
        connection.check(8.0)
