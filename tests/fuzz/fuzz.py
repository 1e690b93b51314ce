"""Fuzzing: give random inputs to a target; none may crash it, hang it, or let its memory grow.

    python tests/fuzz/fuzz.py decoder|store|configuration [--inputs N] [--seed S]

Prints the rate, the classes of outcomes, and the memory before and after. A crashing input is saved in corpus/, and a
test replays it from then on.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import hashlib
import io
import os
import resource
import sys
import time
import traceback
from collections import Counter
from pathlib import Path
from random import Random
from typing import Protocol

from fuzz_configuration import Configuration
from fuzz_decoder import Decoder
from fuzz_store import Reader

CORPUS = Path(__file__).with_name("corpus")
HANG_S = 30.0  # for one chunk of inputs
CHUNK = 500
WARM_UP = 0.1  # share of the inputs before memory is first measured
GROWTH_MAX = 0.05  # of the resident memory, after the warm-up
CRASHES_MAX = 10  # at different places; then fuzzing stops


class Target(Protocol):
    """A part of fedmq that reads untrusted input."""

    def draw(self, draws: Random) -> bytes:
        """Draw an input."""

    def take(self, blob: bytes) -> str:
        """Process the input and return the class of the outcome; any exception is a crash."""

    def close(self) -> None:
        """Release all resources."""


TARGETS: dict[str, type[Target]] = {"decoder": Decoder, "store": Reader, "configuration": Configuration}


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Crashes:
    """The inputs that crashed a target, one for each place in the code."""

    def __init__(self, target: str) -> None:
        self.places: dict[str, Path] = {}
        self._folder = CORPUS / target

    def keep(self, blob: bytes, error: Exception) -> str:
        """Save an input if the place is new; return the class of the outcome."""
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{type(error).__name__} at {Path(frame.filename).name}:{frame.lineno}"
        if place not in self.places:
            self._folder.mkdir(parents=True, exist_ok=True)
            path = self.places[place] = self._folder / f"{hashlib.sha256(blob).hexdigest()[:16]}.bin"
            path.write_bytes(blob)
            sys.stderr.write(f"{place}: {error}\n  saved as {path}\n")
        return f"CRASH {place}"


def fuzz(name: str, inputs: int, seed: int, growth_max: float = GROWTH_MAX) -> bool:
    """Give inputs to a target; return whether there was no crash and no growth."""
    target, draws = TARGETS[name](), Random(f"{name} {seed}")
    outcomes: Counter[str] = Counter()
    crashes = Crashes(name)
    before, warm = 0, max(1, int(inputs * WARM_UP))
    began = time.monotonic()
    for number in range(inputs):
        if number % CHUNK == 0:
            faulthandler.dump_traceback_later(HANG_S, exit=True, file=2)  # the real stderr
        if number == warm:
            before = resident_bytes()
        blob = target.draw(draws)
        try:
            outcomes[target.take(blob)] += 1
        except Exception as error:  # noqa: BLE001  any exception is a finding
            outcomes[crashes.keep(blob, error)] += 1
            if len(crashes.places) >= CRASHES_MAX:
                break
    faulthandler.cancel_dump_traceback_later()
    target.close()
    seconds, after = time.monotonic() - began, resident_bytes()
    grown = (after - before) / before if before else 0.0
    total = sum(outcomes.values())
    print(f"{name}: {total} inputs of seed {seed} in {seconds:.1f} s, {total / seconds:.0f} a second")
    for outcome, count in outcomes.most_common():
        print(f"  {count:>9}  {outcome}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"  memory {before / 2**20:.1f} MiB after the warm-up, {after / 2**20:.1f} MiB at the end ({grown:+.1%})",
        end="",
    )
    print(f", {peak:.1f} MiB at its peak; {len(crashes.places)} places crashed")
    return not crashes.places and grown <= growth_max


def main() -> None:
    """Fuzz the chosen targets and exit with the result."""
    parser = argparse.ArgumentParser(description="Fuzz a part of fedmq.")
    parser.add_argument("targets", nargs="+", choices=TARGETS)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    results = []
    for name in given.targets:
        with contextlib.redirect_stderr(io.StringIO()) if name == "configuration" else contextlib.nullcontext():
            results.append(fuzz(name, given.inputs, given.seed))
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
