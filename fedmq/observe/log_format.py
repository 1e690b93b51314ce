"""The format of log lines: one printable line each, and the lines of a traceback below it, indented."""

import logging
from typing import Any

from fedmq.runtime.printable import printable


class LogFormatter(logging.Formatter):
    """Formats a record as one printable line, whatever its arguments hold."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - its name in the standard library
        return printable(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:  # noqa: N802 - its name in the standard library
        return "\n".join(f"  {printable(line)}" for line in super().formatException(ei).split("\n"))
