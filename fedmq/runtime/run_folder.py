"""Where runs are, what the files in a run's folder are called, and what it means when one cannot be written.

Knows nothing of what is in them: each is written by its own module, and read by whoever looks at a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedmq.errors import StoreError

RUNS = Path("runs")  # unless it is said
STORE = "store.sqlite3"
EVENTS = "events.jsonl"
REPORT = "report.json"
MODEL = "model.npz"
HISTORY = "history.csv"
FIGURE = "history.png"


def folder_of(run: str) -> Path:
    """The folder of a run that is given as such, or by its name below `RUNS`."""
    return Path(run) if "/" in run or Path(run).is_dir() else RUNS / run


@contextmanager
def writing_run_file(path: Path) -> Iterator[None]:
    """Whatever keeps a run's file from being written is a StoreError, in one line with a way out."""
    try:
        yield
    except FileNotFoundError as error:
        raise StoreError(
            f"{path}: cannot be written, its folder was moved or removed, and what was acknowledged went with it: "
            "move it back, or put a copy of the folder back, and start the same command again"
        ) from error
    except OSError as error:
        raise StoreError(
            f"{path}: cannot be written ({error.strerror}); what was acknowledged is safe: "
            "make room and start the same command again"
        ) from error
