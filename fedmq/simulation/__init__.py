"""A federation in one process: the services on an in-memory network and on virtual time.

`Federation` is loaded when it is first used: it needs all services, and `fedmq.testing` needs only the network.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fedmq.simulation.federation import AGGREGATOR, RUN, Federation

__all__ = ["AGGREGATOR", "RUN", "Federation"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("fedmq.simulation.federation"), name)
