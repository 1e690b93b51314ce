"""The links and the hub of `fedmq.transport.link` as ZeroMQ sockets. The only package that imports zmq.

One thread owns a link. Training never runs on it: a SUB socket re-subscribes after a restart of the broker only when
its thread uses it.
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
