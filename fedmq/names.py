"""Valid names of runs, trainers and tasks."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z"
Name = Annotated[str, Meta(pattern=NAME_PATTERN, max_length=64)]  # of a run, trainer or task: fits in topics and paths
