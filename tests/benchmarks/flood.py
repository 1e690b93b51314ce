"""Benchmark: honest rounds of a federation with keys at a flooded broker, compared with an idle broker.

Run it: `python tests/benchmarks/flood.py [--json] [--seconds N]`. An aggregator and two trainers with keys exchange 72
bytes; the broker has few descriptors, and another process floods it; idle and flooded phases alternate. The flood uses
CPU of this machine, too, so the ratio is an upper bound. Exit code 1 if a ratio of medians is over the target.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy, and inherited by all processes

import argparse
import json
import multiprocessing
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import psutil
import zmq
from idle_round import Idle, serve_idle_trainer

from fedmq.aggregator.service import Aggregator
from fedmq.deploy.processes import free_port
from fedmq.observe import events
from fedmq.protocol.codec import FRAME_BYTES_MAX
from fedmq.runs.store import Store
from fedmq.runtime.clock import SystemClock
from fedmq.security.keyring import (
    MEMBERS,
    Credentials,
    FederationInfo,
    Members,
    read_credentials,
    write_federation,
    write_identity,
    write_public,
)
from fedmq.security.keys import Identity
from fedmq.security.signing import AggregatorSigning
from fedmq.testing import run_config
from fedmq.transport.link import Port
from fedmq.transport.zeromq import AggregatorSockets

RATIO_MAX = 2.0
WARM_UP = 20
JOIN_S_MAX = 30.0  # until the first round
START_S = 1.5  # start-up time of a flood
SPAWN = multiprocessing.get_context("spawn")
TRAINERS = ("alice", "bob")
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
BLOCK = bytes(1 << 20)
DESCRIPTORS = 256  # of the broker
STRANGERS = 10_000  # connections in STRANGERS_S
STRANGERS_S = 6.0
MB = 1e6


class Place(NamedTuple):
    """A federation's keys in a folder, and the credentials of the attacker mallory."""

    folder: Path
    federation: FederationInfo
    port: int
    mallory: Credentials

    @property
    def address(self) -> str:
        return self.federation.broker


class Outcome(NamedTuple):
    """One line of the table; `grew_mb` is the maximum growth of the broker's resident memory."""

    flood: str
    rounds: int
    idle_ms: float
    flood_ms: float
    p95_ms: float
    ratio: float
    grew_mb: float


class Turn(NamedTuple):
    """The seconds of each round, and the maximum growth of the broker in bytes."""

    rounds_s: list[float]
    grew: float


def silent(place: Place) -> None:
    """Open a thousand silent TCP connections, repeatedly."""
    while True:
        peers = [socket.create_connection(("127.0.0.1", place.port + number % 5)) for number in range(1000)]
        time.sleep(4.0)
        for peer in peers:
            peer.close()


def strangers(place: Place) -> None:
    """Open ten thousand silent TCP connections, repeatedly; keep 2,000 of them."""
    peers = deque[socket.socket]()
    while True:
        for number in range(STRANGERS):
            peer = socket.socket()
            peer.setblocking(False)
            peer.connect_ex(("127.0.0.1", place.port + number % 5))
            peers.append(peer)
            if len(peers) > 2_000:
                peers.popleft().close()
            if number % 100 == 0:
                time.sleep(100 * STRANGERS_S / STRANGERS)


def connections(place: Place) -> None:
    """Open connections of a member within its quota, and send nothing."""
    kept = []
    while True:
        raw = push_socket(place)
        raw.reconnect_ivl = -1
        raw.connect(f"tcp://127.0.0.1:{place.port + Port.PUSH}")
        kept.append(raw)
        time.sleep(0.2)


def handshakes(place: Place) -> None:
    """Send handshake commands of 32 MiB, one after the other."""
    number = 0
    while True:
        number += 1
        with socket.create_connection(("127.0.0.1", place.port + number % 5)) as peer:
            peer.settimeout(0.2)
            try:
                peer.sendall(GREETING + b"\x06" + (FRAME_BYTES_MAX - 1).to_bytes(8, "big"))
                for _ in range(31):
                    peer.sendall(BLOCK)
            except OSError:
                continue  # the broker closed it


def push_socket(place: Place) -> zmq.Socket[bytes]:
    """Return a socket with mallory's key."""
    raw = zmq.Context.instance().socket(zmq.PUSH)
    raw.sndhwm = 1000
    public = place.mallory.identity.public.transport
    raw.curve_publickey, raw.curve_secretkey = public, place.mallory.identity.transport_secret
    raw.curve_serverkey = place.federation.broker_key
    return raw


def member(place: Place, send: Callable[[zmq.Socket[bytes]], None]) -> None:
    """Send from a member at full speed."""
    raw = push_socket(place)
    raw.connect(f"tcp://127.0.0.1:{place.port + Port.PUSH}")
    while True:
        send(raw)


def endless(place: Place) -> None:
    """Send messages of 600 MB."""

    def send(raw: zmq.Socket[bytes]) -> None:
        for _ in range(600):
            raw.send(BLOCK, zmq.SNDMORE, copy=False)
        raw.send(b"end")

    member(place, send)


def messages(place: Place) -> None:
    """Send small messages at full speed."""
    member(place, lambda raw: raw.send_multipart([b"up/r", b"x"]))


FLOODS: dict[str, Callable[[Place], None]] = {
    "a thousand silent TCP peers": silent,
    "ten thousand connections": strangers,
    "a member's silent connections": connections,
    "handshakes of 32 MiB": handshakes,
    "a member's endless message": endless,
    "a member's small messages": messages,
}


def make_federation(folder: Path, trainers: Sequence[str] = TRAINERS) -> Place:
    """Create the keys of a federation with these trainers and mallory in `folder`."""
    port = free_port()
    broker, aggregator = Identity.new("broker", "broker"), Identity.new("aggregator", "aggregator")
    address = f"tcp://127.0.0.1:{port}"
    federation = FederationInfo(os.urandom(16), address, broker.public.transport, aggregator.public)
    write_federation(folder, federation)
    write_identity(folder, broker)
    write_identity(folder, aggregator)
    for name in (*trainers, "mallory"):
        identity = Identity.new("trainer", name)
        write_federation(folder / name, federation)
        write_identity(folder / name, identity)
        write_public(folder, MEMBERS, identity.public)
    return Place(folder, federation, port, Credentials(federation, identity))


def play(place: Place, aggregator: Credentials, seconds: float, name: str) -> list[float]:
    """Execute rounds for some seconds after the first; return the seconds of each round."""
    clock, store = SystemClock(), Store(":memory:")
    store.begin(run_config(name, algorithm=Idle.name, rounds_max=10**6, min_trainers=len(TRAINERS), quorum=1.0))
    published: list[float] = []

    def watch(_at: float, happened: Sequence[events.AnyEvent]) -> None:
        opened = sum(isinstance(event, events.RoundPublished) for event in happened)
        published.extend([time.perf_counter()] * opened)

    link = AggregatorSockets(place.address, name, aggregator)
    signing = AggregatorSigning(aggregator, Members(place.folder))
    service = Aggregator(link, store, Idle(), clock=clock, watch=watch, broker=place.address, signing=signing)
    stop_at = clock.now() + JOIN_S_MAX
    while clock.now() < stop_at:
        started = bool(published)
        service.step()
        if published and not started:
            stop_at = clock.now() + seconds
        link.wait(min(1.0, max(0.0, (service.wake_at or 0.0) - clock.now())))
    link.close()
    store.close()
    return [after - before for before, after in pairwise(published[WARM_UP:])]


class MemoryWatch(threading.Thread):
    """Records the maximum of a process's resident memory."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._process, self._ended = psutil.Process(pid), threading.Event()
        self.before = self.peak = self._process.memory_info().rss

    def run(self) -> None:
        while not self._ended.wait(0.01):
            self.peak = max(self.peak, self._process.memory_info().rss)

    def grew(self) -> float:
        """Stop, and return the maximum growth in bytes."""
        self._ended.set()
        self.join()
        return self.peak - self.before


def turn(place: Place, pid: int, flood: Callable[[Place], None] | None, run: str, seconds: float) -> Turn:
    """Execute rounds during a flood."""
    aggregator = read_credentials(place.folder, "aggregator")
    process = None if flood is None else SPAWN.Process(target=flood, args=(place,), daemon=True)
    if process is not None:
        process.start()
        time.sleep(START_S)  # its interpreter uses CPU, too
    watched = MemoryWatch(pid)
    watched.start()
    try:
        return Turn(play(place, aggregator, seconds, run), watched.grew())
    finally:
        if process is not None:
            process.kill()
            process.join()


def measure(seconds: float) -> list[Outcome]:
    """Measure each flood after an idle phase."""
    outcomes = []
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        place = make_federation(Path(name))
        command = [sys.executable, "-P", "-m", "fedmq", "broker", "--keys", name, "--log-level", "error"]
        limits = ["prlimit", f"--nofile={DESCRIPTORS}:{DESCRIPTORS}"]
        broker = subprocess.Popen([*limits, *command], stdout=subprocess.DEVNULL)
        stack.callback(broker.wait)
        stack.callback(broker.kill)
        for trainer in TRAINERS:
            credentials = read_credentials(place.folder / trainer, "trainer")
            process = SPAWN.Process(target=serve_idle_trainer, args=(place.address, trainer, credentials), daemon=True)
            process.start()
            stack.callback(process.kill)
        for number, (flood, make) in enumerate(FLOODS.items()):
            idle = turn(place, broker.pid, None, f"idle-{number}", seconds)
            during = turn(place, broker.pid, make, f"flood-{number}", seconds)
            outcomes.append(outcome(flood, idle, during))
    return outcomes


def outcome(flood: str, idle: Turn, during: Turn) -> Outcome:
    """Return a line of the table."""
    quiet, busy = (statistics.median(turn.rounds_s) for turn in (idle, during))
    p95 = statistics.quantiles(during.rounds_s, n=20)[-1]
    return Outcome(flood, len(during.rounds_s), 1e3 * quiet, 1e3 * busy, 1e3 * p95, busy / quiet, during.grew / MB)


def main() -> int:
    """Run the benchmark, print the table and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--seconds", type=float, default=5.0, metavar="N", help="seconds of each phase [5]")
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that child processes are ended
    found = measure(asked.seconds)
    if asked.json:
        print(json.dumps([one._asdict() for one in found]))
    else:
        print(
            f"{'a round during':32}{'rounds':>8}{'idle ms':>9}{'flood ms':>10}{'p95 ms':>9}{'ratio':>8}{'grew MB':>9}"
        )
        for one in found:
            print(
                f"{one.flood:32}{one.rounds:8}{one.idle_ms:9.2f}{one.flood_ms:10.2f}{one.p95_ms:9.2f}"
                f"{one.ratio:7.2f}x{one.grew_mb:9.1f}"
            )
    return 0 if all(one.ratio <= RATIO_MAX for one in found) else 1


if __name__ == "__main__":
    sys.exit(main())
