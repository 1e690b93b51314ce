"""Upkeep of a run's folder: replaying it, recovering what is whole of a damaged store, dropping old rounds.

Knows stores and folders, nothing of the network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from aggregator.replay import replay
from aggregator.store import Close, Description, Store, StoredResult
from aggregator.strategies import find_strategy
from fedmq.errors import BadConfiguration, StoreError
from fedmq.models import TrainedModel
from fedmq.run_files import HISTORY, MODEL, REPORT, STORE

DAMAGED = ".damaged"  # is put behind the name of what recovery replaces


class Again(NamedTuple):
    """What a replay came to."""

    rounds: int
    results: int
    model_sha256: str | None  # of the model's file; None when nothing was scored


def open_store(folder: Path) -> tuple[Store, Description]:
    """The store of the run in `folder`.

    Raises:
        BadConfiguration: there is none, or it is damaged or was never begun.
    """
    path = folder / STORE
    if not path.exists():
        raise BadConfiguration(f"{folder}: expected the folder of a run, found no {STORE}; fedmq runs ls lists them")
    store = Store(path)
    description = store.description
    if description is None:
        store.close()
        raise BadConfiguration(f"{folder}: the run was never begun; give the folder to fedmq aggregator --out")
    return store, description


def replay_run(folder: Path) -> Again:
    """Compute the run's model again, from its accepted results alone."""
    store, description = open_store(folder)
    strategy = find_strategy(description.strategy, description.robust)
    replayed = replay(store, description.task, strategy, description.seed, from_start=True)
    store.close()
    standing = strategy.standing(replayed.state)
    model = None if standing is None else TrainedModel(description.task.model, standing.genes, description.task.name)
    sha256 = None if model is None else hashlib.sha256(model.to_bytes()).hexdigest()
    return Again(replayed.round - 1, sum(results for _, results in replayed.trainers.values()), sha256)


def recover(folder: Path, last: int | None) -> int:
    """Put what is whole of the store's rounds, at most up to round `last`, in its place; the last round that is kept.

    The store as it was stays beside it, as `store.sqlite3.damaged` and the like, and so does what had come of it: the
    report, the model and the history are of rounds that may be gone.

    Raises:
        StoreError: not even the description of the run can be read, the new store cannot be written, or an aggregator
            writes to this one.
    """
    damaged, description = open_store(folder)
    path, partial = folder / STORE, folder / f"recovered-{STORE}"
    for old in folder.glob(f"{partial.stem}*"):
        old.unlink()
    whole = Store(partial)
    try:
        whole.begin(description, damaged.epoch)
        kept = _copy(damaged, whole, last)
    finally:
        whole.close()
        damaged.close()
    times = len(list(folder.glob(f"{STORE}{DAMAGED}*")))
    suffix = f"{DAMAGED}-{times + 1}" if times else DAMAGED
    came_of_it = [folder / name for name in (REPORT, MODEL, HISTORY)]
    for old in [*folder.glob(f"{path.stem}.*"), *came_of_it]:
        if DAMAGED not in old.name and old.exists():
            old.replace(old.with_name(old.name + suffix))
    for new in folder.glob(f"{partial.stem}*"):
        new.replace(new.with_name(new.name.removeprefix("recovered-")))
    return kept


def _copy(damaged: Store, whole: Store, last: int | None) -> int:
    """Copy round by round until one is not whole, and the checkpoints up to there."""
    first = kept = 0
    for close, results in _whole_rounds(damaged, last):
        for result in results:
            whole.keep_result(result)
        whole.keep_close(close)
        first, kept = first or close.round, close.round
    begins = first <= 1
    for checkpoint in _whole_checkpoints(damaged, kept + 1):
        whole.keep_checkpoint(*checkpoint)
        begins = begins or checkpoint[0] >= first
    if not begins:  # earlier rounds were dropped, and no checkpoint that stands for them is whole
        whole.abandon()
        return 0
    whole.commit()
    return kept


def _whole_rounds(damaged: Store, last: int | None) -> Iterator[tuple[Close, list[StoredResult]]]:
    with suppress(StoreError):
        for close in damaged.closes():
            if last is not None and close.round > last:
                return
            yield close, list(damaged.results(close.round))


def _whole_checkpoints(damaged: Store, at_most: int) -> Iterator[tuple[int, bytes]]:
    """The newest first."""
    while at_most > 0:
        try:
            checkpoint = damaged.checkpoint(at_most)
        except StoreError:
            at_most -= 1
            continue
        if checkpoint is None:
            return
        yield checkpoint
        at_most = checkpoint[0] - 1
