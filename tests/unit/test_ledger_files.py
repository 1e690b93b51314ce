"""Ledgers of secure sums on disk: what was answered is known after a kill, or the run is declined."""

from __future__ import annotations

import stat
from hashlib import sha256
from pathlib import Path

import pytest
from msgspec.structs import replace

from fedmq.errors import Rejected
from fedmq.secure_sums.ledger import Entry, Ledger
from fedmq.secure_sums.messages import ListSignature, MaskedInput, RevealedShares
from fedmq.trainer import ledger_files
from fedmq.trainer.ledger_files import LedgerFile
from fedmq.trainer.spool import FileSpool

SIGNATURE, SHARES = bytes(64), (bytes(33),) * 3


def entries(number: int) -> tuple[Entry, Entry, Entry]:
    """What a trainer saves in one sum: its answer, its signature, its shares."""
    question, name = bytes([number]) * 32, bytes([100 + number]) * 32
    answer = Entry(question, name, (1, number), MaskedInput(name, bytes([number]) * 800))
    signed = replace(answer, answer=None, survivors=b"\x07", signature=ListSignature(name, SIGNATURE))
    return answer, signed, replace(signed, shares=RevealedShares(name, SHARES))


def journal(folder: Path, *numbers: int, key: str = "key") -> LedgerFile:
    file = LedgerFile(folder, "run")
    for number in numbers:
        for entry in entries(number):
            file.append(entry, key)
    return file


def loaded(folder: Path, key: str = "key") -> Ledger:
    return LedgerFile(folder, "run").load(key)


def test_ledger_is_the_same_after_a_restart(tmp_path: Path) -> None:
    file = journal(tmp_path, 1, 2)
    answer, *_ = entries(3)
    file.append(answer, "key")
    ledger = loaded(tmp_path)
    assert ledger.spent == {bytes([1]) * 32, bytes([2]) * 32}
    assert ledger.last == answer
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


def test_last_entry_has_the_messages_of_all_its_steps(tmp_path: Path) -> None:
    journal(tmp_path, 1)
    answer, _, shown = entries(1)
    assert loaded(tmp_path).last == replace(shown, answer=answer.answer)


def test_incomplete_record_at_the_end_is_dropped_and_the_journal_goes_on(tmp_path: Path) -> None:
    file = journal(tmp_path, 1)
    whole = file.path.read_bytes()
    for size in range(len(whole) - 1, 0, -37):
        file.path.write_bytes(whole[:size])
        again = LedgerFile(tmp_path, "run")
        again.load("key")
        again.append(entries(2)[0], "key")
        assert loaded(tmp_path).last == entries(2)[0]
    file.path.write_bytes(whole + bytes(200))  # as some file systems do after a power cut
    assert loaded(tmp_path).spent
    assert file.path.read_bytes() == whole


def test_damaged_journal_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = journal(tmp_path, 1, 2)
    whole = file.path.read_bytes()
    for place in (1, 5, 40, 600, len(whole) - 1):
        file.path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(Rejected):
            loaded(tmp_path)
    spool = FileSpool(tmp_path, "key")
    assert spool.ledgers() == [("run", None)]
    assert "damaged" in caplog.text
    length = (1).to_bytes(4, "big")
    file.path.write_bytes(length + sha256(length).digest()[:4] + sha256(b"\x01").digest() + b"\x01")
    with pytest.raises(Rejected, match="malformed"):
        loaded(tmp_path)


def test_limits_hold_before_a_journal_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal(tmp_path, 1)
    monkeypatch.setattr(ledger_files, "FILE_BYTES_MAX", 100)
    with pytest.raises(OSError, match="more than 100 bytes"):
        loaded(tmp_path)


def test_long_journal_is_written_anew_and_knows_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_files, "GROWN_BYTES", 5_000)
    file = journal(tmp_path, *range(1, 40))
    assert file.path.stat().st_size < 2 * (40 * 34 + 1500) + 5_000
    assert len(loaded(tmp_path).spent) == 39
    assert loaded(tmp_path).last == replace(entries(39)[2], answer=entries(39)[0].answer)


def test_terms_of_another_key_of_the_aggregator_have_no_order(tmp_path: Path) -> None:
    journal(tmp_path, 9, key="stolen")
    ledger = loaded(tmp_path, "honest")
    ledger.check(bytes(32), (1, 1))
    assert ledger.spent == {bytes([9]) * 32}


def test_entry_that_cannot_be_written_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    spool = FileSpool(tmp_path / "state", "key")
    assert spool.record("run", entries(1)[0])
    path = tmp_path / "state" / "run.ledger"
    path.rename(path.with_suffix(".kept"))
    path.mkdir()
    assert not spool.record("run", entries(1)[1])
    assert "declined until a restart" in caplog.text
    path.rmdir()
    assert spool.record("run", None), "deleted"
    assert FileSpool(tmp_path / "state", "key").ledgers() == []


def test_answers_and_shares_are_synced_and_signatures_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    monkeypatch.setattr(ledger_files.os, "fsync", synced.append)
    journal(tmp_path, 1)
    assert len(synced) == 3, "and the folder of a new file"
