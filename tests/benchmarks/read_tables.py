"""Benchmark: reading CSV files of a hundred thousand rows x 50 columns and of a million x 20, compared with numpy.

Run it: `python tests/benchmarks/read_tables.py [--json]`. Each file has numbers of seven digits, a column of text, and
gaps in one column; numpy.loadtxt reads the same numbers without both. Each reading has a process of its own, in turns;
the figures are seconds of processor time, which other jobs on the machine disturb least, and the peak memory. Exit code
1 if a target is missed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

TURNS = 3
BLOCK_ROWS = 10_000
READ = {
    "fedmq": "from fedmq.data.readers import read_table\nread_table({path!r})",
    "loadtxt": "import numpy\nnumpy.loadtxt({path!r}, delimiter=',', skiprows=1)",
}
MEASURED = """
import resource
{code}
used = resource.getrusage(resource.RUSAGE_SELF)
print(used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)
"""


class Case(NamedTuple):
    """A table, and its targets."""

    rows: int
    columns: int
    seconds: float
    megabytes: float


class Outcome(NamedTuple):
    """The medians of a case."""

    case: Case
    fedmq_s: float
    fedmq_mb: float
    loadtxt_s: float
    loadtxt_mb: float

    @property
    def reached(self) -> bool:
        """Return whether both targets are met."""
        return self.fedmq_s < self.case.seconds and self.fedmq_mb < self.case.megabytes


CASES = (Case(100_000, 50, 2.5, 500.0), Case(1_000_000, 20, 8.0, 1000.0))


def write(case: Case, path: Path, *, text: bool) -> None:
    """Write a table of numbers; with `text` the last column is a word, and the first has gaps."""
    generator = np.random.default_rng(1)
    with path.open("w") as file:
        file.write(",".join(f"c{place}" for place in range(case.columns)) + "\n")
        for _ in range(case.rows // BLOCK_ROWS):
            block = generator.normal(size=(BLOCK_ROWS, case.columns))
            lines = [",".join(f"{value:.6f}" for value in row) for row in block.tolist()]
            if text:
                lines = [line[line.index(",") * (row % 50 == 0) :] for row, line in enumerate(lines)]
                lines = [f"{line[: line.rindex(',')]},{'yes' if row % 3 else 'no'}" for row, line in enumerate(lines)]
            file.write("\n".join(lines) + "\n")


def measure(code: str) -> tuple[float, float]:
    """Run code in a process; return its seconds of processor time and its peak memory in MB."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED.format(code=code)], capture_output=True, text=True, check=True
    )
    seconds, megabytes = map(float, done.stdout.split())
    return seconds, megabytes


def run(case: Case, folder: Path) -> Outcome:
    """Measure a case, the two readers in turns."""
    paths = {"fedmq": folder / "mixed.csv", "loadtxt": folder / "numbers.csv"}
    for name, path in paths.items():
        write(case, path, text=name == "fedmq")
    found = [[measure(READ[name].format(path=str(path))) for name, path in paths.items()] for _ in range(TURNS)]
    medians = [statistics.median(turn[place][part] for turn in found) for place in (0, 1) for part in (0, 1)]
    return Outcome(case, *medians)


def main() -> None:
    """Measure all cases and print them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    as_json = parser.parse_args().json
    with tempfile.TemporaryDirectory() as folder:
        outcomes = [run(case, Path(folder)) for case in CASES]
    if as_json:
        print(json.dumps([{**outcome._asdict(), "case": outcome.case._asdict()} for outcome in outcomes]))
    else:
        print("rows x columns   fedmq s  target  loadtxt s  ratio  fedmq MB  target  loadtxt MB")
        for case, *figures in outcomes:
            fedmq_s, fedmq_mb, loadtxt_s, loadtxt_mb = figures
            print(
                f"{f'{case.rows} x {case.columns}':<15} {fedmq_s:8.2f} {case.seconds:7.1f} {loadtxt_s:10.2f} "
                f"{fedmq_s / loadtxt_s:6.2f} {fedmq_mb:9.0f} {case.megabytes:7.0f} {loadtxt_mb:11.0f}"
            )
    sys.exit(not all(outcome.reached for outcome in outcomes))


if __name__ == "__main__":
    main()
