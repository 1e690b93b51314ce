"""Log lines in the journal of systemd, with run, round and trainer as fields: `journalctl ROUND=3` finds round 3.

Uses the journal's native protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL/).
"""

import logging
import os
import socket
import struct
import sys
from collections.abc import Mapping
from pathlib import Path

SOCKET = Path("/run/systemd/journal/socket")
FIELDS = ("run", "round", "trainer")  # of `extra` of a log line
VALUE_BYTES_MAX = 16 << 10  # a datagram must fit into the socket's buffer
PRIORITIES = ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))  # syslog(3)
DEBUG_PRIORITY = 7


def is_journal(descriptor: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether this descriptor is connected to the journal: $JOURNAL_STREAM holds its device and inode."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


class JournalHandler(logging.Handler):
    """Writes log lines to the journal, or to stderr if that fails."""

    def __init__(self, path: Path = SOCKET) -> None:
        super().__init__()
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def emit(self, record: logging.LogRecord) -> None:
        message = self.format(record)
        priority = next((number for level, number in PRIORITIES if record.levelno >= level), DEBUG_PRIORITY)
        fields = {"MESSAGE": message, "PRIORITY": priority, "SYSLOG_IDENTIFIER": "fedmq", "LOGGER": record.name}
        fields |= {name.upper(): getattr(record, name) for name in FIELDS if hasattr(record, name)}
        try:
            self._socket.sendto(b"".join(_field(name, str(value)) for name, value in fields.items()), str(self._path))
        except OSError:
            print(message, file=sys.stderr)

    def close(self) -> None:
        self._socket.close()
        super().close()


def _field(name: str, value: str) -> bytes:
    """Return a field with the length of its value, so that a line break in it starts no other field."""
    data = value.encode(errors="replace")[:VALUE_BYTES_MAX]
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(data)), data)
