"""Maintenance of a run's folder: replay it, recover a damaged store."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fedmq.algorithms.base import Strategy
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration, StoreError
from fedmq.models.trained_model import MODEL_BYTES_MAX
from fedmq.protocol.run_config import RunConfig
from fedmq.runs.records import Checkpoint, Close, StoredResult, StoredTotal
from fedmq.runs.replay import Replayed, replay
from fedmq.runs.report import read_report
from fedmq.runs.software import differing_software, software_here
from fedmq.runs.store import Store
from fedmq.runs.store_errors import StoreDamaged
from fedmq.runtime.lock import FolderLock
from fedmq.runtime.run_folder import HISTORY, MODEL, REPORT, STORE
from fedmq.runtime.safe_files import read_regular

DAMAGED = ".damaged"  # suffix of the files that recovery replaces


class ReplayOutcome(NamedTuple):
    """The outcome of a replay."""

    rounds: int
    results: int
    model_sha256: str | None  # of the model file; None: nothing was scored


def open_store(folder: Path) -> tuple[Store, RunConfig]:
    """Return the store of the run in `folder`, and its configuration.

    Raises:
        BadConfiguration: there is none, or it is damaged or empty.
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
    except StoreDamaged as error:  # without its configuration the rest is useless
        none = path.is_dir() or "not a database" in error.what
        said = "not a store: nothing can be recovered" if none else "nothing can be read"
        raise StoreError(f"{error.what}; {said}; put a copy of the folder back, or choose another --out") from error
    if config is None:
        store.close()
        raise BadConfiguration(
            f"{folder}: the store is empty, the run never began or its store was removed: put a copy back, or "
            "choose another --out"
        )
    return store, config


def replay_run(
    folder: Path, watch: Callable[[Store, Strategy[Any], Replayed], None] = lambda *_: None
) -> ReplayOutcome:
    """Compute the model of the run again, from its accepted results alone.

    `watch` is called with the store, the strategy and each round that is computed again, before it closes.
    """
    store, config = open_store(folder)
    with store:
        strategy = find_algorithm(config.algorithm, config.task, config.parameters, config.privacy)
        replayed = replay(
            store, config.task, strategy, config.seed, from_start=True, watch=partial(watch, store, strategy)
        )
    evaluation = strategy.evaluation(replayed.state)
    model = None if evaluation is None else config.task.trained(evaluation.parameters, evaluation.preparation)
    sha256 = None if model is None else hashlib.sha256(model.to_bytes()).hexdigest()
    return ReplayOutcome(replayed.round - 1, sum(results for _, results in replayed.trainers.values()), sha256)


def check_model(folder: Path, again: ReplayOutcome) -> None:
    """Check that the report and the model file, if there are any, match the replay.

    Raises:
        BadConfiguration: one does not.
    """
    report, model = read_report(folder), folder / MODEL
    said = {} if report is None else {folder / REPORT: report.model_sha256}
    try:
        said[model] = hashlib.sha256(read_regular(model, MODEL_BYTES_MAX)).hexdigest()
    except FileNotFoundError:
        pass  # the run is not finished
    except OSError as error:
        raise BadConfiguration(f"{model}: cannot be read ({error.strerror}); put a copy of it back") from error
    for path, sha256 in said.items():
        if sha256 != again.model_sha256:
            expected = f"{path}: expected the model_sha256 {again.model_sha256} of the replay, got {sha256}"
            with open_store(folder)[0] as store:
                differing = differing_software(store.software, software_here())
            if differing:
                raise BadConfiguration(
                    f"{expected}; the run was computed by other versions, which may differ in the last bits: "
                    f"replay it with {', '.join(differing)}"
                )
            raise BadConfiguration(f"{expected}; it was changed, or is of fewer rounds: put a copy of it back")


def recover(folder: Path, last: int | None) -> int:
    """Replace the store by its undamaged rounds, up to round `last` at most; return the last recovered round.

    The damaged store stays beside it as `store.sqlite3.damaged`, and so do the report, the model and the history: they
    may include lost rounds.

    Raises:
        StoreError: the configuration of the run cannot be read, the new store cannot be written, or an aggregator
            writes to this one.
    """
    damaged, config = open_store(folder)
    path, partial = folder / STORE, folder / f"recovered-{STORE}"
    with damaged, FolderLock(folder) as lock:
        for old in folder.glob(f"{partial.stem}*"):
            old.unlink()
        with Store(partial, lock) as whole:
            whole.begin(config, damaged.code, damaged.term, damaged.software)
            kept = _copy(damaged, whole, last)
        damaged.close()
        times = len(list(folder.glob(f"{STORE}{DAMAGED}*")))
        suffix = f"{DAMAGED}-{times + 1}" if times else DAMAGED
        outcomes = [folder / name for name in (REPORT, MODEL, HISTORY)]
        for old in [*folder.glob(f"{path.stem}.*"), *outcomes]:
            if DAMAGED not in old.name and old.exists():
                old.replace(old.with_name(old.name + suffix))
        for new in folder.glob(f"{partial.stem}*"):
            new.replace(new.with_name(new.name.removeprefix("recovered-")))
    return kept


def _copy(damaged: Store, whole: Store, last: int | None) -> int:
    """Copy the rounds before the first damaged one, and the checkpoints up to there."""
    first = kept = 0
    for close, results in _whole_rounds(damaged, last):
        for result in results:
            whole.save(result)
        whole.save(close)
        first, kept = first or close.round, close.round
    with suppress(StoreError):
        if (open_sum := damaged.open_sum) is not None and open_sum.round == kept + 1:
            whole.save(open_sum)
    begins = first <= 1
    for checkpoint in _whole_checkpoints(damaged, kept + 1):
        whole.save(checkpoint)
        begins = begins or checkpoint.round >= first
    if not begins:  # earlier rounds were dropped, and their checkpoint is damaged
        whole.abandon()
        return 0
    whole.commit()
    return kept


def _whole_rounds(damaged: Store, last: int | None) -> Iterator[tuple[Close, list[StoredResult | StoredTotal]]]:
    with suppress(StoreError):
        for close in damaged.closes():
            if last is not None and close.round > last:
                return
            yield close, list(damaged.results(close.round))


def _whole_checkpoints(damaged: Store, at_most: int) -> Iterator[Checkpoint]:
    """Yield the undamaged checkpoints, the newest first."""
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
