"""Replay: compute the state of a strategy from a store again, to resume a run or to check it.

The same results in the same closes give the same state, bit for bit.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fedmq.algorithms.base import Strategy, Update
from fedmq.algorithms.checkpoint import load
from fedmq.algorithms.staged import asking_once
from fedmq.errors import Rejected, StoreError
from fedmq.protocol.codec import decode
from fedmq.protocol.messages import Result
from fedmq.runs.records import Close, StoredResult, StoredTotal, as_update
from fedmq.runs.store import Store
from fedmq.tasks.task import Task

_WAY_OUT = "continue it with the fedmq that wrote it, or choose another --out"


@dataclass
class Replayed:
    """The state of a stored run: `round` is the next one to open, `closes` are those before it."""

    state: Any
    round: int = 1
    closes: list[Close] = field(default_factory=list)
    open_results: int = 0  # accepted for the close of `round`
    trainers: dict[str, tuple[int, int]] = field(default_factory=dict)  # name: (samples, results)


def replay(
    store: Store,
    task: Task,
    strategy: Strategy[Any],
    seed: int,
    *,
    from_start: bool = False,
    watch: Callable[[Replayed], None] = lambda _: None,
) -> Replayed:
    """Replay the rounds of the store, and the results of the open round.

    Starts at the newest checkpoint; with `from_start` at the first round in the store, or at its checkpoint if the
    rounds before it were dropped. `watch` is called with each round that is computed again, before it closes.

    Raises:
        StoreError: the store holds a record that no aggregator can have accepted.
    """
    if store.config is not None and store.config.secure:
        strategy = asking_once(strategy)
    closes = list(store.closes())
    first = closes[0].round if closes else 1
    replayed = Replayed(strategy.init(task, seed))
    checkpoint = store.checkpoint(first) if from_start else store.checkpoint()
    if checkpoint is None and store.config is not None and store.config.started_from:
        raise StoreError(f"{store.path}: expected the model that the run began with, got none; put a copy back")
    if checkpoint is not None:
        replayed.round, replayed.state = checkpoint.round, load(checkpoint.state, type(replayed.state))
    for close in closes:
        replayed.closes.append(close)
        if close.round < replayed.round:
            for stored in store.results(close.round):  # the checkpoint includes them; count their trainers
                _update(store, stored, replayed, strategy.additive)
            continue
        if close.round != replayed.round:
            raise StoreError(
                f"{store.path}: expected the close of round {replayed.round}, got that of {close.round}; {_WAY_OUT}"
            )
        _tell(store, strategy, replayed)
        watch(replayed)
        replayed.state = strategy.close(replayed.state, close.members)
        replayed.round = close.round + 1
    replayed.open_results = _tell(store, strategy, replayed)
    return replayed


def _tell(store: Store, strategy: Strategy[Any], replayed: Replayed) -> int:
    count = 0
    for stored in store.results(replayed.round):
        update = _update(store, stored, replayed, strategy.additive)
        if isinstance(stored, StoredTotal) and not stored.header.rows:
            continue  # a spent question
        try:
            replayed.state = strategy.tell(replayed.state, update)
        except Rejected as rejected:
            raise _impossible(store, stored, rejected) from rejected
        count += len(update.rows)
    return count


def _update(store: Store, stored: StoredResult | StoredTotal, replayed: Replayed, additive: bool) -> Update:
    """Return the result as the strategy receives it, and count its trainers."""
    try:
        update = stored.update if isinstance(stored, StoredTotal) else _of_one(stored, additive)
    except Rejected as rejected:
        raise _impossible(store, stored, rejected) from rejected
    for name, rows in update.total_of.items() if isinstance(stored, StoredTotal) else update.rows.items():
        _, results = replayed.trainers.get(name, (0, 0))
        replayed.trainers[name] = (rows, results + 1)
    return update


def _of_one(stored: StoredResult, additive: bool) -> Update:
    packet = decode(stored.frames)
    result = packet.message
    if not isinstance(result, Result) or (result.round, result.trainer) != (stored.round, stored.trainer):
        raise Rejected("header", f"expected a result of {stored.trainer} in round {stored.round}")
    return as_update(result, packet.arrays, stored.counted_in, additive=additive)


def _impossible(store: Store, stored: StoredResult | StoredTotal, rejected: Rejected) -> StoreError:
    what = "total" if isinstance(stored, StoredTotal) else f"result of {stored.trainer}"
    return StoreError(
        f"{store.path}: the {what} in round {stored.round} cannot have been accepted ({rejected}); {_WAY_OUT}"
    )
