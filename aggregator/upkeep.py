"""Upkeep of a run's folder: replaying it, recovering what is whole of a damaged store, dropping old rounds.

Knows stores and folders, nothing of the network.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

from aggregator.replay import replay
from aggregator.report import STORE
from aggregator.store import Description, Store
from aggregator.strategies import find_strategy
from fedmq.errors import BadConfiguration, StoreError
from fedmq.models import TrainedModel

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
    strategy = find_strategy(description.strategy)
    replayed = replay(store, description.task, strategy, description.seed, from_start=True)
    store.close()
    standing = strategy.standing(replayed.state)
    model = None if standing is None else TrainedModel(description.task.model, standing.genes, description.task.name)
    sha256 = None if model is None else hashlib.sha256(model.to_bytes()).hexdigest()
    return Again(replayed.round - 1, sum(results for _, results in replayed.trainers.values()), sha256)


def recover(folder: Path, last: int | None) -> int:
    """Put what is whole of the store's rounds, at most up to round `last`, in its place; the last round that is kept.

    The store as it was stays beside it, as `store.sqlite3.damaged` and the like.

    Raises:
        StoreError: not even the description of the run can be read.
    """
    damaged, description = open_store(folder)
    path, partial = folder / STORE, folder / f"recovered-{STORE}"
    for old in folder.glob(f"{partial.stem}*"):
        old.unlink()
    whole = Store(partial)
    whole.begin(description, damaged.epoch)
    kept = _copy(damaged, whole, last)
    whole.close()
    damaged.close()
    for old in list(folder.glob(f"{path.stem}.*")):
        if not old.name.endswith(DAMAGED):
            old.replace(old.with_name(old.name + DAMAGED))
    for new in folder.glob(f"{partial.stem}*"):
        new.replace(new.with_name(new.name.removeprefix("recovered-")))
    return kept


def _copy(damaged: Store, whole: Store, last: int | None) -> int:
    """Copy round by round until one is not whole."""
    kept = 0
    try:
        checkpoint = damaged.checkpoint() if last is None else damaged.checkpoint(last + 1)
        if checkpoint is not None:
            whole.keep_checkpoint(*checkpoint)
            whole.commit()
        for close in damaged.closes():
            if last is not None and close.round > last:
                break
            for result in list(damaged.results(close.round)):
                whole.keep_result(result)
            whole.keep_close(close)
            whole.commit()
            kept = close.round
    except StoreError:
        whole.abandon()
    return kept
