"""Schedules of faults drawn from a seed: kind, target, time and length of each.

The same seed, length and number of faults give the same schedule.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedmq.runtime.rng import derive_rng

BROKER, AGGREGATOR, ALL = "broker", "aggregator", "all"
TRAINERS = tuple(f"trainer-{number}" for number in range(1, 6))
EDGES = (AGGREGATOR, *TRAINERS)  # they connect through a proxy
LONG_SHARE = 0.1  # of pauses and cuts, which last longer than PAUSE_S
PAUSE_S = (1.0, 4.0)
PAUSE_MAX_S = 30.0
REST_S = (0.1, 1.5)  # between an end and the next start
TROUBLE_S = (1.0, 4.0)  # of a slow or late link
STALLED_S = (15.0, 15.0)  # longer than libzmq waits for heartbeats


class Kind(NamedTuple):
    """A kind of fault: at least once in a schedule, then with a frequency by its weight."""

    name: str
    targets: tuple[str, ...]
    seconds: tuple[float, float]
    weight: float


KINDS = (
    Kind("kill all", (ALL,), REST_S, 0.5),
    Kind("kill broker", (BROKER,), REST_S, 1.5),
    Kind("kill aggregator", (AGGREGATOR,), REST_S, 1.5),
    Kind("kill trainer", TRAINERS, REST_S, 4.0),
    Kind("sigterm broker", (BROKER,), REST_S, 1.0),
    Kind("sigterm aggregator", (AGGREGATOR,), REST_S, 1.0),
    Kind("sigterm trainer", TRAINERS, REST_S, 3.0),
    Kind("pause broker", (BROKER,), PAUSE_S, 0.5),
    Kind("pause aggregator", (AGGREGATOR,), PAUSE_S, 0.5),
    Kind("pause trainer", TRAINERS, PAUSE_S, 4.0),
    Kind("late link", EDGES, TROUBLE_S, 3.0),
    Kind("slow link", EDGES, TROUBLE_S, 3.0),
    Kind("drop connections", EDGES, (0.0, 0.0), 3.0),
    Kind("cut up", EDGES, PAUSE_S, 2.0),
    Kind("cut down", EDGES, PAUSE_S, 2.0),
    Kind("cut both ways", EDGES, PAUSE_S, 2.0),
    Kind("many connections", (BROKER,), TROUBLE_S, 1.0),
    Kind("stalled reader", EDGES, STALLED_S, 0.5),
    Kind("wrong task", (ALL,), TROUBLE_S, 0.5),
    Kind("full disk", (AGGREGATOR,), (0.2, 0.5), 0.3),
    Kind("damaged copy", (AGGREGATOR,), REST_S, 0.5),
    Kind("damaged store", (AGGREGATOR,), REST_S, 0.3),
)


class Fault(NamedTuple):
    """One fault, `at_s` after the start, for `seconds`; `draw` seeds its other random choices."""

    at_s: float
    kind: str
    target: str
    seconds: float
    draw: int


def draw_schedule(seed: int, seconds: float, count: int) -> list[Fault]:
    """Draw `count` faults over `seconds`, ordered by time; every kind occurs if `count` allows."""
    generator = derive_rng(seed, "chaos", count)
    once = [KINDS[index] for index in generator.permutation(len(KINDS))][:count]
    weights = np.array([kind.weight for kind in KINDS])
    more = generator.choice(len(KINDS), max(0, count - len(KINDS)), p=weights / weights.sum())
    kinds = [*once, *(KINDS[index] for index in more)]
    slots = (np.arange(count) + generator.random(count)) * seconds / count
    order = generator.permutation(count)
    return [_fault(float(at_s), kinds[index], seconds, generator) for at_s, index in zip(slots, order, strict=True)]


def _fault(at_s: float, kind: Kind, total_s: float, generator: np.random.Generator) -> Fault:
    target = kind.targets[generator.integers(len(kind.targets))]
    seconds = generator.uniform(*kind.seconds)
    if kind.seconds == PAUSE_S and generator.random() < LONG_SHARE:
        seconds = generator.uniform(PAUSE_S[1], PAUSE_MAX_S)
    return Fault(at_s, kind.name, target, min(float(seconds), total_s / 4), int(generator.integers(2**31)))
