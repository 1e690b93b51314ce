"""Run a Python file of the user and return the names that it defines."""

import runpy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fedmq.errors import BadConfiguration, named
from fedmq.runtime import search_path


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let user code import the modules in `folder`, ahead of installed ones; see `search_path.user_first`."""
    before = list(sys.path)
    user_first = search_path.user_first(str(folder.resolve()))
    sys.path[:] = user_first
    try:
        yield
    finally:
        sys.path[:] = [*(path for path in sys.path if path not in user_first), *before]  # what the code added stays


def run_file(path: Path, what: str = "that defines `task`") -> Mapping[str, object]:
    """Return the names that a Python file defines.

    Raises:
        BadConfiguration: the file does not exist or fails.
    """
    if not path.is_file():
        raise BadConfiguration(f"{path}: expected a Python file {what}, got no such file: check the path")
    try:
        with importable(path.parent):
            return runpy.run_path(str(path))
    except BadConfiguration as error:
        raise BadConfiguration(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:
        raise BadConfiguration(f"{path}: expected a file that runs, got {named(error)}") from error
