"""The links over real ZeroMQ sockets: who hears what, who counts as present, and what strangers cannot break."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import zmq

from broker.service import Broker
from deploy.processes import free_port
from fedmq import topics
from fedmq.address import PORTS
from fedmq.errors import BadConfiguration
from fedmq.messages import Presence
from fedmq.network import Delivered, LinkDown, LinkUp, News
from fedmq.sockets import AggregatorSockets, BrokerSockets, EdgeSockets, TrainerSockets
from fedmq.wire import FRAMES_MAX, decode

DEADLINE_S = 15.0
PEER = """
import sys
from fedmq.sockets import TrainerSockets
link = TrainerSockets(sys.argv[1], sys.argv[2])
while True:
    link.wait(None)
    for _ in link.receive():
        pass
"""


@contextmanager
def running_broker(port: int) -> Iterator[Broker]:
    """A broker in a thread of its own, on the loop's terms: wait, then step."""
    hub = BrokerSockets("127.0.0.1", port)
    broker = Broker(hub)
    failures: list[BaseException] = []

    def run() -> None:
        try:
            while not broker.done:
                hub.wait(1.0)
                broker.step()
        except BaseException as failure:
            failures.append(failure)
            raise

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield broker
    finally:
        broker.stop()
        hub.wake()
        thread.join(DEADLINE_S)
        assert not thread.is_alive()
        hub.close()
        assert not failures


@pytest.fixture
def port() -> int:
    """The first of the ports of a broker."""
    return free_port()


@pytest.fixture
def address(port: int) -> Iterator[str]:
    """Where a broker runs."""
    with running_broker(port):
        yield f"tcp://127.0.0.1:{port}"


@contextmanager
def trainer(address: str, name: str = "alice") -> Iterator[TrainerSockets]:
    """A trainer's link, closed at the end."""
    link = TrainerSockets(address, name)
    try:
        yield link
    finally:
        link.close()


@contextmanager
def aggregator(address: str, run: str = "r") -> Iterator[AggregatorSockets]:
    """An aggregator's link that reaches the broker."""
    link = AggregatorSockets(address, run)
    try:
        heard(link, LinkUp())
        yield link
    finally:
        link.close()


def until(link: EdgeSockets, enough: Callable[[list[News]], bool]) -> list[News]:
    """What the link brings up to the moment when it is enough, in time."""
    news: list[News] = []
    stop_at = time.monotonic() + DEADLINE_S
    while not enough(news):
        assert time.monotonic() < stop_at, f"only {news} came"
        link.wait(0.1)
        news += link.receive()
    return news


def heard(link: EdgeSockets, wanted: News) -> list[News]:
    """What the link brings, up to and with `wanted`."""
    return until(link, lambda news: wanted in news)


def says(topic: str, *frames: bytes) -> Delivered:
    """A message as it is delivered."""
    return Delivered([topic.encode(), *frames])


def push(link: TrainerSockets, *frames: bytes) -> None:
    """Push as soon as there is a connection."""
    stop_at = time.monotonic() + DEADLINE_S
    while not link.send(frames):
        assert time.monotonic() < stop_at, "there is no connection"
        link.wait(0.02)


def presence(link: AggregatorSockets, count: int) -> list[tuple[str, bool]]:
    """The first `count` words of the broker about who is there, in order."""

    def said(news: list[News]) -> list[tuple[str, bool]]:
        packets = [decode(one.frames) for one in news if isinstance(one, Delivered)]
        messages = [packet.message for packet in packets if isinstance(packet.message, Presence)]
        return [(message.trainer, message.present) for message in messages]

    return said(until(link, lambda news: len(said(news)) >= count))


def inbox_works(link: TrainerSockets, sender: AggregatorSockets, name: str) -> None:
    """A message for `name` arrives; and so everything that was sent to it before has arrived, too."""
    sender.send([topics.inbox_of(name).encode(), b"ping"])
    heard(link, says(topics.inbox_of(name), b"ping"))


def test_a_round_goes_down_and_a_result_goes_up(address: str) -> None:
    with aggregator(address) as above, trainer(address) as below:
        assert presence(above, 1) == [("alice", True)]
        above.send([b"round/r", b"header", b"", b"array"])
        heard(below, says("round/r", b"header", b"", b"array"))
        push(below, b"up/r", b"header", b"", b"array")
        heard(above, says("up/r/", b"header", b"", b"array"))


def test_an_aggregator_hears_its_own_run_only(address: str) -> None:
    with aggregator(address, "r") as first, aggregator(address, "r2") as second, trainer(address) as below:
        for run in (b"r2", b"r", b"r2", b"r"):
            push(below, b"up/" + run, b"for " + run)
        assert {str(one) for one in heard(first, says("up/r/", b"for r")) if b"up/r2/" in str(one).encode()} == set()
        assert says("up/r/", b"for r") not in heard(second, says("up/r2/", b"for r2"))


def test_a_late_joiner_gets_the_newest_round_of_each_run_and_nobody_else_a_copy(address: str) -> None:
    with aggregator(address) as above, trainer(address, "alice") as alice:
        presence(above, 1)
        for frames in ([b"round/r", b"1"], [b"round/r", b"2"], [b"round/s", b"7"], [b"event/r", b"e"]):
            above.send(frames)
        heard(alice, says("round/s", b"7"))
        with trainer(address, "bob") as bob:
            news = heard(bob, says("to/bob", b"7"))
            assert [one for one in news if isinstance(one, Delivered)] == [says("to/bob", b"2"), says("to/bob", b"7")]
            above.send([b"round/r", b"3"])
            news = heard(alice, says("round/r", b"3"))
            assert news == [says("round/r", b"3")]


def test_a_trainer_that_is_there_first_gets_each_round_once(address: str) -> None:
    with aggregator(address) as above, trainer(address) as below:
        presence(above, 1)
        for number in (b"1", b"2"):
            above.send([b"round/r", number])
        news = heard(below, says("round/r", b"2"))
        assert [one for one in news if isinstance(one, Delivered)] == [says("round/r", b"1"), says("round/r", b"2")]


def test_a_trainer_does_not_read_the_inbox_of_another(address: str) -> None:
    with aggregator(address) as above, trainer(address, "alice") as alice, trainer(address, "alicia") as alicia:
        presence(above, 2)
        above.send([b"to/alicia", b"for alicia"])
        above.send([b"to/alice", b"for alice"])
        heard(alicia, says("to/alicia", b"for alicia"))
        assert says("to/alicia", b"for alicia") not in heard(alice, says("to/alice", b"for alice"))


def test_closing_a_link_is_absence(address: str) -> None:
    with aggregator(address) as above:
        with trainer(address):
            assert presence(above, 1) == [("alice", True)]
        assert presence(above, 1) == [("alice", False)]


def test_a_killed_trainer_is_absent_at_once(address: str) -> None:
    with aggregator(address) as above:
        process = subprocess.Popen([sys.executable, "-c", PEER, address, "carol"], cwd=Path(__file__).parents[2])
        try:
            assert presence(above, 1) == [("carol", True)]
            process.send_signal(signal.SIGKILL)
            killed_at = time.monotonic()
            assert presence(above, 1) == [("carol", False)]
            assert time.monotonic() - killed_at < 2.0
        finally:
            process.kill()
            process.wait(DEADLINE_S)


def test_a_trainer_that_comes_back_before_its_old_connection_closes_stays_present(address: str) -> None:
    with aggregator(address) as above, ExitStack() as later:
        with trainer(address, "alice") as old:
            assert presence(above, 1) == [("alice", True)]
            above.send([b"round/r", b"1"])
            heard(old, says("round/r", b"1"))
            new = later.enter_context(trainer(address, "alice"))
            heard(new, says("to/alice", b"1"))
        inbox_works(new, above, "alice")
        with trainer(address, "bob"):  # had the old connection's end been told, it would have been told before this
            assert presence(above, 1) == [("bob", True)]
            later.close()
            assert presence(above, 1) == [("alice", False)]


def test_an_aggregator_that_comes_later_is_told_who_is_there(address: str) -> None:
    with aggregator(address) as first, trainer(address, "alice"), trainer(address, "bob"):
        assert set(presence(first, 2)) == {("alice", True), ("bob", True)}
        with aggregator(address, "s") as second:
            assert set(presence(second, 2)) == {("alice", True), ("bob", True)}


def test_links_find_a_broker_that_starts_again_on_its_ports(port: int) -> None:
    address = f"tcp://127.0.0.1:{port}"
    with running_broker(port):
        above, below = AggregatorSockets(address, "r"), TrainerSockets(address, "alice")
        heard(above, LinkUp())
        heard(below, LinkUp())
    try:
        heard(above, LinkDown())
        heard(below, LinkDown())
        with running_broker(port):
            heard(above, LinkUp())
            heard(below, LinkUp())
            inbox_works(below, above, "alice")
            push(below, b"up/r", b"again")
            heard(above, says("up/r/", b"again"))
    finally:
        above.close()
        below.close()


def test_nothing_is_taken_before_the_broker_is_there(port: int) -> None:
    with trainer(f"tcp://127.0.0.1:{port}") as below:
        assert not below.send([b"up/r", b"early"])
        with running_broker(port), aggregator(f"tcp://127.0.0.1:{port}") as above:
            push(below, b"up/r", b"in time")
            assert says("up/r/", b"early") not in heard(above, says("up/r/", b"in time"))


def test_a_wait_ends_when_it_is_woken_from_another_thread(port: int) -> None:
    with trainer(f"tcp://127.0.0.1:{port}") as below:
        thread = threading.Thread(target=below.wake)
        thread.start()
        below.wait(None)
        thread.join(DEADLINE_S)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.7", "*", "", "::", "example.invalid"])  # noqa: S104
def test_nothing_but_the_loopback_address_is_bound_without_keys(host: str, port: int) -> None:
    with pytest.raises(BadConfiguration, match=r"expected --bind 127\.0\.0\.1, got"):
        BrokerSockets(host, port)


@pytest.mark.parametrize("offset", range(PORTS))
def test_a_port_in_use_is_one_line_that_says_which(port: int, offset: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port + offset))
        taken.listen()
        with pytest.raises(BadConfiguration) as refusal:
            BrokerSockets("127.0.0.1", port)
    line = str(refusal.value)
    assert f"127.0.0.1:{port + offset}" in line
    assert "--port" in line
    assert "\n" not in line
    BrokerSockets("127.0.0.1", port).close()  # what was bound before the failure is free again


# --- strangers -----------------------------------------------------------------------------------------------------


def an_honest_pair_is_served(address: str) -> None:
    """A round goes down and a result up, for two that have just come."""
    with aggregator(address, "honest") as above, trainer(address, "zoe") as below:
        heard(above, Delivered(presence_frames("zoe")))
        above.send([b"round/honest", b"header", b"", b"array"])
        heard(below, says("round/honest", b"header", b"", b"array"))
        push(below, b"up/honest", b"header", b"", b"array")
        heard(above, says("up/honest/", b"header", b"", b"array"))


def presence_frames(name: str) -> list[bytes]:
    from fedmq.wire import encode

    return encode(topics.presence_of(name), Presence(trainer=name, present=True))


@contextmanager
def stranger(kind: int, port: int) -> Iterator[zmq.Socket[bytes]]:
    """A raw socket that is connected; what it sends is handed over before it closes."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    raw = context.socket(kind)
    raw.linger = 2000
    raw.sndtimeo = raw.rcvtimeo = int(DEADLINE_S * 1000)
    monitor = raw.get_monitor_socket(zmq.EVENT_HANDSHAKE_SUCCEEDED)
    try:
        raw.connect(f"tcp://127.0.0.1:{port}")
        assert monitor.poll(DEADLINE_S * 1000)
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
    [b"\0" + b"to/nobody"],
    [b"\1presence/zoe", b"more"],
    [b"round/"],
    [b"round/honest"],
    [b"round/a/b", b"x"],
    [b"round/\xff\xfe", b"\xff" * 100, b"", b"\0" * 8],
    [b"up/", b"x"],
    [b"up/a/b/c", b"x"],
    [b"presence/zoe", b"\xc1"],
    [b"to/zoe", b"\x80\x04\x95", b"", b"cos\nsystem\n(S'true'\ntR."],
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
def test_garbage_on_any_port_leaves_the_broker_serving(address: str, port: int, offset: int, kind: int) -> None:
    with stranger(kind, port + offset) as raw:
        if kind == zmq.XPUB:
            assert raw.recv() == b"\1"  # the broker takes what is published from now on
        for frames in GARBAGE:
            raw.send_multipart(frames)
        an_honest_pair_is_served(address)
    an_honest_pair_is_served(address)
