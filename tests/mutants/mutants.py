"""Mutation testing: every bug of a list, planted alone in a copy of the tree, must make a test fail.

    python tests/mutants/mutants.py [--jobs 2] [WORD ...]     only those whose description has one of the words

Prints a table: what was planted, which test caught it, in how many seconds. Exit code 1 when one survives, 2 when a
change does not fit or the tests fail without any. Knows nothing of what is tested.
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

from mutations import MUTATIONS, Mutation

ROOT = Path(__file__).parents[2]
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
    """What became of a mutation; no `test`: it survived."""

    test: str | None
    seconds: float
    output: str = ""


def copy_tree(place: Path) -> None:
    """The parts of the tree that the tests need, without what tools have left there."""
    for name in TREE:
        source, copy = ROOT / name, place / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(source, copy)


def plant(mutation: Mutation, place: Path) -> None:
    """A copy of the tree with the mutation in it."""
    if (why := misfit(mutation)) is not None:
        raise ValueError(why)
    copy_tree(place)
    path = place / mutation.file
    path.write_text(path.read_text(encoding="utf-8").replace(mutation.old, mutation.new), encoding="utf-8")


def misfit(mutation: Mutation) -> str | None:
    """Why a mutation cannot be applied, or None."""
    source = (ROOT / mutation.file).read_text(encoding="utf-8")
    count = source.count(mutation.old)
    missing = [name for name in mutation.tests if not (ROOT / name.partition("::")[0]).exists()]
    if count != 1:
        return f"{mutation.what}: its text is {count} times in {mutation.file}, expected once: {mutation.old!r}"
    try:
        compile(source.replace(mutation.old, mutation.new), mutation.file, "exec")
    except SyntaxError as error:
        return f"{mutation.what}: what comes out is no Python: {error}"
    return f"{mutation.what}: there is no {', '.join(missing)}" if missing else None


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
        return Outcome(f"nothing ended in {TIMEOUT_S:g} s", time.monotonic() - began)
    seconds = time.monotonic() - began
    if done.returncode == 0:
        return Outcome(None, seconds)
    found = CAUGHT.search(done.stdout)
    return Outcome(found[1] if found else f"pytest's exit code {done.returncode}", seconds, done.stdout + done.stderr)


def attempt(mutation: Mutation) -> Outcome:
    """Plant a mutation in a copy of the tree, and see whether a test notices."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        plant(mutation, Path(name))
        return run_tests(Path(name), mutation.tests)


def baseline(mutations: list[Mutation]) -> Outcome:
    """The tests without any mutation: a test that fails anyhow would seem to catch everything."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as name:
        copy_tree(Path(name))
        return run_tests(Path(name), tuple(sorted({test for mutation in mutations for test in mutation.tests})))


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description="Plant bugs and see which test catches each.")
    parser.add_argument("words", nargs="*", help="only mutations with one of these words")
    parser.add_argument("--jobs", type=int, default=2)
    given = parser.parse_args()
    chosen = [one for one in MUTATIONS if not given.words or any(word in one.what for word in given.words)]
    wrong = [line for line in map(misfit, chosen) if line is not None]
    if wrong:
        sys.exit("\n".join(["mutants: these do not fit the code any more, mend tests/mutants/mutations.toml:", *wrong]))
    without = baseline(chosen)
    if without.test is not None:
        sys.stderr.write(without.output)
        print(f"mutants: {without.test} fails without any mutation: mend that first", file=sys.stderr)
        sys.exit(2)
    print(f"without a mutation all pass ({without.seconds:.0f} s)", flush=True)
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
