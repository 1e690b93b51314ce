"""Rows for the tests of stores, and what their errors must look like. No network, no time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fedmq.errors import StoreError
from fedmq.observe.events import Best
from fedmq.protocol.codec import pack
from fedmq.runs.records import Checkpoint, Close, StoredResult, StoredTotal, TotalHeader
from fedmq.runs.store import Store
from fedmq.tasks.task_file import find_task
from fedmq.testing import run_config

CONFIG = run_config("run", find_task("xor"), "evolution", seed=7, started=1e9)
BEST = Best(value=1.0, coverage=1.0, fitness=-0.1, fitness_mean=-0.5, fitness_worst=-2.0, diversity=0.3)
WAYS_OUT = ("--to-round N keeps that much", "choose another --out", "start the same command again")


def a_result(round: int, trainer: str, counted_in: int | None = None, size: int = 3) -> StoredResult:
    return StoredResult(round, trainer, counted_in or round, [b"up/run/", b"header", b"", trainer.encode() * size])


def a_total(round: int, *trainers: str, size: int = 3) -> StoredTotal:
    infos, blobs = pack({"losses": np.full(size, 1 << 40)})
    return StoredTotal(round, TotalHeader(bytes([round]) * 32, dict.fromkeys(trainers, 2), 16, infos), list(blobs))


def a_close(round: int, best: Best | None = BEST) -> Close:
    return Close(round, "complete", ("alice", "bob"), 2, 0.25, 1e9 + round, best, bytes(32))


def filled(store: Store, rounds: int = 3) -> Store:
    """The store with so many closed rounds of two results each, and a checkpoint at each."""
    for number in range(1, rounds + 1):
        store.save(a_result(number, "alice"))
        store.save(a_result(number, "bob"))
        store.save(a_close(number))
        store.save(Checkpoint(number + 1, b"state %d" % number))
    store.commit()
    return store


def reopened(store: Store) -> Store:
    store.close()
    return Store(store.path)


def one_line(error: pytest.ExceptionInfo[StoreError], path: Path) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(str(path.parent))
    assert text.endswith(WAYS_OUT)
    return text
