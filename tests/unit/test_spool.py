"""The trainer's spool: files of pending results are complete, or skipped."""

from __future__ import annotations

import logging
import os
import shutil
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fedmq.errors import BadConfiguration
from fedmq.protocol import topics
from fedmq.protocol.codec import encode
from fedmq.protocol.messages import Accepted, Message
from fedmq.trainer.high_water_marks import HighWaterMark
from fedmq.trainer.machine import PendingResult
from fedmq.trainer.spool import SEEN_SUFFIX, SUFFIX, FileSpool

SAMPLES = 2
MODEL_DIGEST = bytes(range(32))
ARRAYS = {"model": np.array([0.1, -0.0, 1e-300]), "correct": np.array([2], dtype=np.int64)}


def result(run: str = "run", round: int = 5, term: int = 3, num_examples: int = SAMPLES) -> PendingResult:
    return PendingResult(run, term, round, ARRAYS, 0.25, num_examples, MODEL_DIGEST, 7)


@pytest.fixture
def spool(tmp_path: Path) -> FileSpool:
    return FileSpool(tmp_path / "spool")


def files(spool: FileSpool) -> list[str]:
    return sorted(path.name for path in spool._folder.iterdir() if path.suffix == SUFFIX)


# Files


def test_stored_result_is_loaded_bit_for_bit(spool: FileSpool, tmp_path: Path) -> None:
    spool.keep(result(), "bob")
    (kept,) = FileSpool(tmp_path / "spool").load("bob", SAMPLES)
    assert kept._replace(arrays={}) == result()._replace(arrays={})
    assert {name: (array.dtype, array.tobytes()) for name, array in kept.arrays.items()} == {
        name: (array.dtype, array.tobytes()) for name, array in ARRAYS.items()
    }


def test_dropped_result_is_gone_and_can_be_dropped_again(spool: FileSpool) -> None:
    spool.keep(result(round=5), "bob")
    spool.keep(result(round=6), "bob")
    for _ in range(2):
        spool.drop("run", 5)
    assert [kept.round for kept in spool.load("bob", SAMPLES)] == [6]


def test_runs_and_rounds_have_separate_files(spool: FileSpool) -> None:
    wanted = [("a", 1), ("a", 11), ("a.1", 1), ("a.1", 11), ("a-1.result", 1)]
    for run, number in wanted:
        spool.keep(result(run, number), "bob")
    assert sorted((kept.run, kept.round) for kept in spool.load("bob", SAMPLES)) == sorted(wanted)


def test_recomputed_result_replaces_the_first(spool: FileSpool) -> None:
    spool.keep(result(term=3), "bob")
    spool.keep(result(term=4), "bob")
    assert [kept.term for kept in spool.load("bob", SAMPLES)] == [4]
    assert files(spool) == [f"run.5{SUFFIX}"]


def test_every_corruption_is_detected_and_skips_only_that_file(
    spool: FileSpool, caplog: pytest.LogCaptureFixture
) -> None:
    for number in (5, 6):
        spool.keep(result(round=number), "bob")
    path = spool._folder / f"run.5{SUFFIX}"
    whole = path.read_bytes()
    flipped = [whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in range(len(whole))]
    for damaged in [*flipped, *(whole[:length] for length in range(len(whole))), whole + b"\0"]:
        path.write_bytes(damaged)
        caplog.clear()
        assert [kept.round for kept in spool.load("bob", SAMPLES)] == [6]
        (line,) = caplog.messages
        assert str(path) in line
        assert "\n" not in line


def test_result_of_held_out_rows_is_loaded_by_a_trainer_of_the_same_rows(spool: FileSpool) -> None:
    assert spool.load("bob", 10) == []
    spool.keep(result(num_examples=3), "bob")
    restarted = FileSpool(spool._folder)
    assert [kept.num_examples for kept in restarted.load("bob", 10)] == [3]
    assert restarted.load("bob", 3) == []


def sign_again(path: Path, frames: list[bytes]) -> None:
    """Write frames into a file of the spool with a valid SHA-256."""
    content = msgspec.msgpack.encode({"key": "", "frames": frames})
    path.write_bytes(sha256(content).digest() + content)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (result().result("eve", 3), "names: "),
        (result(num_examples=3).result("bob", 3), "got 3"),
        (Accepted(run="run", term=3, trainer="bob", round=5), "expected no arrays"),
    ],
    ids=["of another trainer", "of other rows", "no result"],
)
def test_result_of_another_trainer_or_other_rows_is_skipped(
    spool: FileSpool, caplog: pytest.LogCaptureFixture, message: Message, reason: str
) -> None:
    sign_again(spool._folder / f"run.5{SUFFIX}", encode("up/run", message, ARRAYS))
    assert spool.load("bob", SAMPLES) == []
    assert reason in caplog.text


def test_invalid_frames_are_skipped(spool: FileSpool, caplog: pytest.LogCaptureFixture) -> None:
    sign_again(spool._folder / f"run.5{SUFFIX}", [b"up/run", b"no header", b""])
    (spool._folder / f"folder{SUFFIX}").mkdir()
    assert spool.load("bob", SAMPLES) == []
    assert len(caplog.messages) == 2


def test_partial_file_of_a_crash_is_no_result(spool: FileSpool) -> None:
    spool.keep(result(), "bob")
    (spool._folder / f"run.5{SUFFIX}").rename(spool._folder / "run.5.partial")
    assert spool.load("bob", SAMPLES) == []


def test_file_is_complete_and_synced_before_it_is_renamed(spool: FileSpool, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    replace, fsync = Path.replace, os.fsync

    def spied_fsync(descriptor: int) -> None:
        order.append(f"sync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def spied_replace(self: Path, target: Path) -> Path:
        order.append(f"rename to {target.name}")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", spied_fsync)
    monkeypatch.setattr(Path, "replace", spied_replace)
    spool.keep(result(), "bob")
    assert order == [f"sync run.5{SUFFIX}.partial", f"rename to run.5{SUFFIX}", f"sync {spool._folder.name}"]
    order.clear()
    spool.mark(HighWaterMark("run", 3, 0))  # what is older than that is a replay, also after a power cut
    assert order == [f"sync run{SEEN_SUFFIX}.partial", f"rename to run{SEEN_SUFFIX}", f"sync {spool._folder.name}"]


def test_full_disk_is_logged_and_leaves_no_partial_file(
    spool: FileSpool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    spool.keep(result(), "bob")
    (line,) = caplog.messages
    assert line.endswith("cannot be written (No space left on device); the result is in memory only")
    assert files(spool) == []


def test_missing_folder_is_logged(spool: FileSpool, caplog: pytest.LogCaptureFixture) -> None:
    shutil.rmtree(spool._folder)
    spool.keep(result(), "bob")
    assert "No such file or directory" in caplog.text
    spool.drop("run", 5)
    assert spool.load("bob", SAMPLES) == []


def test_failed_removal_is_logged(spool: FileSpool, caplog: pytest.LogCaptureFixture) -> None:
    (spool._folder / f"run.5{SUFFIX}").mkdir()
    spool.drop("run", 5)
    assert "cannot be removed" in caplog.text


def test_folder_that_cannot_be_created_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadConfiguration, match=r"^--state [^\n]*file/bob: cannot be written [^\n]*; choose another$"):
        FileSpool(tmp_path / "file" / "bob")


def test_file_has_the_topic_of_the_message(spool: FileSpool) -> None:
    """The file is self-describing."""
    spool.keep(result(), "bob")
    assert (topics.UP + "run").encode() in (spool._folder / f"run.5{SUFFIX}").read_bytes()


def test_spool_logs_nothing_without_errors(spool: FileSpool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    spool.keep(result(), "bob")
    spool.load("bob", SAMPLES)
    spool.drop("run", 5)
    assert caplog.messages == []
