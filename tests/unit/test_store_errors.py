"""A store whose bytes were changed behind its back: it says so in one line with a way out, or nothing is different.

The store holds three closed rounds and an open one, its larger frames in files, and is made once. It is damaged as it
lies after a clean end (one file), and as a crash leaves it (with its write-ahead log).
"""

from __future__ import annotations

import os
import random
import resource
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import fedmq.runs.blobs
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import StoreError
from fedmq.protocol.run_config import Limits
from fedmq.runs.replay import replay
from fedmq.runs.store import Store
from fedmq.simulation import AGGREGATOR, Federation
from fedmq.tasks.task_file import find_task, task_rows

ROUNDS = 3
FLIPS = 150
PAGE_BYTES, FRAME_BYTES, LOG_HEADER_BYTES = 4096, 4096 + 24, 32  # of SQLite's file, and of its write-ahead log
STEP = 1 if os.environ.get("EVERY_BYTE") else 64  # of the lengths to cut off at; all of them take long
STORE, LOG, BLOBS = "store.sqlite3", "store.sqlite3-wal", "blobs"
WAYS_OUT = ("--to-round N keeps that much", "choose another --out", "start the same command again")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same run's folder twice: `crashed`, with its log, and `closed`."""
    crashed, closed = tmp_path_factory.mktemp("crashed"), tmp_path_factory.mktemp("closed")
    names = ("alice", "bob", "carol")
    rows = {name: task_rows("linear", part, 3) for part, name in enumerate(names, start=1)}
    store = Store(closed / STORE)
    limits = Limits(rounds_max=100, min_trainers=3)
    federation = Federation(
        find_task("linear"),
        find_algorithm("averaging", parameters={"standardize": False}),
        rows,
        limits=limits,
        store=store,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fedmq.runs.blobs, "BLOB_BYTES", 20)  # a model of 24 bytes is a file
        federation.start()
        federation.simulation.run(lambda: len(list(store.closes())) == ROUNDS, 60.0)
        assert federation.simulation.run(lambda: bool(list(store.results(ROUNDS + 1))), 60.0)
    federation.simulation.crash(AGGREGATOR)
    store.abandon()
    shutil.copytree(closed, crashed, dirs_exist_ok=True)
    (crashed / f"{STORE}-shm").unlink()  # an index over the log; SQLite makes it anew after a crash
    store.close()
    assert not (closed / LOG).exists(), "a clean end leaves one file"
    assert len(list((closed / BLOBS).iterdir())) >= ROUNDS
    return {"crashed": crashed, "closed": closed}


def opened(path: Path) -> Store:
    store = Store(path)
    store._connection.execute("PRAGMA synchronous = OFF")  # thousands of copies need not survive a power cut
    return store


def content(path: Path) -> dict[str, Any]:
    """All that a run is continued from, as values that are equal only when each bit is.

    Raises:
        StoreError: something is wrong with the store.
    """
    store = opened(path)
    try:
        config = store.config
        if config is None:
            raise StoreError("the store was never begun: choose another --out")
        strategy = find_algorithm(config.algorithm, parameters=config.parameters)
        again = replay(store, config.task, strategy, config.seed)
        plan, evaluation = strategy.ask(again.state), strategy.evaluation(again.state)
        return {
            "config": config,
            "keys": store.keys_since(0),
            "where": (again.round, again.open_results, again.closes, again.trainers),
            "arrays": {name: array.tobytes() for name, array in plan.arrays.items()},
            "evaluation": evaluation and {**vars(evaluation), "parameters": evaluation.parameters.tobytes()},
            "term": store.next_term(0.0),
        }
    finally:
        store.close()


def complaints(path: Path) -> list[str]:
    """What `verify` says, or why it cannot even be asked."""
    try:
        store = opened(path)
    except StoreError as error:
        return [str(error)]
    try:
        return store.verify()
    finally:
        store.close()


class Copies:
    """Copies of a folder, each damaged in one place, and what was said of them."""

    def __init__(self, original: Path, place: Path) -> None:
        self.original, self.place, self.noticed, self.unchanged = original, place, 0, 0
        self._files = {path.relative_to(original): path.read_bytes() for path in original.rglob("*") if path.is_file()}
        self._written: dict[Path, bytes | None] = {}
        self._right = content(self._fresh())
        assert complaints(self._fresh()) == []
        store = Store(self._fresh())
        self.blobs = sorted(Path(BLOBS, name.hex()) for name in store._named_blobs())
        store.close()

    def _fresh(self, changed: dict[Path, bytes | None] | None = None) -> Path:
        """The store's path in a folder as it was at first, but for `changed` files; None removes one."""
        files: dict[Path, bytes | None] = {**self._files, **(changed or {})}
        for name in [name for name in files if name.parent.name != BLOBS or files[name] != self._written.get(name)]:
            blob = self._written[name] = files[name]
            (self.place / name).parent.mkdir(parents=True, exist_ok=True)
            if blob is None:
                (self.place / name).unlink(missing_ok=True)
            else:
                (self.place / name).write_bytes(blob)
        for rest in (LOG, f"{STORE}-shm"):
            if Path(rest) not in files:
                (self.place / rest).unlink(missing_ok=True)
        return self.place / STORE

    def bytes_of(self, name: str | Path) -> bytes:
        return self._files[Path(name)]

    def judge(self, name: str | Path, damaged: bytes | None, what: str) -> None:
        """The folder with `damaged` as file `name`: it is noticed in words, or everything is as it was."""
        changed = {Path(name): damaged}
        said = complaints(self._fresh(changed))
        try:
            same = content(self._fresh(changed)) == self._right
        except StoreError as error:
            line = str(error)
            assert "\n" not in line, what
            assert line.endswith(WAYS_OUT), f"{what}: {line}"
            same = False
        else:
            assert same or said, f"{what}: goes unnoticed and changes the run"
        self.noticed, self.unchanged = self.noticed + (not same), self.unchanged + same

    def flip(self, name: str | Path, bit: int) -> None:
        damaged = bytearray(self.bytes_of(name))
        damaged[bit // 8] ^= 1 << bit % 8
        self.judge(name, bytes(damaged), f"{name}: bit {bit % 8} of byte {bit // 8} flipped")

    def flip_some(self, names: Sequence[str | Path], seed: str) -> None:
        draws, sizes = random.Random(seed), [8 * len(self.bytes_of(name)) for name in names]
        for _ in range(FLIPS):
            (name,) = draws.choices(names, sizes)
            self.flip(name, draws.randrange(8 * len(self.bytes_of(name))))


@pytest.fixture
def copies(request: pytest.FixtureRequest, folders: dict[str, Path], tmp_path: Path) -> Copies:
    return Copies(folders[request.param], tmp_path / "run")


def lengths(size: int, boundaries: range, step: int = STEP) -> list[int]:
    """Every so-many-th length below `size`, and those at and around the boundaries."""
    around = {boundary + by for boundary in boundaries for by in (-1, 0, 1)}
    return sorted(length for length in {*range(0, size, step), *around} if 0 <= length < size)


@pytest.mark.parametrize("copies", ["closed"], indirect=True)
def test_flipped_bit_in_a_closed_store_is_detected_or_harmless(copies: Copies) -> None:
    copies.flip_some([STORE], "closed")
    assert copies.noticed > FLIPS / 10, "but for the room that is free in each page"


@pytest.mark.parametrize("copies", ["closed"], indirect=True)
def test_damaged_free_page_is_detected_before_a_life_begins(copies: Copies) -> None:
    """Reading does not notice, but what is written next could be put over something."""
    pages = len(copies.bytes_of(STORE)) // PAGE_BYTES
    for at in (page * PAGE_BYTES + offset for page in range(1, pages) for offset in (1, 2)):  # its first free block
        copies.flip(STORE, 8 * at + 4)
        store = opened(copies.place / STORE)
        assert store.verify()
        with pytest.raises(StoreError, match="pages is not as it was written"):
            store.next_term(0.0)
        store.close()


@pytest.mark.parametrize("copies", ["closed"], indirect=True)
def test_flipped_bit_in_a_blob_is_detected(copies: Copies) -> None:
    copies.flip_some(copies.blobs, "blobs")
    assert copies.unchanged == 0


@pytest.mark.parametrize("copies", ["crashed"], indirect=True)
def test_flipped_bit_in_the_log_of_a_crash_is_detected_or_harmless(copies: Copies) -> None:
    copies.flip_some([STORE, LOG], "crashed")
    assert copies.noticed > FLIPS / 10


@pytest.mark.parametrize("copies", ["closed"], indirect=True)
def test_truncated_closed_store_is_detected_or_harmless(copies: Copies) -> None:
    whole = copies.bytes_of(STORE)
    for length in lengths(len(whole), range(0, len(whole), PAGE_BYTES)):
        copies.judge(STORE, whole[:length], f"{STORE} cut off at {length}")
    assert copies.unchanged <= PAGE_BYTES / STEP, "but for what follows the last row"


@pytest.mark.parametrize("copies", ["closed"], indirect=True)
def test_truncated_blob_is_detected(copies: Copies) -> None:
    names = sorted((len(copies.bytes_of(name)), name) for name in copies.blobs)
    for size, name in (names[0], names[-1]):  # a model and a header
        for length in lengths(size, range(size, size + 1), max(1, STEP // 8)):
            copies.judge(name, copies.bytes_of(name)[:length], f"{name} cut off at {length}")
    assert copies.unchanged == 0


@pytest.mark.parametrize("copies", ["crashed"], indirect=True)
def test_truncated_log_is_detected_or_harmless(copies: Copies) -> None:
    whole = copies.bytes_of(LOG)
    for length in lengths(len(whole), range(LOG_HEADER_BYTES, len(whole), FRAME_BYTES), 8 * STEP):
        copies.judge(LOG, whole[:length], f"{LOG} cut off at {length}")


@pytest.mark.parametrize("copies", ["crashed"], indirect=True)
def test_truncated_store_with_a_log_is_detected_or_harmless(copies: Copies) -> None:
    whole = copies.bytes_of(STORE)
    for length in lengths(len(whole), range(0, len(whole), PAGE_BYTES)):
        copies.judge(STORE, whole[:length], f"{STORE} cut off at {length}")


@pytest.mark.parametrize("copies", ["crashed"], indirect=True)
def test_removed_log_is_detected(copies: Copies) -> None:
    copies.judge(LOG, None, f"{LOG} removed")
    assert copies.noticed == 1


def test_store_that_cannot_be_opened_for_lack_of_descriptors_is_not_called_damaged(tmp_path: Path) -> None:
    Store(tmp_path / STORE).close()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
    try:
        with pytest.raises(StoreError, match=r"cannot be opened .*ulimit -n.* start the same command again"):
            Store(tmp_path / STORE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
