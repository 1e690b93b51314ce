"""Invalid peers and raw bytes at the broker's ports: it continues to serve valid peers."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import zmq
from links import DEADLINE_S, aggregator, running_broker, says, trainer

from fedmq.deploy.processes import free_port
from fedmq.protocol.codec import FRAMES_MAX


@pytest.fixture
def port() -> int:
    """The first port of a broker."""
    return free_port()


@pytest.fixture
def address(port: int) -> Iterator[str]:
    """The address of a running broker."""
    with running_broker(port):
        yield f"tcp://127.0.0.1:{port}"


def an_honest_pair_is_served(address: str, run: str = "honest") -> None:
    """Check that a round and a result pass for two new peers."""
    with aggregator(address, run) as above, trainer(address, f"zoe-{run}") as below:
        while above.presence(1) != [(f"zoe-{run}", True)]:
            continue
        above.send(f"round/{run}".encode(), b"header", b"", b"good")
        below.until(says(f"round/{run}", b"header", b"", b"good"))
        below.send(f"up/{run}".encode(), b"header", b"", b"good")
        above.until(says(f"up/{run}/", b"header", b"", b"good"))


@contextmanager
def stranger(kind: int, port: int) -> Iterator[zmq.Socket[bytes]]:
    """A connected raw socket; its bytes are delivered before it closes."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    raw = context.socket(kind)
    raw.linger = 2000
    raw.sndtimeo = raw.rcvtimeo = int(DEADLINE_S * 1000)
    monitor = raw.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    try:
        raw.connect(f"tcp://127.0.0.1:{port}")
        assert monitor.poll(int(DEADLINE_S * 1000))
        yield raw
    finally:
        raw.disable_monitor()
        monitor.close()
        raw.close()
        context.term()


GARBAGE = [
    [b""],
    [b"", b""],
    [b"\0"],
    [b"\1"],
    [b"\2"],
    [b"\1\1\1"],
    [b"\1" + b"to/"],
    [b"\1" + b"to/../../etc"],
    [b"\1" + b"to/" + b"a" * 100_000],
    [b"\1" + b"to/\xff\xfe"],
    [b"\0" + b"to/nobody/"],
    [b"\1presence/zoe", b"more"],
    [b"round/"],
    [b"round/honest"],
    [b"round/a/b", b"x"],
    [b"round/\xff\xfe", b"\xff" * 100, b"", b"\0" * 8],
    [b"up/", b"x"],
    [b"up/a/b/c", b"x"],
    [b"presence/zoe", b"\xc1"],
    [b"to/zoe/", b"\x80\x04\x95", b"", b"cos\nsystem\n(S'true'\ntR."],
    [b"x" * 1_000_000],
    [b"up/honest"] * (FRAMES_MAX + 20),
    [b"beacon/honest", b""],
]
PORT_KINDS = [
    pytest.param(0, zmq.XPUB, id="publishing"),
    pytest.param(1, zmq.XSUB, id="subscribing"),
    pytest.param(2, zmq.PUSH, id="pushing"),
    pytest.param(3, zmq.XSUB, id="listening"),
]


@pytest.mark.parametrize(("offset", "kind"), PORT_KINDS)
def test_garbage_on_a_port_does_not_stop_the_broker(address: str, port: int, offset: int, kind: int) -> None:
    with stranger(kind, port + offset) as raw:
        if kind == zmq.XPUB:
            assert raw.recv() == b"\1"  # the broker takes what is published from now on
        for frames in GARBAGE:
            raw.send_multipart(frames)
        an_honest_pair_is_served(address, "during")
    an_honest_pair_is_served(address, "after")


GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)  # ZMTP 3.0, RFC 23
READY = {kind: b"\x05READY\x0bSocket-Type" + len(kind).to_bytes(4, "big") + kind for kind in (b"PUSH", b"PUB", b"SUB")}
MORE, COMMAND, LONG = 1, 4, 2


def frame(flags: int, body: bytes) -> bytes:
    return bytes([flags, len(body)]) + body


def greeting_as(kind: bytes) -> bytes:
    """Return the bytes that a peer sends before its first message."""
    return GREETING + frame(COMMAND, READY[kind])


RAW_BYTES = {
    "nothing": (2, b""),
    "half a greeting": (2, GREETING[:11]),
    "a greeting and no more": (2, GREETING),
    "a web browser": (1, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"),
    "a TLS client": (0, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200)),
    "a peer of the wrong kind": (2, greeting_as(b"SUB")),
    "half a message of a trainer": (2, greeting_as(b"PUSH") + frame(MORE, b"up/r") + frame(MORE, b"header")),
    "half a message of an aggregator": (0, greeting_as(b"PUB") + frame(MORE, b"round/r")),
    "half a frame": (2, greeting_as(b"PUSH") + bytes([0, 200]) + b"up/"),
    "a frame of 8 exabytes": (2, greeting_as(b"PUSH") + bytes([LONG]) + (2**63 - 1).to_bytes(8, "big") + b"up/r"),
    "an unknown command": (2, greeting_as(b"PUSH") + frame(COMMAND, b"\x05SHELLtrue")),
}


@pytest.mark.parametrize(("offset", "sent"), RAW_BYTES.values(), ids=RAW_BYTES.keys())
def test_broken_peer_does_not_block_the_broker(address: str, port: int, offset: int, sent: bytes) -> None:
    with socket.create_connection(("127.0.0.1", port + offset), DEADLINE_S) as peer:
        peer.sendall(sent)
        an_honest_pair_is_served(address, "during")
    an_honest_pair_is_served(address, "after")
