"""ZeroMQ: the links of `network` as real sockets. The only package that imports zmq.

Knows nothing of messages: frames in, frames out. One thread owns a link; training never runs on it, because a SUB
socket re-subscribes after a broker's restart only when its thread touches it.
"""

from fedmq.transport.zeromq.broker import BrokerSockets
from fedmq.transport.zeromq.edge import (
    AggregatorSockets,
    JoinSockets,
    ObserverSockets,
    SubscriberSockets,
    TrainerSockets,
    TransportKeys,
)
from fedmq.transport.zeromq.endpoint import library

__all__ = [
    "AggregatorSockets",
    "BrokerSockets",
    "JoinSockets",
    "ObserverSockets",
    "SubscriberSockets",
    "TrainerSockets",
    "TransportKeys",
    "library",
]
