"""The watchdog's rules with a fake kernel: which connections are closed, and when they are measured."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from fedmq.protocol.codec import MESSAGE_BYTES_MAX
from fedmq.transport.link import Port
from fedmq.transport.zeromq.watchdog import (
    HANDSHAKE_BYTES_MAX,
    HANDSHAKE_SENT_BYTES,
    KERNEL_BYTES_MAX,
    OWNER_BYTES_MAX,
    SWEEP_S,
    UNKNOWN_BYTES_MAX,
    Connection,
    ConnectionLimits,
    ResidentMemory,
    TrafficCounts,
    Watchdog,
    connection_limits,
    read_counts,
    shut_down,
)

MIB = 1 << 20
RESULT = 30 * MIB
ALICE, BOB = b"a" * 32, b"b" * 32


class Kernel:
    """A fake kernel: byte counts of descriptors and memory, set by the test."""

    def __init__(self, *, handshakes: bool = True) -> None:
        self.counts: dict[int, TrafficCounts] = {}
        self.memory, self.now = 50 * MIB, 0.0
        self.looks = 0
        self.watchdog = Watchdog(
            handshakes=handshakes, counts=self._counts, memory=lambda: self.memory, limits=ConnectionLimits(16, 8, 4)
        )

    def _counts(self, descriptor: int) -> TrafficCounts | None:
        self.looks += 1
        return self.counts.get(descriptor)

    def opened(self, descriptor: int = 7, *, port: Port = Port.PUSH, handshake_done: bool = True) -> Connection:
        connection = Connection(port, descriptor)
        self.counts[descriptor] = TrafficCounts(0, HANDSHAKE_SENT_BYTES if handshake_done else HANDSHAKE_SENT_BYTES - 1)
        self.watchdog.opened(connection, self.now)
        return connection

    def comes(self, connection: Connection, size: int) -> None:
        before = self.counts[connection.descriptor]
        self.counts[connection.descriptor] = before._replace(received=before.received + size)

    def look(self, *, after_s: float = SWEEP_S, busy: tuple[Port, ...] = ()) -> list[Connection]:
        """Advance the clock, measure and judge."""
        self.now += after_s
        return self.watchdog.judge(self.now, busy) if self.watchdog.measure(self.now) else []


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def test_endless_message_is_closed_at_the_second_measurement(kernel: Kernel) -> None:
    connection = kernel.opened()
    kernel.comes(connection, MESSAGE_BYTES_MAX + 100_000)
    assert kernel.look() == []
    assert kernel.look() == [connection]


def test_extreme_backlog_is_closed_at_the_first_measurement(kernel: Kernel) -> None:
    connection = kernel.opened()
    kernel.comes(connection, MESSAGE_BYTES_MAX + KERNEL_BYTES_MAX + 100_000)
    assert kernel.look() == [connection]


def test_slow_endless_message_is_closed_at_the_limit(kernel: Kernel) -> None:
    connection, cut = kernel.opened(), list[Connection]()
    while not cut:
        kernel.comes(connection, MIB)
        cut = kernel.look()
    assert kernel.counts[7].received <= MESSAGE_BYTES_MAX + 3 * MIB


def test_large_first_result_is_not_closed(kernel: Kernel) -> None:
    connection = kernel.opened()
    for _ in range(60):
        kernel.comes(connection, RESULT // 60)
        assert kernel.look() == []
    kernel.watchdog.delivered(connection, ALICE, RESULT)
    assert kernel.look() == []
    assert kernel.watchdog.states[connection].pending == 0


def test_many_large_messages_between_measurements_are_allowed(kernel: Kernel) -> None:
    connection = kernel.opened()
    for _ in range(20):
        for _ in range(30):
            kernel.comes(connection, RESULT + 600)
            kernel.watchdog.delivered(connection, ALICE, RESULT)
        kernel.comes(connection, RESULT // 2)  # half of the next
        assert kernel.look() == []
        kernel.comes(connection, -(-RESULT // 2) + 600)
        kernel.watchdog.delivered(connection, ALICE, RESULT)


def test_complete_messages_waiting_at_a_busy_port_are_allowed(kernel: Kernel) -> None:
    connection, other = kernel.opened(7), kernel.opened(8)
    kernel.comes(connection, 3 * RESULT)
    for _ in range(2):  # of the two, the other one has its turn first
        assert kernel.look(busy=(Port.PUSH,)) == []
    kernel.watchdog.delivered(other, BOB, 10)
    assert kernel.look(busy=(Port.PUSH,)) == []
    kernel.watchdog.delivered(connection, ALICE, RESULT)
    assert kernel.look(busy=(Port.PUSH,)) == []


def test_busy_port_does_not_hide_an_endless_message(kernel: Kernel) -> None:
    endless, noise = kernel.opened(7), kernel.opened(8)
    kernel.comes(endless, 2 * MESSAGE_BYTES_MAX)
    assert kernel.look(busy=(Port.PUSH,)) == []
    for _ in range(3):
        kernel.watchdog.delivered(noise, BOB, 10)
    assert kernel.look(busy=(Port.PUSH,)) == [endless]


def test_complete_message_does_not_excuse_an_endless_one(kernel: Kernel) -> None:
    connection = kernel.opened()
    kernel.comes(connection, 100)
    kernel.watchdog.delivered(connection, ALICE, 60)
    kernel.comes(connection, MESSAGE_BYTES_MAX + MIB)
    assert kernel.look() == []
    assert kernel.look() == [connection]


def test_heartbeats_of_weeks_are_allowed(kernel: Kernel) -> None:
    connection = kernel.opened()
    for _ in range(24 * 7 * 5):
        kernel.comes(connection, 3600 * 100)  # a hundred bytes a second
        assert kernel.look(after_s=3600.0) == []
    assert kernel.counts[7].received > MESSAGE_BYTES_MAX


def test_connection_may_send_only_one_handshake(kernel: Kernel) -> None:
    connection = kernel.opened(handshake_done=False)
    kernel.comes(connection, HANDSHAKE_BYTES_MAX)
    assert kernel.look() == []
    kernel.comes(connection, 1)
    assert kernel.look() == [connection]


def test_connections_without_keys_have_no_handshake() -> None:
    kernel = Kernel(handshakes=False)
    connection = kernel.opened(handshake_done=False)
    kernel.comes(connection, RESULT)
    assert kernel.look() == []
    assert kernel.look() == []


def test_connections_of_one_key_share_a_limit(kernel: Kernel) -> None:
    connections = [kernel.opened(descriptor) for descriptor in range(10, 16)]
    for size, connection in enumerate(connections, 20):
        kernel.comes(connection, 10)
        kernel.watchdog.delivered(connection, ALICE if size < 25 else BOB, 10)
        kernel.comes(connection, size * MIB)
    kernel.look()
    cut = kernel.look()
    assert cut == connections[2:5][::-1] or set(cut) <= set(connections[:5])
    rest = sum(kernel.watchdog.states[one].pending for one in connections[:5] if one not in cut)
    assert rest <= OWNER_BYTES_MAX + 5 * 4096
    assert cut


def test_connections_without_a_message_share_one_limit(kernel: Kernel) -> None:
    connections = [kernel.opened(descriptor) for descriptor in range(10, 20)]
    for connection in connections:
        kernel.comes(connection, RESULT)
    kernel.look()
    cut = kernel.look()
    rest = sum(kernel.watchdog.states[one].pending for one in connections if one not in cut)
    assert rest <= UNKNOWN_BYTES_MAX + len(connections) * 4096 * SWEEP_S
    assert len(cut) < len(connections)


def test_reused_descriptor_is_measured_from_zero(kernel: Kernel) -> None:
    connection = kernel.opened()
    kernel.comes(connection, RESULT)
    kernel.look()
    kernel.watchdog.closed(connection)
    again = kernel.opened()
    kernel.comes(again, RESULT)
    assert kernel.look() == []
    assert kernel.look() == []


def test_reused_descriptor_is_not_closed_before_its_end_is_known(kernel: Kernel) -> None:
    connection = kernel.opened()
    kernel.comes(connection, MESSAGE_BYTES_MAX + MIB)
    assert kernel.look() == []
    kernel.counts[7] = TrafficCounts(1000, HANDSHAKE_SENT_BYTES)
    assert kernel.look() == []
    kernel.counts.pop(7)
    assert kernel.look() == []


def test_end_of_an_unknown_connection_has_no_effect(kernel: Kernel) -> None:
    kernel.watchdog.closed(Connection(Port.PUSH, 99))
    kernel.watchdog.delivered(Connection(Port.PUSH, -1), b"", 10)
    assert kernel.look() == []


def test_connections_are_not_measured_while_memory_is_stable(kernel: Kernel) -> None:
    kernel.opened()
    kernel.look()
    looks = kernel.looks
    for _ in range(10):
        kernel.look(after_s=SWEEP_S / 20)
    assert kernel.looks == looks
    kernel.memory += 8 * MIB
    kernel.look(after_s=SWEEP_S / 20)
    assert kernel.looks == looks + 1


def test_reused_freed_memory_counts_as_growth(kernel: Kernel) -> None:
    kernel.opened()
    kernel.memory += 30 * MIB
    kernel.look()
    kernel.memory -= 30 * MIB
    kernel.look(after_s=SWEEP_S / 20)
    looks = kernel.looks
    kernel.memory += 2 * MIB
    kernel.look(after_s=SWEEP_S / 20)
    assert kernel.looks == looks + 1


def test_kernel_counts_bytes_and_connection_can_be_shut_down() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as near:
        far, _ = server.accept()
        with far:
            near.sendall(bytes(1000))
            assert len(far.recv(1000, socket.MSG_WAITALL)) == 1000
            far.sendall(bytes(100))
            assert len(near.recv(100, socket.MSG_WAITALL)) == 100
            passed = read_counts(far.fileno())
            assert passed is not None
            assert passed.received == 1000
            shut_down(far.fileno())
            assert near.recv(1) == b""
            assert far.fileno() != -1


def test_closed_descriptor_has_no_effect() -> None:
    """A connection may end between measurement and close: its descriptor is closed or reused."""
    reading, writing = os.pipe()
    for descriptor in (reading, 10_000):
        assert read_counts(descriptor) is None
        shut_down(descriptor)
    os.close(reading)
    os.close(writing)
    shut_down(reading)


def test_memory_is_that_of_this_process_and_stays_known_without_descriptors(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_args: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    memory = ResidentMemory()
    before = memory()
    assert 10 * MIB < before < 10_000 * MIB
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fail)
        assert memory() > 10 * MIB  # no descriptor is needed
        patch.setattr(os, "pread", fail)
        assert memory() == memory() > 10 * MIB
    assert caplog.text.count("Too many open files") == 1
    memory.close()


# --- too many connections -----------------------------------------------------------------------------------------


def test_oldest_unfinished_handshakes_are_closed_first(kernel: Kernel) -> None:
    old = [kernel.opened(number, handshake_done=False) for number in range(100, 105)]
    done = [kernel.opened(number) for number in range(200, 203)]  # the watchdog has not seen their end yet
    assert kernel.watchdog.excess() == []
    new = [kernel.opened(number, handshake_done=False) for number in range(300, 304)]
    assert kernel.watchdog.excess() == old[:2]
    assert kernel.watchdog.excess() == []
    for one in old[:2]:
        kernel.watchdog.closed(one)
    assert set(kernel.watchdog.states) == {*old[2:], *done, *new}


def test_newest_connections_without_a_message_are_closed_next_and_members_stay(kernel: Kernel) -> None:
    silent = [kernel.opened(number) for number in range(100, 104)]
    alice = [kernel.opened(number) for number in range(200, 210)]
    for one in alice:
        kernel.watchdog.delivered(one, ALICE, 10)
    late = [kernel.opened(number) for number in range(300, 304)]

    assert kernel.watchdog.excess() == [*reversed(late)]
    assert kernel.watchdog.excess() == []

    for one in late:
        kernel.watchdog.closed(one)
    assert set(kernel.watchdog.states) == {*silent, *alice}


def test_closing_connection_is_counted_no_more_until_its_descriptor_is_reused(kernel: Kernel) -> None:
    for number in range(40):
        kernel.opened(100 + number, handshake_done=False)
        kernel.watchdog.excess()
    assert sum(not state.closing for state in kernel.watchdog.states.values()) <= 8
    for connection in list(kernel.watchdog.states):
        kernel.watchdog.closed(connection)
    for number in range(8):
        kernel.opened(100 + number, handshake_done=False)
        assert kernel.watchdog.excess() == []


def test_descriptors_are_left_for_the_own_files_of_the_service() -> None:
    for descriptors in (100, 256, 16_384, 1 << 20):
        limits = connection_limits(descriptors)
        assert limits.total <= descriptors - 32
        assert limits.handshaking <= min(limits.total // 2, 16_384)
        assert limits.of_key <= limits.total // 4
    assert connection_limits(10).total == 0
