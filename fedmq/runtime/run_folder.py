"""The folder of a run: its place, the names of its files, and the error when one cannot be written."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmq.errors import StoreError

RUNS = Path("runs")  # the default
STORE = "store.sqlite3"
EVENTS = "events.jsonl"
REPORT = "report.json"
MODEL = "model.npz"
RESULT = "result.json"  # what was found beside the model
HISTORY = "history.csv"
FIGURE = "history.png"
_UNSAFE = (errno.ELOOP, errno.EINVAL, errno.EPERM)  # a link, no regular file, of another user


def folder_of(run: str) -> Path:
    """Return the folder of a run, given as a path or as a name below `RUNS`."""
    return Path(run) if "/" in run or Path(run).is_dir() else RUNS / run


@contextmanager
def writing_run_file(path: Path) -> Iterator[None]:
    """Translate an OSError while a file of a run is written into a StoreError, in one line with a way out."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(
            f"{path}: cannot be written, its folder was moved or removed, and the acknowledged results with it: "
            "move it back, or put a copy of the folder back, and start the same command again"
        ) from error
    except OSError as error:
        way_out = "move it away" if error.errno in _UNSAFE else "make room"
        raise StoreError(
            f"{path}: cannot be written ({error.strerror}); acknowledged results are safe: "
            f"{way_out} and start the same command again"
        ) from error
