"""Watching live runs through the broker: their pictures, kept up to date from the events that are told.

Knows nothing of what the pictures are shown on. Whoever comes late, or has missed something, takes the next snapshot;
of two aggregators of one run the one with the higher term is believed, of two runs of one name the one begun later.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fedmq.errors import NotAuthorized, Rejected, one_line
from fedmq.observe.events import AnyEvent
from fedmq.observe.run_state import RunState
from fedmq.protocol.codec import EVENTS, VIEW, Packet, decode
from fedmq.protocol.messages import At, Beacon, Events, Snapshot
from fedmq.protocol.topics import WATCH
from fedmq.runtime.clock import Clock
from fedmq.runtime.rate_limit import RateLimited
from fedmq.security.signing import NoSigning, Signing, TrainerSigning
from fedmq.transport.link import Delivered, Link, LinkRefused, LinkUp

if TYPE_CHECKING:
    from fedmq.transport.zeromq import ObserverSockets

RUNS_MAX = 64  # the run that was heard of longest ago goes first
HERE_S = 2.0  # since an aggregator was heard: it says something four times a second

_events: msgspec.msgpack.Decoder[list[tuple[At, AnyEvent]]] = msgspec.msgpack.Decoder(list[tuple[At, AnyEvent]])
_view = msgspec.msgpack.Decoder(RunState)

log = logging.getLogger(__name__)


class Watched:
    """One run: its picture, which is replaced as a whole now and then, and when its aggregator was last heard."""

    def __init__(self, view: RunState) -> None:
        self.view = view
        self.heard_at = -math.inf  # on the clock's `now`
        self.ahead_s = 0.0  # how far its aggregator's wall clock, by which its events are, is ahead of ours

    def here(self, now: float) -> bool:
        """Whether its aggregator is there."""
        return now - self.heard_at < HERE_S


class LiveRuns:
    """Everything that is told at one broker, by run; see `loop.Service`."""

    def __init__(self, link: Link, *, clock: Clock, signing: Signing | None = None) -> None:
        self.runs: OrderedDict[str, Watched] = OrderedDict()
        self.done = False
        self.there = False  # the broker
        self.wake_at: float | None = None
        self._link, self._clock = link, clock
        self._signing: Signing = signing or NoSigning()
        self._let_in = False  # once at least
        self._limited = RateLimited(log, clock)

    @property
    def status(self) -> str:
        return f"watches {len(self.runs)} runs" if self.there else "the broker is not there"

    def stop(self) -> None:
        self.done = True

    def step(self) -> None:
        """See `loop.Service`.

        Raises:
            NotAuthorized: the broker does not let us in, and never did.
        """
        for news in self._link.receive():
            if isinstance(news, Delivered):
                self._hear(news)
                continue
            self.there = isinstance(news, LinkUp)
            self._let_in = self._let_in or self.there
            if isinstance(news, LinkRefused) and not self._let_in:
                raise NotAuthorized(
                    "the broker does not let us in: expected --keys with the key of an observer or of the aggregator"
                )

    def _hear(self, news: Delivered) -> None:
        try:
            packet = decode(news.frames)
            self._signing.check(packet, self._clock.now())
            self._take(packet)
        except Rejected as rejected:
            self._limited.warning(rejected.reason, "what came cannot be used: %s", rejected)

    def _take(self, packet: Packet) -> None:
        message = packet.message
        if not isinstance(message, Events | Snapshot | Beacon):
            return
        watched = self.runs.get(message.run)
        if watched is not None and message.term < watched.view.term:
            return  # an older life of its aggregator, that speaks for nobody
        if isinstance(message, Snapshot):
            watched = self._take_snapshot(packet, message, watched)
        elif watched is not None and isinstance(message, Beacon) and message.at:
            watched.ahead_s = message.at - self._clock.wall()
        elif watched is not None and isinstance(message, Events) and message.term == watched.view.term:
            self._take_events(packet, message, watched.view)
        if watched is not None and not packet.topic.startswith(WATCH):  # those are what the broker has kept
            watched.heard_at = self._clock.now()
            self.runs.move_to_end(message.run)

    def _take_snapshot(self, packet: Packet, message: Snapshot, watched: Watched | None) -> Watched:
        if watched is not None and (message.term, message.seq) <= (watched.view.term, watched.view.seq):
            return watched
        view: RunState = _decoded(_view, packet, VIEW)
        if (view.run, view.term, view.seq) != (message.run, message.term, message.seq):
            raise Rejected("values", f"expected a picture of run {message.run} after {message.seq} events")
        if watched is None:
            watched = self.runs[message.run] = Watched(view)
            if len(self.runs) > RUNS_MAX:
                self.runs.popitem(last=False)
        watched.view = view
        return watched

    def _take_events(self, packet: Packet, message: Events, view: RunState) -> None:
        told: list[tuple[At, AnyEvent]] = _decoded(_events, packet, EVENTS)
        known = view.seq - message.first
        if known < 0 or len(told) != message.count:
            return  # some are missing: the next snapshot has them
        for at, event in told[known:]:
            view.apply(at, event)


def open_watching(broker: str | None, keys: Path | None, *, clock: Clock) -> tuple[LiveRuns, ObserverSockets, str]:
    """Watching at the broker that these options of a command mean, its link, and the broker's address.

    Raises:
        BadConfiguration: there are no keys of an observer in the folder, nor those of the aggregator.
    """
    from fedmq.security.keyring import find_broker_to_watch
    from fedmq.transport.zeromq import ObserverSockets

    address, credentials = find_broker_to_watch(broker, keys)
    link = ObserverSockets(address, secrets.token_hex(8), credentials)
    signing = None if credentials is None else TrainerSigning(credentials)
    return LiveRuns(link, clock=clock, signing=signing), link, address


def _decoded(decoder: msgspec.msgpack.Decoder[Any], packet: Packet, name: str) -> Any:
    if name not in packet.arrays:
        raise Rejected("arrays", f"expected an array {name}")
    try:
        return decoder.decode(packet.arrays[name].data)
    except Exception as error:
        # As in `wire.decode`: whatever a struct's own checks raise is the sender's.
        raise Rejected("values", one_line(error)[:200]) from error
