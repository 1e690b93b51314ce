"""The store's reader as a target: images of a store with changed bytes, and rows with other content and right digests.

The image of an in-memory store is loaded again and everything that continues a run is read from it.
"""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
from mutation import changed, changed_value

from fedmq.algorithms.checkpoint import dump
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import FedmqError, StoreError
from fedmq.protocol.run_config import Limits
from fedmq.runs import store as store_module
from fedmq.runs.records import Checkpoint
from fedmq.runs.replay import replay
from fedmq.runs.store import Store
from fedmq.simulation import Federation
from fedmq.tasks.task_file import find_task, task_rows

NAME = "store"
ROUNDS = 3
ROWS = {
    "run": ("config", "SELECT config, code, term, software FROM run"),
    "results": ("frames", "SELECT round, trainer, counted_in, frames FROM results"),
    "checkpoints": ("state", "SELECT round, state FROM checkpoints"),
}


def _image() -> bytes:
    """Three rounds of two trainers, a checkpoint after two."""
    rows = {name: task_rows("linear", part, 2) for part, name in enumerate(("alice", "bob"), start=1)}
    limits = Limits(rounds_max=ROUNDS, min_trainers=2)
    federation = Federation(
        find_task("linear"), find_algorithm("averaging", parameters={"standardize": False}), rows, limits=limits
    )
    federation.train()
    store = federation.store
    strategy = federation.strategy
    state = strategy.init(federation.task, federation.seed)
    for _ in range(2):
        state = strategy.close(state, ())
    store.save(Checkpoint(3, dump(state)))
    store.commit()
    image: bytes = store._connection.serialize()
    store.close()
    return image


class Reader:
    """Draws inputs and reads them; an input is the image of a store in SQLite's format."""

    def __init__(self) -> None:
        self._image = _image()
        self._others = [self._image]
        self._store = Store(":memory:")  # one for all inputs: each image takes the place of the one before
        self._takes = 0

    def draw(self, draws: Random) -> bytes:
        """An image: its bytes changed, or the content of a row, with a digest that is right for it."""
        if draws.random() < 0.6:
            return changed(self._image, draws, self._others)
        self._load(self._image)
        self._change_row(self._store, draws)
        image: bytes = self._store._connection.serialize()
        return image

    def take(self, blob: bytes) -> str:
        """What came of an input: `whole`, or what the error was caused by."""
        self._takes += 1
        try:
            self._load(blob)
            self._store._open()  # what it does when a file is opened
            return self._read(from_start=self._takes % 2 == 0)
        except StoreError as error:
            refused = error
        assert "\n" not in str(refused), "an error is one line"
        return f"refused: {type(refused.__cause__).__name__}"

    def close(self) -> None:
        """Let go of the store."""
        self._store.close()

    def _load(self, image: bytes) -> None:
        self._store.abandon()
        with self._store._errors:
            self._store._connection.deserialize(image)

    def _read(self, *, from_start: bool) -> str:
        store = self._store
        config = store.config
        if config is None:
            return "never begun"
        _ = store.software
        store.keys_since(0)
        try:
            strategy = find_algorithm(config.algorithm, parameters=config.parameters)
            replay(store, config.task, strategy, config.seed, from_start=from_start)
        except StoreError:
            raise
        except FedmqError as error:  # a config that names what this fedmq does not have
            return f"refused: {type(error).__name__}"
        return "noticed by verify" if store.verify() else "whole"

    def _change_row(self, store: Store, draws: Random) -> None:
        table = draws.choice(tuple(ROWS))
        column, query = ROWS[table]
        rows = store._connection.execute(query).fetchall()
        row = list(draws.choice(rows))
        at = 0 if table == "run" else len(row) - 1
        row[at] = self._other(row[at], draws)
        digest = store_module._digest(*row)
        where = {"run": "only_row = 1", "results": "round = ? AND trainer = ?", "checkpoints": "round = ?"}[table]
        keys: list[Any] = {"run": [], "results": row[:2], "checkpoints": row[:1]}[table]
        statement = f"UPDATE {table} SET {column} = ?, digest = ? WHERE {where}"  # noqa: S608  our own words
        store._connection.execute(statement, (row[at], digest, *keys))

    def _other(self, blob: bytes, draws: Random) -> bytes:
        if draws.random() < 0.5:
            return changed(blob, draws, self._others)
        try:
            return msgspec.msgpack.encode(changed_value(msgspec.msgpack.decode(blob), draws))
        except (msgspec.MsgspecError, OverflowError, UnicodeError, ValueError):
            return changed(blob, draws, self._others)
