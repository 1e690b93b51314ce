"""Rounds that bring a delta in place of their arrays: what a trainer holds, and what it computes from that.

A round and the arrays that it leads on from are named by digests, so nothing is computed on other arrays than the
aggregator's: not after a restart of either side, a lost message, or a round of another life of the run. A trainer that
lacks the arrays asks for the round in full.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from msgspec.structs import replace

from fedmq.algorithms.base import Arrays, Shapes, WorkLimits, check_bounds, check_demand, without_preparation
from fedmq.algorithms.registry import decode_query
from fedmq.errors import FedmqError, LimitExceeded, Rejected
from fedmq.protocol.codec import CODE, FRAME_BYTES_MAX, Packet, digest_of, model_digest_of, pack
from fedmq.protocol.messages import ArrayInfo, Round
from fedmq.trainer.budget import shapes_of

DELTAS_MAX = 64  # that wait for the worker, of rounds that this trainer did not answer
HELD_MAX = 16  # rounds whose arrays are held: as many as runs are followed,
HELD_BYTES_MAX = 2 * FRAME_BYTES_MAX  # but no more bytes, unless it is one round


class BaseMissing(FedmqError):
    """The arrays that a round leads on from are not here, or do not lead to the arrays of the round."""


class Chain(NamedTuple):
    """The newest arrays of a run that the worker has, or can compute from the `packets` that it does not know yet."""

    digest: bytes
    shapes: Shapes  # of the last round in full: deltas do not change what an answer costs
    packets: tuple[Packet, ...]

    def followed_by(self, packet: Packet) -> Chain | None:
        """Return the chain after a round with a delta: the same if it leads on from other arrays, None if too long."""
        message = packet.message
        assert isinstance(message, Round)
        assert message.delta is not None
        if message.delta.base != self.digest:
            return self
        packets = (*self.packets, packet)
        if len(packets) > DELTAS_MAX or sum(map(_nbytes, packets)) > HELD_BYTES_MAX:
            return None
        return self._replace(digest=message.delta.result, packets=packets)

    def known_to_worker(self, digest: bytes) -> Chain:
        """Return the chain when the worker has the arrays with this digest."""
        places = [place for place, one in enumerate(self.packets) if _digest(one) == digest]
        return self._replace(packets=self.packets[places[-1] + 1 :]) if places else self


def chain_after(chain: Chain | None, packet: Packet) -> Chain | None:
    """Return what is held after a round; rounds of kinds that bring no deltas change nothing."""
    message = packet.message
    assert isinstance(message, Round)
    if message.delta is not None:
        return chain and chain.followed_by(packet)
    digest = digest_of(message.arrays)
    if not _leads_on(message) or (chain is not None and chain.digest == digest):
        return chain
    return Chain(digest, shapes_of(message), (packet,))


class _Held(NamedTuple):
    infos: tuple[ArrayInfo, ...]
    arrays: Arrays


class Publications:
    """The newest arrays by digest, of which a worker computes those of rounds with a delta."""

    def __init__(self, limits: WorkLimits | None = None) -> None:
        self._limits = limits
        self._held: OrderedDict[bytes, _Held] = OrderedDict()

    def whole(self, packet: Packet, cancelled: Callable[[], bool] = lambda: False) -> Packet:
        """Return the packet of a round with all of its arrays.

        Raises:
            BaseMissing: they cannot be computed.
            LimitExceeded: that needs more than the limits.
            WorkCancelled: `cancelled()` is true.
        """
        message = packet.message
        assert isinstance(message, Round)
        if message.delta is None:
            if _leads_on(message):
                self._hold(digest_of(message.arrays), _in_full(packet))
            return packet
        held = self._held.get(message.delta.result) or self._computed([*packet.before, packet], cancelled)
        return packet._replace(message=replace(message, arrays=held.infos, delta=None), arrays=held.arrays)

    def _computed(self, chain: list[Packet], cancelled: Callable[[], bool]) -> _Held:
        """Return the arrays of the last packet, from the newest ones that are held or came in full."""
        held: _Held | None = None
        start = len(chain)
        while held is None and start:
            start -= 1
            message = chain[start].message
            assert isinstance(message, Round)
            held = _in_full(chain[start]) if message.delta is None else self._held.get(message.delta.base)
            start += message.delta is None
        if held is None:
            raise BaseMissing("expected a round in full first, got one that leads on from other arrays")
        for packet in chain[start:]:
            held = self._applied(held, packet, cancelled)
        return held

    def _applied(self, base: _Held, packet: Packet, cancelled: Callable[[], bool]) -> _Held:
        message = packet.message
        assert isinstance(message, Round)
        assert message.delta is not None
        query, learner = decode_query(message.query)
        without_code = {name: array for name, array in base.arrays.items() if name != CODE}
        try:
            own, _ = without_preparation(query, message.task, without_code)
            check_bounds(query.arrays(message.task), own)
            shapes = {name: array.shape for name, array in own.items()}
            bounds = query.delta(message.task, shapes)
            if learner.apply is None or not bounds:
                raise BaseMissing(f"expected the arrays of {query.kind}, which has no deltas")
            check_bounds(bounds, packet.arrays)
            check_demand(query, message.task, shapes, limits=self._limits)
            arrays = {**base.arrays, **learner.apply(query, message.task, own, packet.arrays, cancelled)}
            infos = pack(arrays).infos
        except LimitExceeded:
            raise
        except Rejected as rejected:
            raise BaseMissing(f"expected a delta that fits, got one that does not: {rejected}") from rejected
        if digest_of(infos) != message.delta.result:
            raise BaseMissing("expected the arrays with the digest in the round, got others from its delta")
        held = _Held(infos, arrays)
        self._hold(message.delta.result, held)
        return held

    def _hold(self, digest: bytes, held: _Held) -> None:
        self._held[digest] = held
        self._held.move_to_end(digest)
        while len(self._held) > HELD_MAX or (len(self._held) > 1 and self._nbytes > HELD_BYTES_MAX):
            self._held.popitem(last=False)

    @property
    def _nbytes(self) -> int:
        return sum(info.nbytes for held in self._held.values() for info in held.infos)


def _nbytes(packet: Packet) -> int:
    """Return the bytes that a round takes in memory: narrow integers are held as int64."""
    return len(packet.frames[1]) + sum(array.nbytes for array in packet.arrays.values())


def _in_full(packet: Packet) -> _Held:
    infos = packet.message.arrays
    return _Held(infos, {info.name: packet.arrays[info.name] for info in infos})


def _digest(packet: Packet) -> bytes:
    assert isinstance(packet.message, Round)
    return model_digest_of(packet.message)


def _leads_on(message: Round) -> bool:
    """Return whether a later round may bring a delta to the arrays of this one."""
    try:
        query, learner = decode_query(message.query)
        return learner.apply is not None and bool(query.delta(message.task, shapes_of(message)))
    except (Exception, SystemExit):  # noqa: BLE001  the code of a package; the worker refuses the query
        return False
