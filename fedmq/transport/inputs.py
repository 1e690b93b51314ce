"""Inputs of the state machines of aggregators and trainers: what a service receives, as values."""

from typing import NamedTuple

from fedmq.errors import Rejected
from fedmq.protocol.codec import Packet


class MessageReceived(NamedTuple):
    """A message that passed the decoder and the signature check."""

    packet: Packet
    fingerprint: str = ""  # of the key that signed it; "" without keys


class MessageRejected(NamedTuple):
    """Frames that failed the decoder or the signature check."""

    rejected: Rejected
    nbytes: int = 0


class BrokerConnected(NamedTuple):
    """The broker forwards messages from now on. It may be a new process with an empty state."""


class BrokerDisconnected(NamedTuple):
    """The connection to the broker is lost."""


class Tick(NamedTuple):
    """Time has passed and nothing else happened."""


class StopRequested(NamedTuple):
    """The process is asked to end."""


LinkInput = MessageReceived | MessageRejected | BrokerConnected | BrokerDisconnected
