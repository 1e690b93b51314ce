"""The module search path: a file of the user must not replace a module of the standard library.

Processes of fedmq start in the user's folder, where a file may be called `random.py`. This module imports only what
every interpreter has already loaded, so that it can run before any other import.
"""

import os
import sys

_STANDARD_LIBRARY = os.path.dirname(os.__file__)  # noqa: PTH120  pathlib would import other modules


def python_path() -> list[str]:
    """Return the folders of PYTHONPATH as absolute paths."""
    folders = os.environ.get("PYTHONPATH", "")
    return [os.path.abspath(folder) for folder in folders.split(os.pathsep)] if folders else []  # noqa: PTH100


def move_user_folders_last() -> None:
    """Move PYTHONPATH and the script's or working folder behind all other entries. Call it once, at the very start."""
    own = set(python_path())
    if not sys.flags.safe_path:
        own.add(sys.path[0])
    sys.path[:] = [path for path in sys.path if path not in own] + [path for path in sys.path if path in own]


def user_first(folder: str) -> list[str]:
    """Return the search path for user code in `folder`: standard library, the folder, PYTHONPATH, all others.

    The standard library stays first: numpy and fedmq import parts of it late.
    """
    standard = [_STANDARD_LIBRARY, os.path.join(_STANDARD_LIBRARY, "lib-dynload")]  # noqa: PTH118
    user = [folder, *python_path()]
    first = [path for path in sys.path if path in standard]
    return [*first, *user, *(path for path in sys.path if path not in {*standard, *user})]
