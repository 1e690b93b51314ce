"""The store on real files under any sequence of what an aggregator does with it, against a model in memory.

A crash is a copy of the files as they lie, without closing anything; what was committed is there, the rest is not.
"""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import fedmq.runs.blobs
from fedmq.runs.records import Checkpoint, Close, StoredResult
from fedmq.runs.store import Store
from fedmq.tasks.task_file import find_task
from fedmq.testing import run_config

CONFIG = run_config("run", find_task("xor"), "evolution", seed=7, started=1e9)
NAMES = st.sampled_from(["alice", "bob", "carol"])
STORE = "store.sqlite3"
BLOB_BYTES = 100  # a file for each frame over this, instead of 1 MiB


@dataclass(frozen=True)
class Content:
    """What is in a store."""

    results: dict[tuple[int, str], StoredResult] = field(default_factory=dict)
    closes: dict[int, Close] = field(default_factory=dict)
    checkpoints: dict[int, bytes] = field(default_factory=dict)


class StoreMachine(RuleBasedStateMachine):
    """A store, what is committed in it, and what was kept since."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(fedmq.runs.blobs, "BLOB_BYTES", BLOB_BYTES)
        self.place = Path(tempfile.mkdtemp(prefix="store-"))
        self.folder, self.lives, self.term, self.open = self.place / "0", 0, 0, 1
        self.folder.mkdir()
        self.store = self.opened()
        self.store.begin(CONFIG)
        self.committed = self.now = Content()

    def opened(self) -> Store:
        store = Store(self.folder / STORE)
        store._connection.execute("PRAGMA synchronous = OFF")  # no power cut in this test
        return store

    def teardown(self) -> None:
        self.store.close()
        self.patch.undo()
        shutil.rmtree(self.place)

    # --- what an aggregator does --------------------------------------------------------------------------------

    @rule(name=NAMES, late=st.integers(0, 2), size=st.sampled_from([0, 10, BLOB_BYTES + 1, 5000]))
    def keep_result(self, name: str, late: int, size: int) -> None:
        key = (max(1, self.open - late), name)
        if key not in self.now.results:
            result = StoredResult(*key, self.open, [b"up/run/", b"header", b"", name.encode() + bytes(size)])
            self.store.save(result)
            self.now = replace(self.now, results={**self.now.results, key: result})

    @rule()
    def keep_close(self) -> None:
        close = Close(self.open, "complete", ("alice", "bob"), 2, 0.25, 1e9 + self.open, None, bytes(32))
        self.store.save(close)
        self.now = replace(self.now, closes={**self.now.closes, self.open: close})
        self.open += 1

    @rule(size=st.sampled_from([1, 10_000]))
    def keep_checkpoint(self, size: int) -> None:
        self.store.save(Checkpoint(self.open, bytes(size)))
        self.now = replace(self.now, checkpoints={**self.now.checkpoints, self.open: bytes(size)})

    @rule()
    def commit(self) -> None:
        self.store.commit()
        self.committed = self.now

    @rule()
    def abandon(self) -> None:
        self.store.abandon()
        self.lost()

    @rule()
    def a_new_life(self) -> None:
        self.commit()
        self.term += 1
        assert self.store.next_term(0.0) == self.term

    @rule()
    def close_and_open(self) -> None:
        self.store.close()
        self.store = self.opened()
        self.lost()

    @rule()
    def crash(self) -> None:
        """The files as they lie, in another place: this one's lock ends with the process."""
        self.lives += 1
        crashed = self.place / str(self.lives)
        shutil.copytree(self.folder, crashed)
        (crashed / f"{STORE}-shm").unlink(missing_ok=True)
        self.store.close()
        shutil.rmtree(self.folder)
        self.folder = crashed
        self.store = self.opened()
        self.lost()

    @rule(rounds=st.integers(0, 4))
    def drop_old_rounds(self, rounds: int) -> None:
        """What is before the newest checkpoint that has so many closed rounds behind it."""
        last = max(self.now.closes, default=0)
        first = max((number for number in self.now.checkpoints if number <= last + 1 - rounds), default=0)
        dropped = self.store.keep_last(rounds)
        assert dropped == sum(number < first for number in self.now.closes)
        self.store.commit()
        self.committed = self.now = Content(
            {key: result for key, result in self.now.results.items() if result.counted_in >= first},
            {number: close for number, close in self.now.closes.items() if number >= first},
            {number: state for number, state in self.now.checkpoints.items() if number >= first},
        )

    @rule()
    def shrink(self) -> None:
        self.store.shrink()
        self.committed = self.now

    def lost(self) -> None:
        """What was not committed is gone."""
        self.now = self.committed
        checkpoint = max(self.now.checkpoints, default=1)
        self.open = max(self.now.closes, default=0) + 1 if self.now.closes else checkpoint

    # --- what must hold -----------------------------------------------------------------------------------------

    @invariant()
    def everything_is_there_and_nothing_else(self) -> None:
        assert self.store.config == CONFIG
        assert {close.round: close for close in self.store.closes()} == self.now.closes
        there = [result for number in range(1, self.open + 1) for result in self.store.results(number)]
        assert {(result.round, result.trainer): result for result in there} == self.now.results
        assert self.store.keys_since(2) == {key for key in self.now.results if key[0] >= 2}
        newest = max(self.now.checkpoints, default=None)
        assert self.store.checkpoint() == (None if newest is None else (newest, self.now.checkpoints[newest]))

    @invariant()
    def nothing_is_wrong_with_it(self) -> None:
        assert self.store.verify() == []

    @invariant()
    def the_blobs_are_those_that_were_named_since_the_last_cleaning(self) -> None:
        names = {name.hex() for name in self.store._named_blobs()}
        assert names <= {path.name for path in (self.folder / "blobs").glob("*")}


TestStore = StoreMachine.TestCase
TestStore.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    derandomize=True,  # the same sequences in every run; what fails is printed as a program
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
