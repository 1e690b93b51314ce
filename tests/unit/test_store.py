"""The store of a run on real files: what was committed is there again, and what goes wrong is said in one line."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aggregator.blobs import BLOB_BYTES
from aggregator.store import SCHEMA_VERSION, Close, Description, Store, StoredResult, is_running
from fedmq.errors import StoreError
from fedmq.events import Best
from fedmq.tasks import find_task

DESCRIPTION = Description("run", find_task("xor"), "evolution", 7, 1e9)
BEST = Best(value=1.0, coverage=1.0, fitness=-0.1, fitness_mean=-0.5, fitness_worst=-2.0, diversity=0.3)
BIG = 40_000  # bytes; more than a page
WAYS_OUT = ("--to-round N keeps that much", "choose another --out", "start the same command again")


def a_result(round: int, trainer: str, counted_in: int | None = None, size: int = 3) -> StoredResult:
    return StoredResult(round, trainer, counted_in or round, [b"up/run/", b"header", b"", trainer.encode() * size])


def a_close(round: int, best: Best | None = BEST) -> Close:
    return Close(round, "complete", ("alice", "bob"), 2, 0.25, 1e9 + round, best)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store(path)
    opened.begin(DESCRIPTION)
    yield opened
    opened.close()


def reopened(store: Store) -> Store:
    store.close()
    return Store(store.path)


def change(path: Path, statement: str, *values: object) -> None:
    """Change the file behind the store's back."""
    connection = sqlite3.connect(path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


# What is kept


def test_a_new_store_holds_no_run(path: Path) -> None:
    store = Store(path)
    assert (store.description, list(store.closes()), store.keys_since(0)) == (None, [], set())
    store.close()


def test_what_was_committed_is_there_after_reopening(store: Store) -> None:
    results = [a_result(1, "bob"), a_result(1, "alice"), a_result(1, "carol", counted_in=2), a_result(2, "bob")]
    for result in results:
        store.keep_result(result)
    for close in (a_close(1, best=None), a_close(2)):
        store.keep_close(close)
    store.commit()
    again = reopened(store)
    assert again.description == DESCRIPTION
    assert list(again.closes()) == [a_close(1, best=None), a_close(2)]
    assert list(again.results(1)) == [results[1], results[0]], "by trainer, however they came"
    assert list(again.results(2)) == [results[2], results[3]]
    assert list(again.results(3)) == []
    assert again.keys_since(2) == {(2, "bob")}
    again.close()


@pytest.mark.parametrize("end", [Store.abandon, Store.close], ids=["abandoned", "closed"])
def test_what_was_not_committed_is_not_there(store: Store, end: Callable[[Store], None]) -> None:
    store.keep_result(a_result(1, "bob"))
    store.commit()
    store.keep_result(a_result(1, "alice"))
    end(store)
    again = reopened(store)
    assert again.keys_since(0) == {(1, "bob")}
    again.close()


def test_each_life_has_a_higher_epoch(store: Store) -> None:
    epochs = [store.next_epoch(), store.next_epoch()]
    again = reopened(store)
    assert [*epochs, again.next_epoch()] == [1, 2, 3]
    again.close()


def test_a_commit_of_nothing_and_an_abandon_of_nothing_do_nothing(store: Store) -> None:
    store.commit()
    store.abandon()
    assert store.description == DESCRIPTION


def test_a_result_is_kept_once(store: Store) -> None:
    store.keep_result(a_result(1, "bob"))
    with pytest.raises(StoreError, match="UNIQUE"):
        store.keep_result(a_result(1, "bob"))


def test_a_store_is_that_of_one_run(store: Store) -> None:
    with pytest.raises(StoreError):
        store.begin(DESCRIPTION)
    assert store.description == DESCRIPTION


def test_a_store_in_memory_lives_as_long_as_its_object() -> None:
    store = Store(":memory:")
    store.begin(DESCRIPTION)
    assert store.next_epoch() == 1
    store.close()


# What goes wrong


def one_line(error: pytest.ExceptionInfo[StoreError], path: Path) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert text.startswith(str(path))
    assert text.endswith(WAYS_OUT)
    return text


def test_a_file_that_is_no_store_is_refused(path: Path) -> None:
    path.write_text("these are notes, and no store at all\n" * 100)
    with pytest.raises(StoreError) as error:
        Store(path)
    assert "not a database" in one_line(error, path)


def test_a_store_in_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "store.sqlite3"
    with pytest.raises(StoreError) as error:
        Store(path)
    one_line(error, path)


def test_a_store_of_another_schema_is_refused(store: Store, path: Path) -> None:
    store.close()
    change(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreError) as error:
        Store(path)
    assert f"schema {SCHEMA_VERSION}, got {SCHEMA_VERSION + 1}" in one_line(error, path)


@pytest.mark.parametrize("junk", [b"\xc1junk", b"\x01", "text", 7], ids=["no msgpack", "no struct", "text", "number"])
def test_a_damaged_row_is_refused(store: Store, path: Path, junk: object) -> None:
    store.keep_result(a_result(1, "bob"))
    store.keep_close(a_close(1))
    store.commit()
    for statement in (
        "UPDATE run SET description = ?",
        "UPDATE closes SET summary = ?",
        "UPDATE results SET frames = ?",
    ):
        change(path, statement, junk)
    for read in (lambda: store.description, lambda: list(store.closes()), lambda: list(store.results(1))):
        with pytest.raises(StoreError) as error:
            read()
        assert "not as it was written" in one_line(error, path)


def test_a_damaged_file_is_refused_wherever_it_is_read(store: Store, path: Path) -> None:
    for number in range(1, 40):
        store.keep_result(a_result(number, "bob", size=1000))
        store.keep_close(a_close(number))
    store.commit()
    store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)  # all pages but the first, which says what the tables are
    path.write_bytes(content)
    broken = Store(path)
    reads: list[Callable[[], object]] = [
        lambda: broken.description,
        lambda: list(broken.closes()),
        lambda: list(broken.results(1)),
        lambda: broken.keys_since(0),
        lambda: broken.next_epoch(),
    ]
    for read in reads:
        with pytest.raises(StoreError) as error:
            read()
        assert "malformed" in one_line(error, path)
    broken.abandon()
    broken.close()


def test_a_full_disk_is_told_and_nothing_that_was_committed_is_lost(store: Store, path: Path) -> None:
    store.keep_result(a_result(1, "bob"))
    store.commit()
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreError) as error:
        store.keep_result(a_result(1, "alice", size=BIG))
    assert "full" in one_line(error, path)
    store.abandon()
    store._connection.execute("PRAGMA max_page_count = 1000000")  # somebody made room
    store.keep_result(a_result(1, "carol"))
    store.commit()
    again = reopened(store)
    assert again.keys_since(0) == {(1, "bob"), (1, "carol")}
    again.close()


def test_a_store_that_may_only_be_read_says_so_when_it_is_written(store: Store, path: Path) -> None:
    store._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreError) as error:
        store.next_epoch()
    assert "readonly" in one_line(error, path)
    assert store.description == DESCRIPTION


# Two processes

WRITER = """
import sys
from aggregator.store import Store
store = Store(sys.argv[1])
print("epoch", store.next_epoch(), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def writer(store: Store, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes to the store and has not ended."""
    store.close()
    arguments = [sys.executable, "-c", WRITER, str(path)]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "epoch 1\n"
    yield process
    process.kill()
    process.communicate(timeout=10)


def test_while_one_process_writes_another_may_read_but_not_write(writer: subprocess.Popen[str], path: Path) -> None:
    second = Store(path)
    assert second.description == DESCRIPTION
    with pytest.raises(StoreError, match="only one that writes this run, but another process does; wait") as error:
        second.next_epoch()
    one_line(error, path)
    second.close()


def test_when_the_writer_was_killed_the_next_one_writes(writer: subprocess.Popen[str], path: Path) -> None:
    writer.send_signal(signal.SIGKILL)
    writer.wait(timeout=10)
    after = Store(path)
    assert after.next_epoch() == 2
    after.close()


def test_a_closed_store_leaves_no_lock(store: Store, path: Path) -> None:
    store.close()
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(folder)
