"""The fakes that fedmq is tested with, for your tests too: an in-memory network and a virtual clock.

A whole federation runs on one thread, in memory and on virtual time; the same service classes run on ZeroMQ.

>>> simulation = Simulation(seed=1)
>>> simulation.at(2.0, lambda: print("two virtual seconds, at once"))
>>> simulation.run(until=lambda: simulation.clock.now() >= 2.0, limit_s=10.0)
two virtual seconds, at once
True
"""

from fedmq.algorithms.conformance import NonConforming, check_algorithm
from fedmq.runtime.loop import Node
from fedmq.simulation.clock import VirtualClock
from fedmq.simulation.network import Faults, NodeCrashed, Simulation
from fedmq.simulation.worker import VirtualWorker
from fedmq.testing.runs import run_config, run_started

__all__ = [
    "Faults",
    "Node",
    "NodeCrashed",
    "NonConforming",
    "Simulation",
    "VirtualClock",
    "VirtualWorker",
    "check_algorithm",
    "run_config",
    "run_started",
]
