"""A broker with keys under floods: its memory stays where it was, and an honest round still goes through.

The broker is a process of its own; figures are its resident memory, sampled while the flood lasts.
"""

from __future__ import annotations

import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil
import pytest
import zmq
from keyed import WAIT_S, Keyed, Peers, peers_of
from links import DEADLINE_S, running_broker

from fedmq.deploy.processes import free_port
from fedmq.protocol.codec import FRAME_BYTES_MAX, MESSAGE_BYTES_MAX
from fedmq.transport.link import Port

MB = 10**6
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)  # ZMTP 3.0, RFC 23
NULL_PUSH = GREETING.replace(b"CURVE", b"NULL\0") + b"\x04\x1a\x05READY\x0bSocket-Type\0\0\0\x04PUSH"
LONG_COMMAND, LONG, MORE = b"\x06", 2, 1
BLOCK = bytes(1 << 20)
SILENT = 1000
RESERVED = 100  # descriptors for what else this process opens, or the broker


@pytest.fixture
def keyed(tmp_path: Path) -> Keyed:
    return Keyed(tmp_path, "alice", "mallory")


@contextmanager
def grows_less_than(pid: int, most: int) -> Iterator[None]:
    """The resident memory of a process never grows by so much while the block lasts."""
    process, ended = psutil.Process(pid), threading.Event()
    before = process.memory_info().rss
    peak = [before]

    def sample() -> None:
        while not ended.wait(0.002):
            peak[0] = max(peak[0], process.memory_info().rss)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(DEADLINE_S)
    print(f"grew by {(peak[0] - before) / MB:.1f} MB at the most, limit {most / MB:g} MB")
    assert peak[0] - before < most, f"it grew by {(peak[0] - before) / MB:.1f} MB"


class Honest:
    """An aggregator and alice as peers; a word goes down, and one up."""

    def __init__(self, peers: Peers) -> None:
        self._number = 0
        self.above = peers.member("aggregator", zmq.XPUB, Port.PUBLISH)
        assert self.above.receive() == [b"\x01"]
        self.collects = peers.member("aggregator", zmq.XSUB, Port.COLLECT, "up/", "presence/")
        self.hears = peers.member("alice", zmq.XSUB, Port.SUBSCRIBE, "beacon/", "to/alice/")
        self.pushes = peers.member("alice", zmq.PUSH, Port.PUSH)
        assert self.collects.receive() is not None  # alice is there

    def are_served(self, answer: bytes = b"") -> None:
        self._number += 1
        word = b"honest %d" % self._number
        self.above.socket.send_multipart([b"beacon/r", word])
        self.hears.until([b"beacon/r", word])
        self.pushes.socket.send_multipart([b"up/r", word, answer])
        self.collects.until([b"up/r/alice", word, answer])


def in_turns(flood: Iterator[None], honest: Honest) -> None:
    """The flood, and honest words in the middle of it."""
    for number, _ in enumerate(flood):
        if number % 16 == 0:
            honest.are_served()
    honest.are_served()


def most_silent_peers() -> int:
    """How many connections this process can still open, up to `SILENT`."""
    most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return SILENT if most == resource.RLIM_INFINITY else min(SILENT, most - psutil.Process().num_fds() - RESERVED)


def silent_peers(port: int, count: int, stack: ExitStack, sent: bytes = b"") -> Iterator[None]:
    """So many raw TCP connections, to all ports, each of which sends this much and stays."""
    for number in range(count):
        peer = stack.enter_context(socket.create_connection(("127.0.0.1", port + number % 5), DEADLINE_S))
        peer.sendall(sent)
        yield


def long_handshakes(port: int, announced: int, total: int) -> Iterator[None]:
    """So many bytes of handshake commands, each of which is announced to be so long; a new peer when one is cut."""
    sent = number = 0
    while sent < total:
        number += 1
        with socket.create_connection(("127.0.0.1", port + number % 5), DEADLINE_S) as peer:
            peer.sendall(GREETING)
            peer.settimeout(0.2)  # a disconnected peer is not always notified
            try:
                peer.sendall(LONG_COMMAND + announced.to_bytes(8, "big"))
                for _ in range(announced >> 20):
                    peer.sendall(BLOCK)
                    sent += len(BLOCK)
                    yield
            except OSError:  # it was cut
                sent += len(BLOCK)
                yield


def test_silent_peers_and_endless_handshakes_use_no_memory(keyed: Keyed, leave_out: Callable[[str], None]) -> None:
    with keyed.running_broker() as pid, peers_of(keyed) as peers, ExitStack() as stack:
        honest = Honest(peers)
        honest.are_served()
        if (count := most_silent_peers()) < SILENT:
            leave_out(f"{SILENT - count} of {SILENT} silent peers: there are too few descriptors, raise ulimit -n")
        assert count > SILENT // 2, "expected 700 descriptors at least: raise ulimit -n"
        with grows_less_than(pid, 10 * MB):
            for sent in (b"", GREETING[:11]):
                in_turns(silent_peers(keyed.port, count, stack, sent), honest)
                stack.close()
            in_turns(long_handshakes(keyed.port, 10 << 30, 400 * MB), honest)


def test_large_handshakes_use_less_memory_than_one_frame(keyed: Keyed) -> None:
    """libzmq takes them until we look, milliseconds later: how much that is depends on how fast they come."""
    with keyed.running_broker() as pid, peers_of(keyed) as peers:
        honest = Honest(peers)
        honest.are_served()
        with grows_less_than(pid, FRAME_BYTES_MAX):
            in_turns(long_handshakes(keyed.port, FRAME_BYTES_MAX - 1, 400 * MB), honest)


def queue_a_message_of(raw: zmq.Socket[bytes], part: bytes, parts: int) -> None:
    """One message of so many parts; libzmq sends none of it before it is whole, and the receiver waits for all."""
    for _ in range(parts):
        raw.send(part, zmq.SNDMORE, copy=False)
    raw.send(b"end")


@pytest.mark.parametrize("first", [True, False], ids=["after something whole", "as its first"])
def test_member_with_an_endless_message_is_closed_and_blocked(keyed: Keyed, first: bool) -> None:
    with keyed.running_broker() as pid, peers_of(keyed) as peers:
        honest = Honest(peers)
        honest.are_served()
        mallory = peers.member("mallory", zmq.PUSH, Port.PUSH)
        if first:
            mallory.socket.send_multipart([b"up/r", b"whole"])
            honest.collects.until([b"up/r/mallory", b"whole"])
        with grows_less_than(pid, 100 * MB):
            queue_a_message_of(mallory.socket, BLOCK, 600)
            honest.are_served()
            mallory.event(zmq.EVENT_DISCONNECTED)
        if first:
            mallory.event(zmq.EVENT_HANDSHAKE_FAILED_AUTH)  # the key is shut out for a while
            assert "mallory" in keyed.services.err("broker")
        honest.are_served()


def test_message_of_half_a_million_frames_blocks_its_key(keyed: Keyed) -> None:
    with keyed.running_broker() as pid, peers_of(keyed) as peers:
        honest = Honest(peers)
        mallory = peers.member("mallory", zmq.PUSH, Port.PUSH)
        with grows_less_than(pid, 150 * MB):
            queue_a_message_of(mallory.socket, b"x", 500_000)
            mallory.event(zmq.EVENT_DISCONNECTED)
        mallory.event(zmq.EVENT_HANDSHAKE_FAILED_AUTH)
        honest.are_served()


def test_only_the_member_that_reconnects_too_often_is_refused(keyed: Keyed) -> None:
    with keyed.running_broker(), peers_of(keyed) as peers:
        refused, keys = 0, keyed.transport("mallory")
        for _ in range(200):
            raw = peers.make(zmq.PUSH, Port.PUSH, keys)
            refused += raw.event(zmq.EVENT_HANDSHAKE_SUCCEEDED | zmq.EVENT_HANDSHAKE_FAILED_AUTH) != (
                zmq.EVENT_HANDSHAKE_SUCCEEDED
            )
            raw.close()
        assert refused  # how many, depends on how fast they come
        Honest(peers).are_served()


def test_messages_over_the_quota_are_dropped(keyed: Keyed) -> None:
    with keyed.running_broker(), peers_of(keyed) as peers:
        honest = Honest(peers)
        mallory = peers.member("mallory", zmq.PUSH, Port.PUSH)
        came, sent, give_up_at = list[list[bytes]](), 0, time.monotonic() + WAIT_S
        while "sends too much" not in keyed.services.err("broker"):  # how soon, depends on how fast they come
            assert time.monotonic() < give_up_at
            for _ in range(1000):
                sent += 1
                mallory.socket.send_multipart([b"up/r", b"%d" % sent])
            while (message := honest.collects.receive(0.0)) is not None:
                came.append(message)
        honest.pushes.socket.send_multipart([b"up/r", b"dropped"])
        came += honest.collects.until([b"up/r/alice", b"dropped"])
        assert 2000 <= sum(frames[0] == b"up/r/mallory" for frames in came) < sent


def test_memory_is_bounded_with_a_frozen_aggregator_and_a_flood(keyed: Keyed) -> None:
    """256 MiB at once, and 64 MiB a second after it; for a second here."""
    with keyed.running_broker() as pid, peers_of(keyed) as peers:
        honest = Honest(peers)
        honest.are_served()  # and reads no more: its queue is here, at the broker, once the kernel's is full
        mallory = peers.member("mallory", zmq.PUSH, Port.PUSH)
        mallory.socket.sndhwm = 4
        honest.collects.socket.rcvhwm = 1
        with grows_less_than(pid, 600 * MB):
            stop_at = time.monotonic() + 1.0
            while time.monotonic() < stop_at:
                try:
                    mallory.socket.send_multipart([b"up/r", b"", b"", BLOCK * 4], zmq.NOBLOCK)
                except zmq.Again:
                    mallory.socket.poll(10, zmq.POLLOUT)


def test_slow_handshake_is_closed(keyed: Keyed) -> None:
    with keyed.running_broker(), ExitStack() as stack:
        slow = [stack.enter_context(socket.create_connection(("127.0.0.1", keyed.port + port))) for port in range(5)]
        for peer in slow:
            peer.settimeout(DEADLINE_S)
            peer.sendall(GREETING)
            with suppress(ConnectionResetError):
                while peer.recv(4096):
                    continue


def test_largest_message_passes_encryption(keyed: Keyed) -> None:
    """Also as the first message of its connection, and many of them, faster than the watchdog looks."""
    with keyed.running_broker(), peers_of(keyed) as peers:
        honest = Honest(peers)
        for _ in range(6):
            honest.are_served(bytes(FRAME_BYTES_MAX))
        assert "is cut" not in keyed.services.err("broker")


def loopback_flood(port: int, frames: Callable[[], Iterator[bytes]]) -> None:
    """Raw bytes of a message that never ends, until the connection is cut."""
    with socket.create_connection(("127.0.0.1", port + Port.PUSH), DEADLINE_S) as peer:
        peer.settimeout(1.0)  # a disconnected peer is not always notified
        peer.sendall(NULL_PUSH)
        sent = 0
        with suppress(ConnectionError, TimeoutError):
            for frame in frames():
                peer.sendall(frame)
                sent += len(frame)
                if sent > 40 * MESSAGE_BYTES_MAX:
                    pytest.fail("the peer was not disconnected")


def test_endless_message_is_closed_without_keys() -> None:
    port = free_port()

    def parts() -> Iterator[bytes]:
        while True:
            yield bytes([LONG | MORE]) + len(BLOCK).to_bytes(8, "big") + BLOCK

    with running_broker(port):
        loopback_flood(port, parts)
