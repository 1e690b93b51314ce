"""Benchmark: CPU and bytes of one secure sum, beside the plain sum of the same answers.

Run it: `python tests/benchmarks/secure_sums.py [--json]`. Machines of all members in one process, without sockets,
disks and message signatures. For each size, 0 and a third of the members drop out after their shares. `ahead` is work
before the question: keys and shares. CPU milliseconds are medians of several sums, and a trainer's are the mean of the
members. There is no target, as no service has secure sums yet.
"""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before numpy

import argparse
import json
import statistics
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from fedmq.secure_sums.aggregator import Output, SumAggregator, SumPhase
from fedmq.secure_sums.ledger import Ledger
from fedmq.secure_sums.masks import SumName
from fedmq.secure_sums.messages import Cohort, MaskedInput, Opening, SignedSurvivors, SumMessage, Survivors, to_bytes
from fedmq.secure_sums.policy import SumPolicy
from fedmq.secure_sums.trainer import SumTrainer
from fedmq.security.keys import Identity

SIZES = ((10, 480, 7), (100, 480, 3), (10, 100_000, 3))  # members, numbers, sums


class Sum:
    """One sum of these values, int64 each; the first `missing` members drop out after their shares."""

    def __init__(self, identities: list[Identity], values: list[np.ndarray], number: int, missing: int) -> None:
        name = SumName(b"federation", "run", 1, number)
        self.ms = dict.fromkeys(("ahead", "answer", "unmask", "aggregator ahead", "aggregator"), 0.0)
        self.up = self.down = 0
        self.values = {one.name: value for one, value in zip(identities, values, strict=True)}
        self.missing = {one.name for one in identities[:missing]}
        self.aggregator = SumAggregator(name)
        self.trainers = {
            one.name: self.measured("ahead", SumTrainer, name, one, SumPolicy(), Ledger()) for one in identities
        }
        self.queue: deque[tuple[str, SumMessage]] = deque()
        for one in identities:
            keys = self.trainers[one.name].advertise()
            self.up += len(to_bytes(keys))
            self.measured("aggregator ahead", self.aggregator.join, one.public, keys)

    def measured(self, place: str, work: Callable[..., Any], *given: Any) -> Any:
        """Return the result of the work, and add its time."""
        began = time.process_time()
        result = work(*given)
        self.ms[place] += 1e3 * (time.process_time() - began)
        return result

    def run(self) -> None:
        """Run it to its end, and check the total."""
        self.settle("aggregator ahead", self.aggregator.fix_cohort)
        self.settle("aggregator", self.aggregator.open, b"q" * 32, len(next(iter(self.values.values()))))
        if self.aggregator.phase is SumPhase.COLLECTING:
            self.settle("aggregator", self.aggregator.deadline)
        assert self.aggregator.total is not None
        survivors = [value for name, value in self.values.items() if name not in self.missing]
        assert self.aggregator.total.values == plain_sum(survivors).tobytes()

    def settle(self, place: str, begin: Callable[..., Output], *given: Any) -> None:
        """Begin a phase, and deliver messages until none is left."""
        self.queue += self.measured(place, begin, *given).send
        while self.queue:
            name, message = self.queue.popleft()
            self.down += len(to_bytes(message))
            reply = self.reply(name, message)
            if not (isinstance(reply, MaskedInput) and name in self.missing):
                self.up += len(to_bytes(reply))
                self.queue += self.measured(place, self.aggregator.receive, name, reply).send

    def reply(self, name: str, message: Any) -> Any:
        """Return the trainer's reply."""
        trainer = self.trainers[name]
        match message:
            case Cohort():
                return self.measured("ahead", trainer.deal, message)
            case Opening():
                return self.measured("answer", trainer.answer, message, self.values[name]).send
            case Survivors():
                return self.measured("unmask", trainer.sign, message).send
            case SignedSurvivors():
                return self.measured("unmask", trainer.reveal, message).send


def plain_sum(values: list[np.ndarray]) -> np.ndarray:
    """Return the sum as int64."""
    total = np.zeros(len(values[0]), np.int64)
    for one in values:
        total += one
    return total


def measure(members: int, length: int, sums: int, missing: int) -> dict[str, float]:
    """Return the medians of some sums: milliseconds, and bytes for each trainer."""
    generator = np.random.default_rng(1)
    identities = [Identity.new("trainer", f"t{index:03d}") for index in range(members)]
    values = [generator.integers(-(2**40), 2**40, length) for _ in range(members)]
    done = [Sum(identities, values, number, missing) for number in range(sums)]
    for one in done:
        one.run()
    row: dict[str, float] = {"members": members, "numbers": length, "missing": missing}
    for place in done[0].ms:
        each = 1 if place.startswith("aggregator") else members
        row[f"{place} ms"] = round(statistics.median(one.ms[place] / each for one in done), 2)
    began = time.process_time()
    for _ in range(20):
        plain_sum(values)
    row["plain sum ms"] = round(1e3 * (time.process_time() - began) / 20, 2)
    return row | {"up bytes": done[0].up // members, "down bytes": done[0].down // members, "plain bytes": 8 * length}


def main() -> None:
    """Print one line for each size and number of missing members."""
    parser = argparse.ArgumentParser(description="CPU and bytes of one secure sum.")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    rows = [measure(*size, missing) for size in SIZES for missing in (0, size[0] // 3)]
    if given.json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        print(", ".join(f"{key} {value:,}" for key, value in row.items()))


if __name__ == "__main__":
    main()
