"""Somebody's own Python file, run by the process of whoever names it: the names that it defines.

Knows nothing of what they are for.
"""

from __future__ import annotations

import runpy
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fedmq.errors import BadConfiguration, named


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """While this holds, somebody's Python file finds the modules beside it, as when it is started by itself."""
    place = str(folder.resolve())
    sys.path.insert(0, place)
    try:
        yield
    finally:
        if place in sys.path:
            sys.path.remove(place)


def run_file(path: Path) -> Mapping[str, object]:
    """The names that a Python file defines.

    Raises:
        BadConfiguration: there is no such file, or it fails.
    """
    if not path.is_file():
        raise BadConfiguration(f"{path}: expected a Python file that defines `task`, got no such file: check the path")
    try:
        with importable(path.parent):
            return runpy.run_path(str(path))
    except BadConfiguration as error:
        raise BadConfiguration(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:
        raise BadConfiguration(f"{path}: expected a file that runs, got {named(error)}") from error
