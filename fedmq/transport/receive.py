"""Receive from a link: decode and verify messages, and follow the connection to the broker.

A term begins as the wall clock of an aggregator, and every receiver ignores terms lower than the highest one seen. So a
term in the future would silence the run: a wrong clock, or a stolen key that is replaced later. It is rejected.
"""

from collections.abc import Iterator
from typing import assert_never

from fedmq.errors import Rejected
from fedmq.protocol.codec import Frames, Packet, decode
from fedmq.protocol.messages import RunHeader
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

TERM_AHEAD_S_MAX = 24 * 3600.0  # of a term, before the clock of this machine


def verified(frames: Frames, signing: Signing, clock: Clock) -> tuple[Packet, str]:
    """Return the message of these frames, and the fingerprint of the key that signed it.

    Raises:
        Rejected: it is invalid, not signed by the sender that may send it, or of a term in the future.
    """
    packet = decode(frames)
    fingerprint = signing.check(packet, clock.now())
    message = packet.message
    if isinstance(message, RunHeader) and message.term > 1000 * (clock.wall() + TERM_AHEAD_S_MAX):
        ahead_h = (message.term / 1000 - clock.wall()) / 3600
        raise Rejected(
            "term",
            f"run {message.run}: expected a term that has begun, got {message.term}, {ahead_h:.0f} h in the future: "
            "compare the clocks of this machine and the aggregator's",
        )
    return packet, fingerprint


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
                    received = MessageReceived(*verified(frames, signing, clock))
                except Rejected as rejected:
                    yield MessageRejected(rejected, sum(map(len, frames)))
                else:
                    yield received
            case _:
                assert_never(event)
