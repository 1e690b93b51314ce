"""The Makefile: what a verb does when one of its scripts fails."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def bench(folder: Path, **scripts: str) -> subprocess.CompletedProcess[str]:
    """Run `make bench` in a project with these benchmarks, as bodies by name."""
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "tests" / "benchmarks").mkdir(parents=True)
    for name, body in scripts.items():
        (folder / "tests" / "benchmarks" / f"{name}.py").write_text(f"print('ran {name}')\n{body}\n")
    (folder / "bin").mkdir()
    (folder / "bin" / "python").symlink_to(sys.executable)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", "bench", "BIN=bin", "DEVELOP_STAMP="],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


def test_missed_target_is_listed_after_the_last_benchmark(tmp_path: Path) -> None:
    done = bench(tmp_path, first="raise SystemExit(1)", second="", third="raise SystemExit(1)", tail="")

    assert [line for line in done.stdout.splitlines() if line.startswith("ran")] == [
        *("ran first", "ran second", "ran tail", "ran third"),
    ]
    assert "tests/benchmarks/first.py tests/benchmarks/third.py" in done.stderr
    assert "second.py" not in done.stderr
    assert done.returncode == 2  # as make reports a failed recipe


def test_benchmarks_that_reach_their_targets_succeed(tmp_path: Path) -> None:
    assert bench(tmp_path, first="", second="").returncode == 0


@pytest.mark.parametrize("scripts", [{}, {"first": "raise SystemExit(130)", "second": "print('after an interrupt')"}])
def test_bench_without_scripts_or_after_an_interrupt_fails_at_once(tmp_path: Path, scripts: dict[str, str]) -> None:
    done = bench(tmp_path, **scripts)
    assert done.returncode == 2
    assert "after an interrupt" not in done.stdout
