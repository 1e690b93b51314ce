"""Large frames as files: whole or absent, named by their digest, and removed once no row names them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from store_scene import CONFIG, a_close, one_line, reopened

from fedmq.errors import StoreError
from fedmq.runs.blobs import BLOB_BYTES, Blobs
from fedmq.runs.records import Checkpoint, StoredResult
from fedmq.runs.store import Store

LARGE = b"large" * BLOB_BYTES


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs(tmp_path / "blobs")


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "blobs").glob("*"))


def name_of(blob: bytes) -> bytes:
    return sha256(blob).digest()


def test_small_frames_stay_in_the_row(blobs: Blobs, tmp_path: Path) -> None:
    assert blobs.keep([b"", b"small", b"x" * BLOB_BYTES]) == [b"", b"small", b"x" * BLOB_BYTES]
    assert not (tmp_path / "blobs").exists()


def test_large_frame_becomes_a_file_named_by_its_digest(blobs: Blobs, tmp_path: Path) -> None:
    assert blobs.keep([b"small", LARGE]) == [b"small", [name_of(LARGE)]]
    assert blobs.read(name_of(LARGE)) == LARGE
    assert [file.name for file in files(tmp_path)] == [name_of(LARGE).hex()], "and nothing half written"


def test_blob_and_its_folder_are_synced(blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    blobs.keep([LARGE])
    (file,) = files(tmp_path)
    assert synced == [path.stat().st_ino for path in (tmp_path, file, file.parent)]


def test_same_frame_is_written_once(blobs: Blobs, tmp_path: Path) -> None:
    blobs.keep([LARGE])
    before = files(tmp_path)[0].stat().st_ino
    blobs.keep([LARGE, LARGE])
    assert [file.stat().st_ino for file in files(tmp_path)] == [before]


def test_damaged_blob_is_written_again(blobs: Blobs, tmp_path: Path) -> None:
    blobs.keep([LARGE])
    files(tmp_path)[0].write_bytes(LARGE[:-1])
    assert blobs.read(name_of(LARGE)) is None
    blobs.keep([LARGE])
    assert blobs.read(name_of(LARGE)) == LARGE


def test_missing_blob_reads_as_none(blobs: Blobs) -> None:
    assert blobs.read(name_of(LARGE)) is None


def test_partial_blob_of_a_crash_is_replaced(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / f"{name_of(LARGE).hex()}.partial").write_bytes(LARGE[:100])
    assert blobs.read(name_of(LARGE)) is None
    blobs.keep([LARGE])
    assert blobs.read(name_of(LARGE)) == LARGE


def test_unnamed_and_partial_blobs_are_removed(blobs: Blobs, tmp_path: Path) -> None:
    other = LARGE[::-1]
    blobs.keep([LARGE, other])
    (tmp_path / "blobs" / "half.partial").write_bytes(b"half")
    blobs.drop_all_but({name_of(other)})
    assert [file.name for file in files(tmp_path)] == [name_of(other).hex()]


def test_removal_without_a_folder_does_nothing(blobs: Blobs) -> None:
    blobs.drop_all_but(set())


def test_unwritable_blob_is_reported(blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("a file where the folder should be")
    with pytest.raises(StoreError) as error:
        blobs.keep([LARGE])
    assert "cannot be written" in one_line(error, tmp_path / "blobs")


# In a store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.sqlite3"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    opened = Store(path)
    opened.begin(CONFIG)
    yield opened
    opened.close()


def a_large_result(round: int, fill: bytes = b"a") -> StoredResult:
    """One frame that is a file, and one of the largest size that is none."""
    return StoredResult(round, "bob", round, [b"up/run/", fill * (BLOB_BYTES + 1), fill * BLOB_BYTES])


def test_frame_over_the_limit_is_read_back_from_its_file(store: Store, path: Path) -> None:
    store.save(a_large_result(1))
    store.commit()
    again = reopened(store)
    assert list(again.results(1)) == [a_large_result(1)]
    assert [file.stat().st_size for file in (path.parent / "blobs").iterdir()] == [BLOB_BYTES + 1]
    again.close()


@pytest.mark.parametrize("content", [None, b"cut"], ids=["missing", "another"])
def test_changed_or_missing_blob_is_detected(store: Store, path: Path, content: bytes | None) -> None:
    store.save(a_large_result(1))
    store.commit()
    (blob,) = (path.parent / "blobs").iterdir()
    blob.unlink()
    if content is not None:
        blob.write_bytes(content)
    with pytest.raises(StoreError, match="a file of the result of bob in round 1 is not as it was written") as error:
        list(store.results(1))
    assert [one_line(error, path).partition("; fedmq runs verify")[0]] == store.verify()


def test_store_in_memory_keeps_large_frames() -> None:
    store = Store(":memory:")
    store.save(a_large_result(1))
    assert list(store.results(1)) == [a_large_result(1)]
    store.close()


def test_dropped_records_free_their_space(store: Store, path: Path) -> None:
    for number in (1, 2):
        store.save(a_large_result(number, fill=b"%d" % number))
        store.save(a_close(number))
    store.save(Checkpoint(2, b"state"))
    store.commit()
    before = list((path.parent / "blobs").iterdir())
    assert store.keep_last(1) == 1
    store.shrink()
    again = reopened(store)
    assert again.verify() == []
    again.close()
    assert (len(before), len(list((path.parent / "blobs").iterdir()))) == (2, 1)
    assert path.stat().st_size < 2 * BLOB_BYTES, "each result left a frame of this size in the store"
