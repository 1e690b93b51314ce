"""Memory and descriptors of each service every second: a CSV file, and their growth."""

from __future__ import annotations

import asyncio
import csv
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from federation import Service

WARM_UP_S = 10.0  # of each process, excluded
EVERY_S = 1.0


class Sample(NamedTuple):
    """One service at one moment, `at_s` after the beginning and `age_s` after its own start."""

    at_s: float
    service: str
    pid: int
    age_s: float
    rss_bytes: int
    descriptors: int


class Growth(NamedTuple):
    """Growth of a service over the whole time, and within its processes, in percent of its mean."""

    rss_max_bytes: int
    overall_percent: float
    within_lives_percent: float
    descriptors_min: int
    descriptors_max: int


class Recorder:
    """Takes samples until canceled."""

    def __init__(self, services: Mapping[str, Service]) -> None:
        self.samples: list[Sample] = []
        self._services = services

    async def run(self) -> None:
        """Sample every running service each second."""
        began = time.monotonic()
        while True:
            for name, service in self._services.items():
                pid = service.pid
                if pid is None:
                    continue
                try:
                    rss, descriptors = _usage(Path("/proc") / str(pid))
                except OSError:  # it has just ended
                    continue
                at_s = time.monotonic() - began
                self.samples.append(Sample(at_s, name, pid, service.age_s, rss, descriptors))
            await asyncio.sleep(EVERY_S)

    def write(self, path: Path) -> None:
        """Write the samples as CSV."""
        with path.open("w", newline="") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(Sample._fields)
            writer.writerows((f"{one.at_s:.1f}", *one[1:3], f"{one.age_s:.1f}", *one[4:]) for one in self.samples)

    def growth(self) -> dict[str, Growth]:
        """Return the growth of each service with enough samples."""
        grown = {}
        for name in self._services:
            warm = [one for one in self.samples if one.service == name and one.age_s >= WARM_UP_S]
            if len(warm) >= 10:
                grown[name] = _growth(warm)
        return grown

    def rss_max_bytes(self) -> int:
        """Return the maximum of all services."""
        return max((one.rss_bytes for one in self.samples), default=0)


def _usage(process: Path) -> tuple[int, int]:
    """Return resident bytes and open descriptors from a folder in /proc."""
    pages = int((process / "statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(list((process / "fd").iterdir()))


def _growth(samples: list[Sample]) -> Growth:
    times = np.array([one.at_s for one in samples])
    rss = np.array([one.rss_bytes for one in samples], dtype=np.float64)
    whole_s = float(times[-1] - times[0])
    lives = np.array([one.pid for one in samples])
    own_times, own_rss = times.copy(), rss.copy()
    for life in np.unique(lives):
        own_times[lives == life] -= own_times[lives == life].mean()
        own_rss[lives == life] -= own_rss[lives == life].mean()
    counts = [one.descriptors for one in samples]
    return Growth(
        rss_max_bytes=int(rss.max()),
        overall_percent=100 * _slope(times - times.mean(), rss - rss.mean()) * whole_s / float(rss.mean()),
        within_lives_percent=100 * _slope(own_times, own_rss) * whole_s / float(rss.mean()),
        descriptors_min=min(counts),
        descriptors_max=max(counts),
    )


def _slope(times: np.ndarray, values: np.ndarray) -> float:
    """Return the least-squares slope of points with zero means."""
    spread = float(times @ times)
    return float(times @ values) / spread if spread else 0.0
