"""Receive from a link: decode and verify messages, and follow the connection to the broker."""

from collections.abc import Iterator
from typing import assert_never

from fedmq.errors import Rejected
from fedmq.protocol.codec import decode
from fedmq.runtime.broker_connection import BrokerConnection
from fedmq.runtime.clock import Clock
from fedmq.security.signing import Signing
from fedmq.transport.link import (
    BrokerConnected,
    BrokerDisconnected,
    Delivered,
    Link,
    LinkDown,
    LinkInput,
    LinkRefused,
    LinkUp,
    MessageReceived,
    MessageRejected,
)


def receive(link: Link, connection: BrokerConnection, signing: Signing, clock: Clock) -> Iterator[LinkInput]:
    """Yield what has arrived at the link, oldest first, without waiting; register changes in `connection`."""
    for event in link.receive():
        match event:
            case LinkUp():
                connection.up()
                yield BrokerConnected()
            case LinkRefused():
                connection.refused()
                yield BrokerDisconnected()
            case LinkDown():
                connection.down()
                yield BrokerDisconnected()
            case Delivered(frames):
                try:
                    packet = decode(frames)
                    received = MessageReceived(packet, signing.check(packet, clock.now()))
                except Rejected as rejected:
                    yield MessageRejected(rejected, sum(map(len, frames)))
                else:
                    yield received
            case _:
                assert_never(event)
