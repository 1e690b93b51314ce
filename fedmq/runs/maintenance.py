"""Upkeep of a run's folder: replaying it, recovering what is whole of a damaged store, dropping old rounds.

Knows stores and folders, nothing of the network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration, StoreError
from fedmq.models.trained_model import TrainedModel
from fedmq.protocol.run_config import RunConfig
from fedmq.runs.records import Checkpoint, Close, StoredResult
from fedmq.runs.replay import replay
from fedmq.runs.report import read_report
from fedmq.runs.store import Store
from fedmq.runs.store_errors import StoreDamaged
from fedmq.runtime.run_folder import HISTORY, MODEL, REPORT, STORE

DAMAGED = ".damaged"  # is put behind the name of what recovery replaces


class Again(NamedTuple):
    """What a replay came to."""

    rounds: int
    results: int
    model_sha256: str | None  # of the model's file; None when nothing was scored


def open_store(folder: Path) -> tuple[Store, RunConfig]:
    """The store of the run in `folder`.

    Raises:
        BadConfiguration: there is none, or it is damaged or was never begun.
    """
    path = folder / STORE
    if not path.exists():
        raise BadConfiguration(f"{folder}: expected the folder of a run, found no {STORE}; fedmq runs ls lists them")
    try:
        store = Store(path)
        try:
            config = store.config
        except StoreError:
            store.close()
            raise
    except StoreDamaged as error:  # without its configuration nothing of a run is worth anything
        none = path.is_dir() or "not a database" in error.what
        said = "not a store at all: nothing can be kept" if none else "nothing can be read"
        raise StoreError(f"{error.what}; {said}; put a copy of the folder back, or choose another --out") from error
    if config is None:
        store.close()
        raise BadConfiguration(
            f"{folder}: the run was never begun, or its store removed; put a copy back, or choose another --out"
        )
    return store, config


def replay_run(folder: Path) -> Again:
    """Compute the run's model again, from its accepted results alone."""
    store, config = open_store(folder)
    with store:
        strategy = find_algorithm(config.algorithm, parameters=config.parameters)
        replayed = replay(store, config.task, strategy, config.seed, from_start=True)
    evaluation = strategy.evaluation(replayed.state)
    model = None if evaluation is None else TrainedModel(config.task.model, evaluation.genes, config.task.name)
    sha256 = None if model is None else hashlib.sha256(model.to_bytes()).hexdigest()
    return Again(replayed.round - 1, sum(results for _, results in replayed.trainers.values()), sha256)


def check_model(folder: Path, again: Again) -> None:
    """Nothing, if the files of the run say of its model what the replay came to, as far as there are any.

    Raises:
        BadConfiguration: one says otherwise.
    """
    report, model = read_report(folder), folder / MODEL
    said = {} if report is None else {folder / REPORT: report.model_sha256}
    try:
        said[model] = hashlib.sha256(model.read_bytes()).hexdigest()
    except FileNotFoundError:
        pass  # the run is not finished
    except OSError as error:
        raise BadConfiguration(f"{model}: cannot be read ({error.strerror}); put a copy of it back") from error
    for path, sha256 in said.items():
        if sha256 != again.model_sha256:
            raise BadConfiguration(
                f"{path}: expected the model_sha256 {again.model_sha256} of the replay, got {sha256}; it was changed, "
                "or is of fewer rounds: put a copy of it back"
            )


def recover(folder: Path, last: int | None) -> int:
    """Put what is whole of the store's rounds, at most up to round `last`, in its place; the last round that is kept.

    The store as it was stays beside it, as `store.sqlite3.damaged` and the like, and so does what had come of it: the
    report, the model and the history are of rounds that may be gone.

    Raises:
        StoreError: not even the configuration of the run can be read, the new store cannot be written, or an aggregator
            writes to this one.
    """
    damaged, config = open_store(folder)
    path, partial = folder / STORE, folder / f"recovered-{STORE}"
    with damaged:
        for old in folder.glob(f"{partial.stem}*"):
            old.unlink()
        with Store(partial) as whole:
            whole.begin(config, damaged.code, damaged.term)
            kept = _copy(damaged, whole, last)
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
            whole.save(result)
        whole.save(close)
        first, kept = first or close.round, close.round
    begins = first <= 1
    for checkpoint in _whole_checkpoints(damaged, kept + 1):
        whole.save(checkpoint)
        begins = begins or checkpoint.round >= first
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


def _whole_checkpoints(damaged: Store, at_most: int) -> Iterator[Checkpoint]:
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
        at_most = checkpoint.round - 1
