"""Replay: the strategy's state, computed from a store again; how a run is resumed, and how it can be checked.

Knows nothing of the network. The same results in the same closes give the same state, bit for bit.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from aggregator.store import Close, Store, StoredResult
from aggregator.strategies import Strategy, Update
from fedmq.errors import Rejected, StoreError
from fedmq.messages import Result
from fedmq.tasks import Task
from fedmq.wire import decode


@dataclass
class Replayed:
    """Where a stored run stands: `round` is the one to open next; `closes` are those before it."""

    state: Any
    round: int = 1
    closes: list[Close] = field(default_factory=list)
    open_results: int = 0  # accepted for the close of `round`
    trainers: dict[str, tuple[int, int]] = field(default_factory=dict)  # name: (samples, results)


def replay(store: Store, task: Task, strategy: Strategy[Any], seed: int) -> Replayed:
    """Go through the store's rounds as the aggregator did, ending with the results of the open round, if any.

    Raises:
        StoreError: something in the store is not what the aggregator can have put there.
    """
    replayed = Replayed(strategy.init(task, seed))
    for close in store.closes():
        expected, came = (replayed.round, close.results), (close.round, _tell(store, strategy, replayed))
        if expected != came:
            raise StoreError(
                f"{store.path}: expected the close of round {expected[0]} with {expected[1]} results, "
                f"got round {came[0]} with {came[1]}: something is missing; choose another --out"
            )
        replayed.state = strategy.close(replayed.state, close.members)
        replayed.closes.append(close)
        replayed.round = close.round + 1
    replayed.open_results = _tell(store, strategy, replayed)
    return replayed


def _tell(store: Store, strategy: Strategy[Any], replayed: Replayed) -> int:
    count = 0
    for stored in store.results(replayed.round):
        try:
            update = _update(stored)
            replayed.state = strategy.tell(replayed.state, update)
        except Rejected as rejected:
            raise StoreError(
                f"{store.path}: the result of {stored.trainer} in round {stored.round} is damaged ({rejected}); "
                "choose another --out"
            ) from rejected
        replayed.trainers[update.trainer] = (update.samples, replayed.trainers.get(update.trainer, (0, 0))[1] + 1)
        count += 1
    return count


def _update(stored: StoredResult) -> Update:
    packet = decode(stored.frames)
    if not isinstance(packet.message, Result) or packet.message.trainer != stored.trainer:
        raise Rejected("header", f"expected a result of {stored.trainer}")
    staleness = stored.counted_in - stored.round
    return Update(stored.trainer, stored.round, staleness, packet.message.samples, packet.arrays)
