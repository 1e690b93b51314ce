"""An edge of which libzmq aborts the process: its thread does not read and its queue fills, or it is refused.

So each edge is a process of its own, with short heartbeats. The broker is one or two sockets.
"""

from __future__ import annotations

import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress

import pytest
import zmq
from links import DEADLINE_S

from fedmq.deploy.processes import free_port
from fedmq.transport.link import Port
from fedmq.transport.zeromq import AggregatorSockets, ObserverSockets, TrainerSockets
from fedmq.transport.zeromq.edge import EdgeSockets
from fedmq.transport.zeromq.endpoint import QUEUE_MESSAGES_MAX

FULL_MS = 300  # without a place in the queue, then it is full
EDGE = """
import sys, time
import zmq
import fedmq.transport.zeromq.edge as edge
import fedmq.transport.zeromq.endpoint as endpoint
from fedmq.transport.link import Delivered

endpoint.HEARTBEAT_MS, endpoint.HEARTBEAT_TIMEOUT_MS = 50, 600
edge.AWAY_S, edge.READ_AGAIN_S = 0.3, 0.05


def read(work_s):
    link.wait(0.1)
    for event in link.receive():
        yield event
        ends = time.monotonic() + work_s  # the work that a message makes
        while time.monotonic() < ends:
            pass


link = edge.TrainerSockets(sys.argv[1], "carol")
while Delivered([b"to/carol/", b"first"]) not in read(0.0):
    pass
print("reads", flush=True)
if sys.argv[2] == "stalled":  # until its connection was replaced
    monitor = link._monitors[-1]
    while edge.parse_monitor_message(monitor.recv_multipart())["event"] != zmq.EVENT_HANDSHAKE_SUCCEEDED:
        pass
while Delivered in map(type, list(read(0.0002 if sys.argv[2] == "slow" else 0.0))):
    pass
print("has read", flush=True)
while Delivered([b"to/carol/", b"last"]) not in read(0.0):
    pass
"""

# A greeting (ZMTP 3.0) of a server that expects a password; the edge has none. The connection stays open: a socket of
# libzmq would close it, and if the edge notices that first, it is not refused, and connects again.
EXPECTS_PASSWORD = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"PLAIN".ljust(20, b"\0") + b"\x01" + bytes(31)
REFUSED = """
import sys, time
import fedmq.transport.zeromq.edge as edge
from fedmq.transport.link import Delivered, LinkRefused

edge.REFUSED_AGAIN_S = 0.1
link, delivered, refused = edge.TrainerSockets(sys.argv[1], "carol"), False, 0
while refused < 4:
    link.wait(0.1)
    for event in link.receive():
        delivered = delivered or isinstance(event, Delivered)
        if isinstance(event, LinkRefused) and delivered:
            delivered, refused = False, refused + 1
            while time.monotonic() < link._reconnect_at:  # more messages arrive
                pass
"""


@pytest.mark.parametrize("how", ["stalled", "slow"])
def test_edge_whose_queue_is_full_goes_on(how: str) -> None:
    port = free_port()
    with zmq.Context() as context, context.socket(zmq.XPUB) as broker:
        broker.linger, broker.sndtimeo, broker.sndhwm, broker.xpub_nodrop = 0, FULL_MS, 1_000, True
        broker.rcvtimeo = int(1000 * DEADLINE_S)
        broker.bind(f"tcp://127.0.0.1:{port + Port.SUBSCRIBE}")
        command = [sys.executable, "-c", EDGE, f"tcp://127.0.0.1:{port}", how]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as carol:
            try:
                assert carol.stdout is not None
                while broker.recv() != b"\x01to/carol/":
                    pass
                broker.send_multipart([b"to/carol/", b"first"])
                assert carol.stdout.readline() == b"reads\n"
                with suppress(zmq.Again):  # it is full
                    for _ in range(QUEUE_MESSAGES_MAX + 1_000):
                        broker.send_multipart([b"to/carol/", b"more"])
                assert carol.stdout.readline() == b"has read\n"
                stop_at = time.monotonic() + DEADLINE_S
                while carol.poll() is None and time.monotonic() < stop_at:
                    broker.poll(20)
                    with suppress(zmq.Again):
                        broker.send_multipart([b"to/carol/", b"last"], zmq.NOBLOCK)
                assert carol.poll() == 0
            finally:
                carol.kill()


def test_edge_that_is_refused_at_one_port_while_messages_arrive_at_another_goes_on() -> None:
    port = free_port()
    refusing = socket.create_server(("127.0.0.1", port + Port.PUSH))
    with refusing, ExitStack() as connections, zmq.Context() as context, context.socket(zmq.XPUB) as broker:
        broker.linger = 0
        broker.bind(f"tcp://127.0.0.1:{port + Port.SUBSCRIBE}")
        poller = zmq.Poller()
        poller.register(broker, zmq.POLLIN)
        poller.register(refusing, zmq.POLLIN)
        with subprocess.Popen([sys.executable, "-c", REFUSED, f"tcp://127.0.0.1:{port}"]) as carol:
            try:
                stop_at = time.monotonic() + DEADLINE_S
                while carol.poll() is None and time.monotonic() < stop_at:
                    if refusing.fileno() in dict(poller.poll(1)):
                        connections.enter_context(refusing.accept()[0]).sendall(EXPECTS_PASSWORD)
                    for _ in range(20):
                        broker.send_multipart([b"to/carol/", b"a frame", b"another"])
                assert carol.poll() == 0
            finally:
                carol.kill()


@pytest.mark.parametrize("link", [TrainerSockets, AggregatorSockets, ObserverSockets])
def test_edge_connects_when_its_thread_first_reads(link: Callable[[str, str], EdgeSockets]) -> None:
    with socket.create_server(("127.0.0.1", free_port())) as server:
        first = server.getsockname()[1] - (link is not AggregatorSockets)
        with closing(link(f"tcp://127.0.0.1:{first}", "alice")) as edge:
            assert not select.select([server], [], [], 0.1)[0], "a replay takes minutes, and nothing reads meanwhile"
            assert list(edge.receive()) == []
            assert select.select([server], [], [], DEADLINE_S)[0]
