"""Names of runs, trainers and tasks: which are valid, and those that trainers get without asking."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from msgspec import Meta

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"
Name = Annotated[str, Meta(pattern=NAME_PATTERN, max_length=64)]  # of a run, trainer or task: fits in topics and paths
OWN_NAMES = ("alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi")


def own_names(count: int) -> list[str]:
    """Return the names of so many trainers that share a task's own rows."""
    return list(OWN_NAMES[:count]) if count <= len(OWN_NAMES) else [f"trainer-{place + 1}" for place in range(count)]


def names_of_sources(sources: Sequence[str]) -> list[str]:
    """Return a name for the trainer of each source: of its file, else of its folder and file, else a number."""
    paths = [Path(source) for source in sources]
    for candidates in (
        [name_of_file(path) for path in paths],
        [f"{name_of_file(path.parent)}-{name_of_file(path)}" for path in paths],
    ):
        if len(set(candidates)) == len(sources) and all(re.match(NAME_PATTERN, name) for name in candidates):
            return candidates
    return [f"trainer-{number}" for number in range(1, len(sources) + 1)]


def name_of_file(path: Path) -> str:
    """Return the name of a file without suffixes, in the characters of names."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", path.name.split(".")[0]).strip("-")
