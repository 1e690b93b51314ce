"""Factories of PyTorch modules that a task file on this machine names: FILE.py:NAME or package.module:NAME."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from fedmq.errors import BadConfiguration, named
from fedmq.runtime.python_file import run_file


def factory_of(spec: str) -> Callable[[], Any]:
    """Return the factory; the file is run, the module imported. Never call this with a name from the network.

    Raises:
        BadConfiguration: no such file, module or function.
    """
    where, _, name = spec.rpartition(":")
    if not where or not name:
        raise BadConfiguration(f"factory: expected FILE.py:NAME or package.module:NAME, got {spec!r:.80}")
    if where.endswith(".py"):
        found = run_file(Path(where), "that defines the factory of a model").get(name)
    else:
        try:
            found = getattr(import_module(where), name, None)
        except (Exception, SystemExit) as error:
            raise BadConfiguration(f"factory {spec}: expected a module to import, got {named(error)}") from error
    if not callable(found):
        raise BadConfiguration(f"factory {spec}: expected a function {name}() that returns an nn.Module, got none")
    return found
