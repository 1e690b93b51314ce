"""Mutation testing: plant each bug of a list alone in a copy of the tree, and expect a test to fail.

    python tests/mutants/mutants.py [--jobs 2] [WORD ...]     only bugs whose description has one of the words

Prints a table: the bug, the test that caught it, the seconds. Exit code 1: a bug survived, or does not fit the code;
2: a test fails without any bug.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from mutations import MUTATIONS, ROOT, Mutation

TESTS = ("tests/unit", "tests/simulation", "tests/mutants")
TREE = (
    "fedmq",
    "broker",
    "aggregator",
    "trainer",
    "dashboard",
    "deploy",
    *TESTS,
    "tests/integration/test_sandbox.py",
    "pyproject.toml",
)
TIMEOUT_S = 300.0
CAUGHT = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


class Outcome(NamedTuple):
    """The test that caught a mutation (None: it survived), the seconds it took, and the output of pytest."""

    test: str | None
    seconds: float
    output: str = ""


def copy_tree(place: Path) -> None:
    """Copy the parts of the tree that the tests need, without caches; symbolic links stay links."""
    for name in TREE:
        source, copy = ROOT / name, place / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(source, copy)


def plant(mutation: Mutation, place: Path) -> None:
    """Copy the tree, with the mutation in it.

    Raises:
        ValueError: the mutation does not fit the code.
    """
    mutated = mutation.mutated
    copy_tree(place)
    (place / mutation.file).write_text(mutated, encoding="utf-8")


def misfit(mutation: Mutation) -> str | None:
    """Return why a mutation does not fit the code, or None."""
    try:
        mutation.mutated  # noqa: B018  # computed here, kept for `plant`
    except ValueError as error:
        return str(error)
    return None


def run_tests(place: Path, tests: tuple[str, ...]) -> Outcome:
    """Run tests in a tree until the first one fails."""
    environment = {**os.environ, "PYTHONPATH": str(place), "OPENBLAS_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=no", "-p", "no:cacheprovider", *tests]
    began = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=place, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return Outcome(f"time-out after {TIMEOUT_S:g} s", time.monotonic() - began)
    seconds = time.monotonic() - began
    if done.returncode == 0:
        return Outcome(None, seconds)
    found = CAUGHT.search(done.stdout)
    return Outcome(found[1] if found else f"pytest's exit code {done.returncode}", seconds, done.stdout + done.stderr)


def attempt(mutation: Mutation) -> Outcome:
    """Plant a mutation in a copy of the tree and run its tests."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        plant(mutation, Path(name))
        return run_tests(Path(name), mutation.tests)


def baseline(mutations: list[Mutation]) -> Outcome:
    """Run the tests without a mutation: a test that always fails would seem to catch every bug."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy_tree(Path(name))
        return run_tests(Path(name), tuple(sorted({test for mutation in mutations for test in mutation.tests})))


def main() -> None:
    """Parse the command line, run all chosen mutations, and exit with the code of the result."""
    parser = argparse.ArgumentParser(description="Plant bugs and report the test that catches each.")
    parser.add_argument("words", nargs="*", help="only mutations with one of these words")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    chosen = [one for one in MUTATIONS if not given.words or any(word in one.what for word in given.words)]
    if not chosen:
        sys.exit(f"mutants: expected words of planted bugs, got {' '.join(given.words)}, which none has")
    wrong = [line for line in map(misfit, chosen) if line is not None]
    if wrong:
        sys.exit("\n".join(["mutants: these do not fit the code: update tests/mutants/mutations.toml:", *wrong]))
    without = baseline(chosen)
    if without.test is not None:
        sys.stderr.write(without.output)
        print(f"mutants: {without.test} fails without a mutation: fix it first", file=sys.stderr)
        sys.exit(2)
    print(f"all tests pass without a mutation ({without.seconds:.0f} s)", flush=True)
    survivors = 0
    with ThreadPoolExecutor(given.jobs) as pool:
        for mutation, outcome in zip(chosen, pool.map(attempt, chosen), strict=True):
            survivors += outcome.test is None
            test = outcome.test or "SURVIVED"
            print(f"{mutation.what:<64}  {test:<90}  {outcome.seconds:5.1f} s", flush=True)
    print(f"{len(chosen) - survivors} of {len(chosen)} caught")
    sys.exit(1 if survivors else 0)


if __name__ == "__main__":
    main()
