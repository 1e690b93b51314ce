"""The store of a run on real files: committed records survive, and failures are one line."""

from __future__ import annotations

import fcntl
import gc
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from store_scene import CONFIG, a_close, a_result, a_total, filled, one_line, reopened

from fedmq.errors import StoreError
from fedmq.runs.records import OpenSum
from fedmq.runs.store import SCHEMA_VERSION, Store
from fedmq.runs.store_errors import StoreDamaged
from fedmq.runtime.lock import FolderLock, is_locked

BIG = 40_000  # bytes; more than a page


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store(path)
    opened.begin(CONFIG)
    yield opened
    opened.close()


def change(path: Path, statement: str, *values: object) -> None:
    """Change the file behind the store's back."""
    connection = sqlite3.connect(path)
    connection.execute(statement, values)
    connection.commit()
    connection.close()


# What is kept


def test_commit_returns_after_sync(store: Store) -> None:
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (2,), "no test can cut the power: FULL"


def test_a_new_store_holds_no_run(path: Path) -> None:
    store = Store(path)
    assert (store.config, list(store.closes()), store.keys_since(0)) == (None, [], set())
    store.close()


def test_committed_records_survive_reopening(store: Store) -> None:
    results = [a_result(1, "bob"), a_result(1, "alice"), a_result(1, "carol", counted_in=2), a_result(2, "bob")]
    for result in results:
        store.save(result)
    for close in (a_close(1, best=None), a_close(2)):
        store.save(close)
    store.commit()
    again = reopened(store)
    assert again.config == CONFIG
    assert list(again.closes()) == [a_close(1, best=None), a_close(2)]
    assert list(again.results(1)) == [results[1], results[0]], "by trainer, however they came"
    assert list(again.results(2)) == [results[2], results[3]]
    assert list(again.results(3)) == []
    assert again.keys_since(2) == {(2, "bob")}
    again.close()


def test_totals_and_the_open_sum_survive_reopening(store: Store, path: Path) -> None:
    sums = [OpenSum(2, 5, 7, {"bob": 2}, (("bob", b"masked"), ("", bytes(BIG)))), OpenSum(2, 5, 9, {}, (("", b"x"),))]
    for record in (a_total(1, "alice", "bob"), a_close(1), *sums):
        store.save(record)
    store.commit()
    again = reopened(store)
    assert list(again.results(1)) == list(again.totals()) == [a_total(1, "alice", "bob")]
    assert next(again.totals()).update.total_of == {"alice": 2, "bob": 2}
    assert again.keys_since(0) == {(1, "alice"), (1, "bob")}
    assert (again.open_sum, again.verify()) == (sums[1], [])
    change(path, "UPDATE sums SET record = ? WHERE place = 1", b"y")
    with pytest.raises(StoreDamaged, match="open sum"):
        _ = again.open_sum
    again.save(a_total(2))
    again.save(a_close(2))
    again.commit()
    assert again.open_sum is None, "the close of its round drops it"
    assert list(again.totals()) == [a_total(2), a_total(1, "alice", "bob")], "a spent question has no answers"
    again.close()


def test_store_of_the_schema_before_secure_sums_is_extended_by_the_first_write(store: Store, path: Path) -> None:
    filled(store).close()
    change(path, "DROP TABLE sums")
    change(path, "PRAGMA user_version = 7")
    with Store(path) as old:
        assert (len(list(old.closes())), old.open_sum, old.verify()) == (3, None, [])
    with closing(sqlite3.connect(path)) as unchanged:
        assert unchanged.execute("PRAGMA user_version").fetchone() == (7,)
    with Store(path) as old:
        old.save(a_close(4))
        old.commit()
    with Store(path) as again:
        assert (len(list(again.closes())), again.open_sum, again.verify()) == (4, None, [])


@pytest.mark.parametrize("end", [Store.abandon, Store.close], ids=["abandoned", "closed"])
def test_uncommitted_records_are_lost(store: Store, end: Callable[[Store], None]) -> None:
    store.save(a_result(1, "bob"))
    store.commit()
    store.save(a_result(1, "alice"))
    end(store)
    again = reopened(store)
    assert again.keys_since(0) == {(1, "bob")}
    again.close()


def test_store_may_begin_with_an_earlier_term(path: Path) -> None:
    store = Store(path)
    store.begin(CONFIG, term=5)
    assert (store.term, store.next_term(0.0), store.term) == (5, 6, 6)
    store.close()


def test_each_life_has_a_higher_term(store: Store) -> None:
    terms = [store.next_term(0.0), store.next_term(0.0)]
    again = reopened(store)
    assert [*terms, again.next_term(0.0)] == [1, 2, 3]
    again.close()


def test_term_rises_after_a_restored_backup_and_in_a_recreated_run(store: Store, path: Path) -> None:
    store.next_term(1000.2)
    store.close()
    copy = path.read_bytes()
    lives = []
    for _ in range(2):
        later = Store(path)
        lives.append(later.next_term(1000.9))
        later.close()
    path.with_suffix(".commit-marker").unlink()
    path.write_bytes(copy)
    back = Store(path)
    anew = Store(":memory:")
    anew.begin(CONFIG)
    assert (lives, back.next_term(1010.0), anew.next_term(1020.0)) == ([1_000_900, 1_000_901], 1_010_000, 1_020_000)
    back.close()
    anew.close()


def test_empty_commit_and_abandon_do_nothing(store: Store) -> None:
    store.commit()
    store.abandon()
    assert store.config == CONFIG


def test_result_is_saved_once(store: Store) -> None:
    store.save(a_result(1, "bob"))
    with pytest.raises(StoreError, match="UNIQUE"):
        store.save(a_result(1, "bob"))


def test_store_holds_one_run(store: Store) -> None:
    with pytest.raises(StoreError):
        store.begin(CONFIG)
    assert store.config == CONFIG


def test_a_store_in_memory_lives_as_long_as_its_object() -> None:
    store = Store(":memory:")
    store.begin(CONFIG)
    assert store.next_term(0.0) == 1
    store.close()


def test_a_store_in_memory_is_closed_when_its_object_is_collected() -> None:
    connection = Store(":memory:")._connection
    gc.collect()
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        connection.execute("SELECT 1")


# What goes wrong


def test_file_that_is_no_store_is_refused(path: Path) -> None:
    path.write_text("these are notes, and no store at all\n" * 100)
    with pytest.raises(StoreError) as error:
        Store(path)
    assert "not a database" in one_line(error, path)


def test_store_in_a_missing_folder_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "store.sqlite3"
    with pytest.raises(StoreError) as error:
        Store(path)
    one_line(error, path)


def test_store_of_another_schema_is_refused(store: Store, path: Path) -> None:
    store.close()
    change(path, f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(StoreError) as error:
        Store(path)
    assert f"schema {SCHEMA_VERSION}, got {SCHEMA_VERSION + 1}" in one_line(error, path)


def test_store_of_schema_3_is_refused_with_a_way_out(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("CREATE TABLE run (description BLOB, epoch INTEGER); PRAGMA user_version = 3;")
    with pytest.raises(StoreError, match=f"schema {SCHEMA_VERSION}, got 3") as error:
        Store(path)
    assert "with the version of fedmq that wrote it" in one_line(error, path)


@pytest.mark.parametrize("junk", [b"\xc1junk", b"\x01", "text", 7], ids=["no msgpack", "no struct", "text", "number"])
def test_damaged_row_is_refused(store: Store, path: Path, junk: object) -> None:
    store.save(a_result(1, "bob"))
    store.save(a_close(1))
    store.commit()
    for statement in (
        "UPDATE run SET config = ?",
        "UPDATE closes SET summary = ?",
        "UPDATE results SET frames = ?",
    ):
        change(path, statement, junk)
    for read in (lambda: store.config, lambda: list(store.closes()), lambda: list(store.results(1))):
        with pytest.raises(StoreError) as error:
            read()
        assert "not as it was written" in one_line(error, path)


def test_damaged_file_is_refused_by_every_read(store: Store, path: Path) -> None:
    for number in range(1, 40):
        store.save(a_result(number, "bob", size=1000))
        store.save(a_close(number))
    store.commit()
    store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)  # all pages but the first, which says what the tables are
    path.write_bytes(content)
    broken = Store(path)
    reads: list[Callable[[], object]] = [
        lambda: broken.config,
        lambda: list(broken.closes()),
        lambda: list(broken.results(1)),
        lambda: broken.keys_since(0),
        lambda: broken.next_term(0.0),
    ]
    for read in reads:
        with pytest.raises(StoreError) as error:
            read()
        assert "malformed" in one_line(error, path)
    broken.abandon()
    broken.close()


def test_full_disk_is_reported_and_loses_no_committed_record(store: Store, path: Path) -> None:
    store.save(a_result(1, "bob"))
    store.commit()
    (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
    store._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    with pytest.raises(StoreError) as error:
        store.save(a_result(1, "alice", size=BIG))
    assert "full" in one_line(error, path)
    store.abandon()
    store._connection.execute("PRAGMA max_page_count = 1000000")  # there is space again
    store.save(a_result(1, "carol"))
    store.commit()
    again = reopened(store)
    assert again.keys_since(0) == {(1, "bob"), (1, "carol")}
    again.close()


def test_read_only_store_is_reported_on_write(store: Store, path: Path) -> None:
    store._connection.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreError) as error:
        store.next_term(0.0)
    assert "readonly" in one_line(error, path)


def test_store_without_permissions_is_not_called_damaged(store: Store, path: Path) -> None:
    theirs = sqlite3.OperationalError("attempt to write a readonly database")
    theirs.sqlite_errorname = "SQLITE_READONLY_DIRECTORY"  # as root, this test could write it
    with pytest.raises(StoreError) as error, store._errors:
        raise theirs
    assert "as the owner of the folder" in one_line(error, path)
    assert not isinstance(error.value, StoreDamaged)
    assert store.config == CONFIG


# What was changed behind its back


@pytest.mark.parametrize("how", ["removed", "replaced", "with its folder"])
def test_removed_store_is_detected(store: Store, path: Path, how: str) -> None:
    filled(store)
    store.save(a_result(4, "bob"))
    if how == "with its folder":
        shutil.rmtree(path.parent)
    else:
        path.unlink()
    if how == "replaced":
        Store(path).close()
    with pytest.raises(StoreError, match="moved, removed or replaced") as error:
        store.commit()
    assert "is safe" not in one_line(error, path)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE run SET term = 9",
        "UPDATE run SET software = x'91'",
        "UPDATE run SET digest = x'00'",
        "UPDATE results SET trainer = 'carol' WHERE trainer = 'bob' AND round = 2",
        "UPDATE results SET round = 9 WHERE trainer = 'bob' AND round = 2",
        "UPDATE results SET counted_in = 3 WHERE trainer = 'bob' AND round = 2",
        "UPDATE results SET digest = 7 WHERE trainer = 'bob' AND round = 2",
        "DELETE FROM results WHERE trainer = 'bob' AND round = 2",
        "INSERT INTO results SELECT round, 'carol', counted_in, frames, digest FROM results WHERE trainer = 'bob'",
        "UPDATE closes SET before = x'00' WHERE round = 2",
        "UPDATE closes SET before = 'text' WHERE round = 1",
        "UPDATE closes SET digest = x'00' WHERE round = 2",
        "UPDATE closes SET round = round + 1 WHERE round = 3",
        "DELETE FROM closes WHERE round = 2",
        "DELETE FROM closes WHERE round = 3",
        "UPDATE checkpoints SET state = x'00' WHERE round = 4",
        "UPDATE checkpoints SET state = x'00' WHERE round = 2",
        "UPDATE checkpoints SET round = 5 WHERE round = 4",
    ],
)
def test_changed_dropped_or_inserted_row_is_detected(store: Store, path: Path, statement: str) -> None:
    filled(store)
    assert store.verify() == []
    store.close()
    change(path, statement)
    changed = Store(path)
    (problem,) = changed.verify()
    assert problem.startswith(str(path))
    changed.close()


def test_store_replaced_by_an_older_copy_is_detected(store: Store, path: Path) -> None:
    filled(store, rounds=1)
    store.close()
    older = path.read_bytes()
    again = Store(path)
    again.save(a_result(2, "bob"))
    again.commit()
    again.close()
    path.write_bytes(older)
    back = Store(path)
    assert any("the end of its write-ahead log is not as it was written" in line for line in back.verify())
    with pytest.raises(StoreError) as error:
        back.next_term(0.0)
    one_line(error, path)
    back.close()


@pytest.mark.parametrize("said", [None, b"", b"neither figures nor their digest" * 2], ids=["gone", "empty", "junk"])
def test_store_without_its_commit_marker_is_undamaged(store: Store, path: Path, said: bytes | None) -> None:
    filled(store).close()
    commit_marker = path.with_suffix(".commit-marker")
    commit_marker.unlink()
    if said is not None:
        commit_marker.write_bytes(said)
    again = Store(path)
    assert (again.verify(), again.next_term(0.0)) == ([], 1)
    again.close()


# Two processes

WRITER = """
import sys
from fedmq.runs.store import Store
store = Store(sys.argv[1])
print("term", store.next_term(0.0), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def writer(store: Store, path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that writes to the store and has not ended."""
    store.close()
    arguments = [sys.executable, "-c", WRITER, str(path)]
    process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "term 1\n"
    yield process
    process.kill()
    process.communicate(timeout=60)


def test_second_process_may_read_but_not_write(writer: subprocess.Popen[str], path: Path) -> None:
    second = Store(path)
    assert second.config == CONFIG
    with pytest.raises(StoreError, match="expected no other process") as error:
        second.next_term(0.0)
    one_line(error, path)
    second.close()
    assert is_locked(path.parent)


def test_writer_with_the_lock_keeps_others_out_before_its_first_write(path: Path) -> None:
    with FolderLock(path.parent) as lock, Store(path, lock) as first, Store(path) as second:
        with pytest.raises(StoreError, match="expected no other process"):
            second.begin(CONFIG)
        first.begin(CONFIG)
    assert not is_locked(path.parent)


def test_next_writer_may_write_after_a_killed_one(writer: subprocess.Popen[str], path: Path) -> None:
    writer.send_signal(signal.SIGKILL)
    writer.wait(timeout=60)
    assert not is_locked(path.parent)
    after = Store(path)
    assert after.next_term(0.0) == 2
    assert is_locked(path.parent)
    after.close()
    assert not is_locked(path.parent)


def test_a_closed_store_leaves_no_lock(store: Store, path: Path) -> None:
    store.close()
    folder = os.open(path.parent, os.O_RDONLY)
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(folder)
