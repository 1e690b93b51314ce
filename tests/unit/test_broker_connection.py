"""The state of the connection to a broker, and what is logged about it."""

from __future__ import annotations

import pytest

from fedmq.errors import NotAuthorized, Unreachable
from fedmq.runtime.broker_connection import NOTICE_S, BrokerConnection

ADDRESS = "tcp://127.0.0.1:1"


def test_connections_are_counted_once_each() -> None:
    connection = BrokerConnection(ADDRESS, 0.0, None)
    assert ADDRESS in connection.problem
    assert connection.contacts == 0
    for _ in range(2):
        connection.up()
    assert (connection.contacts, connection.problem) == (1, "")
    connection.down()
    assert connection.problem
    connection.up()
    assert connection.contacts == 2


@pytest.mark.parametrize(("closed", "got"), [(False, "got no answer"), (True, "got closed connections")])
def test_missing_broker_is_logged_once_until_the_timeout(
    caplog: pytest.LogCaptureFixture, closed: bool, got: str
) -> None:
    connection = BrokerConnection(ADDRESS, 0.0, 8.0)
    for _ in range(5 * closed):
        connection.down()
    connection.check(NOTICE_S)
    connection.check(NOTICE_S + 1.0)
    (line,) = caplog.messages
    assert ADDRESS in line
    with pytest.raises(Unreachable, match=got):
        connection.check(8.0)


def test_key_that_was_accepted_before_is_retried(caplog: pytest.LogCaptureFixture) -> None:
    connection = BrokerConnection(ADDRESS, 0.0, 8.0)
    connection.up()
    for _ in range(3):
        connection.refused()
    assert len(caplog.messages) == 1
    connection.check(100.0)


def test_key_that_was_never_accepted_is_an_error() -> None:
    with pytest.raises(NotAuthorized):
        BrokerConnection(ADDRESS, 0.0, 8.0).refused()
