"""A short schedule of faults on real processes; `make chaos` and `make soak` run longer ones."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

CHAOS = Path(__file__).parents[1] / "chaos" / "chaos.py"
SEED, SECONDS, FAULTS = 5, 12, 12  # a seed with many kinds of faults
RUN_S = 150.0
END_S = 20.0  # for the harness to stop its processes
KINDS = 22


def chaos(*arguments: object) -> list[str]:
    return [sys.executable, str(CHAOS), *map(str, arguments)]


def listed(*arguments: object) -> str:
    """Return the schedule of the harness."""
    return subprocess.run(chaos("--list", *arguments), capture_output=True, text=True, check=True, timeout=30).stdout


@pytest.mark.timeout(RUN_S + 2 * END_S)
def test_short_schedule_of_faults_loses_nothing(tmp_path: Path) -> None:
    command = chaos("--seed", SEED, "--seconds", SECONDS, "--faults", FAULTS)
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with (tmp_path / "output").open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            code: int | None = process.wait(RUN_S)
        except subprocess.TimeoutExpired:
            code = None
            process.terminate()
            process.wait(END_S)
        finally:
            process.kill()
            process.wait()
    printed = (tmp_path / "output").read_text()
    assert code == 0, printed
    assert "nothing is lost" in printed


def test_seed_determines_the_schedule() -> None:
    first, again, other = (listed("--seed", seed, "--faults", 60) for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_minute_of_faults_has_sixty_of_all_kinds() -> None:
    lines = listed("--seed", SEED).splitlines()
    assert len(lines) >= 60
    assert len(Counter(line[12:30].strip() for line in lines)) == KINDS
    assert all(0.0 <= float(line.split()[0]) <= 60.0 for line in lines)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("case", ["pygad", "es"])
def test_killed_services_reach_the_same_model(case: str) -> None:
    script = CHAOS.with_name("kills.py")
    command = [sys.executable, str(script), "--case", case, "--kills", "2", "--rounds", "3", "--seed", "3"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict                   the same" in done.stdout


@pytest.mark.timeout(150)
def test_killed_services_of_a_secure_run_open_each_question_once() -> None:
    command = [
        sys.executable,
        str(CHAOS.with_name("secure_kills.py")),
        "--trainers",
        "3",
        "--kills",
        "3",
        "--rounds",
        "2",
    ]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=140)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "verdict             that of plain answers" in done.stdout
