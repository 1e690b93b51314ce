"""Live runs at one broker: their states, updated from published events and snapshots.

An observer that joins late, or missed an event, waits for the next snapshot. Of two aggregators of one run the higher
term wins; of two runs with one name the later one does.
"""

from __future__ import annotations

import logging
import math
import secrets
import threading
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from fedmq.errors import NotAuthorized, Rejected, one_line
from fedmq.observe.events import AnyEvent
from fedmq.observe.run_state import RunState
from fedmq.protocol.codec import EVENTS, VIEW, Packet
from fedmq.protocol.messages import At, Beacon, Events, Snapshot
from fedmq.protocol.topics import WATCH
from fedmq.runtime.clock import Clock
from fedmq.runtime.rate_limit import RateLimited
from fedmq.security.signing import NoSigning, Signing, TrainerSigning
from fedmq.transport.link import Delivered, Link, LinkRefused, LinkUp
from fedmq.transport.receive import verified

if TYPE_CHECKING:
    from fedmq.transport.zeromq import ObserverSockets

RUNS_MAX = 64  # the run that was silent for the longest time is dropped first
CONNECTED_S = 2.0  # since the last message of an aggregator, which sends four a second

_events: msgspec.msgpack.Decoder[list[tuple[At, AnyEvent]]] = msgspec.msgpack.Decoder(list[tuple[At, AnyEvent]])
_run_state = msgspec.msgpack.Decoder(RunState)

log = logging.getLogger(__name__)


class WatchedRun:
    """The state of one run, and when its aggregator last sent a message."""

    def __init__(self, run_state: RunState) -> None:
        self.run_state = run_state
        self.received_at = -math.inf  # on the clock's `now`
        self.ahead_s = 0.0  # the wall clock of its aggregator, which dates its events, minus ours

    def connected(self, now: float) -> bool:
        return now - self.received_at < CONNECTED_S


class LiveRuns:
    """All runs at one broker, by name; see `loop.Service`. Another thread that reads them holds `lock`."""

    def __init__(self, link: Link, *, clock: Clock, signing: Signing | None = None) -> None:
        self.lock = threading.Lock()
        self.runs: OrderedDict[str, WatchedRun] = OrderedDict()
        self.done = False
        self.connected = False  # to the broker
        self.wake_at: float | None = None
        self._link, self._clock = link, clock
        self._signing: Signing = signing or NoSigning()
        self._was_connected = False
        self._limited = RateLimited(log, clock)

    @property
    def status(self) -> str:
        return f"watches {len(self.runs)} runs" if self.connected else "no connection to the broker"

    def stop(self) -> None:
        self.done = True

    def step(self) -> None:
        """See `loop.Service`.

        Raises:
            NotAuthorized: the broker rejects our key, and never accepted it.
        """
        with self.lock:
            for event in self._link.receive():
                if isinstance(event, Delivered):
                    self._receive(event)
                    continue
                self.connected = isinstance(event, LinkUp)
                self._was_connected = self._was_connected or self.connected
                if isinstance(event, LinkRefused) and not self._was_connected:
                    raise NotAuthorized(
                        "the broker rejects this key: expected --keys with the key of an observer or of the aggregator"
                    )

    def _receive(self, delivered: Delivered) -> None:
        try:
            packet, _ = verified(delivered.frames, self._signing, self._clock)
            self._handle(packet)
        except Rejected as rejected:
            self._limited.warning(rejected.reason, "rejected a message: %s", rejected)

    def _handle(self, packet: Packet) -> None:
        message = packet.message
        if not isinstance(message, Events | Snapshot | Beacon):
            return
        watched = self.runs.get(message.run)
        if watched is not None and message.term < watched.run_state.term:
            return
        if isinstance(message, Snapshot):
            watched = self._handle_snapshot(packet, message, watched)
        elif watched is not None and isinstance(message, Beacon) and message.at:
            watched.ahead_s = message.at - self._clock.wall()
        elif watched is not None and isinstance(message, Events) and message.term == watched.run_state.term:
            self._handle_events(packet, message, watched.run_state)
        if watched is not None and not packet.topic.startswith(WATCH):  # the broker sends those from its memory
            watched.received_at = self._clock.now()
            self.runs.move_to_end(message.run)

    def _handle_snapshot(self, packet: Packet, message: Snapshot, watched: WatchedRun | None) -> WatchedRun:
        if watched is not None and (message.term, message.seq) <= (watched.run_state.term, watched.run_state.seq):
            return watched
        state: RunState = _decoded(_run_state, packet, VIEW)
        if (state.run, state.term, state.seq) != (message.run, message.term, message.seq):
            raise Rejected("values", f"expected the state of run {message.run} after {message.seq} events")
        if watched is None:
            watched = self.runs[message.run] = WatchedRun(state)
            if len(self.runs) > RUNS_MAX:
                self.runs.popitem(last=False)
        watched.run_state = state
        return watched

    def _handle_events(self, packet: Packet, message: Events, run_state: RunState) -> None:
        received: list[tuple[At, AnyEvent]] = _decoded(_events, packet, EVENTS)
        known = run_state.seq - message.first
        if known < 0 or len(received) != message.count:
            return  # some events are missing: the next snapshot includes them
        for at, event in received[known:]:
            run_state.apply(at, event)


def open_live_runs(broker: str | None, keys: Path | None, *, clock: Clock) -> tuple[LiveRuns, ObserverSockets, str]:
    """Return the live runs at the broker of these options, their link, and the broker's address."""
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
    except Exception as error:  # as in `codec.decode`: checks of a struct may raise anything
        raise Rejected("values", one_line(error)[:200]) from error
