"""Schedules of faults, drawn from a seed: what happens to whom, when, and for how long.

Knows nothing of processes or of how a fault is done. The same seed, length and number give the same schedule.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from fedmq.runtime.rng import derive_rng

BROKER, AGGREGATOR, EVERYBODY = "broker", "aggregator", "everybody"
TRAINERS = tuple(f"trainer-{number}" for number in range(1, 6))
EDGES = (AGGREGATOR, *TRAINERS)  # those that connect through a proxy
LONG_SHARE = 0.1  # of the pauses and cuts last longer than PAUSE_S
PAUSE_S = (1.0, 4.0)
PAUSE_MAX_S = 30.0
REST_S = (0.1, 1.5)  # between an end and the start after it
TROUBLE_S = (1.0, 4.0)  # of a link that is slow, or late


class Kind(NamedTuple):
    """A kind of fault; it comes up at least once in a schedule, and then as often as its weight says."""

    name: str
    targets: tuple[str, ...]
    seconds: tuple[float, float]
    weight: float


KINDS = (
    Kind("kill all", (EVERYBODY,), REST_S, 0.5),
    Kind("kill broker", (BROKER,), REST_S, 1.5),
    Kind("kill aggregator", (AGGREGATOR,), REST_S, 1.5),
    Kind("kill trainer", TRAINERS, REST_S, 4.0),
    Kind("term broker", (BROKER,), REST_S, 1.0),
    Kind("term aggregator", (AGGREGATOR,), REST_S, 1.0),
    Kind("term trainer", TRAINERS, REST_S, 3.0),
    Kind("pause broker", (BROKER,), PAUSE_S, 0.5),
    Kind("pause aggregator", (AGGREGATOR,), PAUSE_S, 0.5),
    Kind("pause trainer", TRAINERS, PAUSE_S, 4.0),
    Kind("late link", EDGES, TROUBLE_S, 3.0),
    Kind("slow link", EDGES, TROUBLE_S, 3.0),
    Kind("drop connections", EDGES, (0.0, 0.0), 3.0),
    Kind("cut up", EDGES, PAUSE_S, 2.0),
    Kind("cut down", EDGES, PAUSE_S, 2.0),
    Kind("cut both ways", EDGES, PAUSE_S, 2.0),
    Kind("full disk", (AGGREGATOR,), (0.2, 0.5), 0.3),
    Kind("damaged copy", (AGGREGATOR,), REST_S, 0.5),
    Kind("damaged store", (AGGREGATOR,), REST_S, 0.3),
)


class Fault(NamedTuple):
    """One fault: `at_s` after the beginning, lasting `seconds`; `draw` seeds whatever else there is to choose."""

    at_s: float
    kind: str
    target: str
    seconds: float
    draw: int


def draw_schedule(seed: int, seconds: float, count: int) -> list[Fault]:
    """`count` faults over `seconds`, by time; every kind is among them when `count` allows."""
    generator = derive_rng(seed, "chaos", count)
    once = [KINDS[index] for index in generator.permutation(len(KINDS))][:count]
    weights = np.array([kind.weight for kind in KINDS])
    more = generator.choice(len(KINDS), max(0, count - len(KINDS)), p=weights / weights.sum())
    kinds = [*once, *(KINDS[index] for index in more)]
    slots = (np.arange(count) + generator.random(count)) * seconds / count
    order = generator.permutation(count)
    return [_fault(float(at_s), kinds[index], seconds, generator) for at_s, index in zip(slots, order, strict=True)]


def _fault(at_s: float, kind: Kind, whole_s: float, generator: np.random.Generator) -> Fault:
    target = kind.targets[generator.integers(len(kind.targets))]
    seconds = generator.uniform(*kind.seconds)
    if kind.seconds == PAUSE_S and generator.random() < LONG_SHARE:
        seconds = generator.uniform(PAUSE_S[1], PAUSE_MAX_S)
    return Fault(at_s, kind.name, target, min(float(seconds), whole_s / 4), int(generator.integers(2**31)))
