"""Log lines for the journal: fields, priorities, and a journal that is missing."""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from fedmq.runtime.journal import VALUE_BYTES_MAX, JournalHandler, is_journal


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    """The socket of the journal."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end:
        end.bind(str(tmp_path / "socket"))
        end.settimeout(0)
        yield end


@pytest.fixture
def log(tmp_path: Path) -> Iterator[logging.Logger]:
    """A logger that writes only to the journal."""
    logger, handler = logging.getLogger("fedmq.test"), JournalHandler(tmp_path / "socket")
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    yield logger
    logger.removeHandler(handler)
    handler.close()


def entry(journal: socket.socket) -> dict[str, str]:
    """Return the fields of the next datagram."""
    rest, fields = journal.recv(1 << 20), {}
    while rest:
        name, _, rest = rest.partition(b"\n")
        (size,) = struct.unpack_from("<Q", rest)
        fields[name.decode()] = rest[8 : 8 + size].decode()
        assert rest[8 + size : 9 + size] == b"\n"
        rest = rest[9 + size :]
    return fields


def test_line_has_run_round_and_trainer_as_fields(journal: socket.socket, log: logging.Logger) -> None:
    log.info("round %s closed", 3, extra={"run": "xor-1", "round": 3, "trainer": "alice"})
    assert entry(journal) == {
        "MESSAGE": "round 3 closed",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "fedmq",
        "LOGGER": "fedmq.test",
        "RUN": "xor-1",
        "ROUND": "3",
        "TRAINER": "alice",
    }


def test_line_without_extra_has_no_such_fields(journal: socket.socket, log: logging.Logger) -> None:
    log.warning("the broker is gone")
    assert {"RUN", "ROUND", "TRAINER"}.isdisjoint(entry(journal))


@pytest.mark.parametrize(
    ("level", "priority"),
    [("DEBUG", "7"), ("INFO", "6"), ("WARNING", "4"), ("ERROR", "3"), ("CRITICAL", "2")],
)
def test_level_becomes_a_syslog_priority(
    level: str, priority: str, journal: socket.socket, log: logging.Logger
) -> None:
    log.log(logging.getLevelName(level), "x")
    assert entry(journal)["PRIORITY"] == priority


def test_line_break_starts_no_field(journal: socket.socket, log: logging.Logger) -> None:
    log.info("one\nPRIORITY=0\n", extra={"run": "a\nROUND=1"})
    fields = entry(journal)
    assert (fields["MESSAGE"], fields["RUN"]) == ("one\nPRIORITY=0\n", "a\nROUND=1")
    assert "ROUND" not in fields


def test_exception_is_logged_with_its_traceback(journal: socket.socket, log: logging.Logger) -> None:
    try:
        raise ValueError("no")
    except ValueError:
        log.exception("it failed")
    assert entry(journal)["MESSAGE"].startswith("it failed\nTraceback")


def test_long_line_is_truncated(journal: socket.socket, log: logging.Logger) -> None:
    log.info("x" * (VALUE_BYTES_MAX + 1))
    assert len(entry(journal)["MESSAGE"]) == VALUE_BYTES_MAX


def test_line_that_the_journal_rejects_goes_to_stderr(
    tmp_path: Path, log: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    log.info("no journal")
    assert capsys.readouterr().err == "no journal\n"


def test_stream_in_the_environment_is_the_journal(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        status = os.fstat(file.fileno())
        stream = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert is_journal(file.fileno(), stream)
        assert not is_journal(file.fileno(), {})
        assert not is_journal(file.fileno(), {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
    assert not is_journal(10_000, stream)  # which is not open
