"""What a command does where its output cannot go, and what it says when it is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from services import WAIT_S, clean_environment, run_fedmq

INTERRUPT = "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"  # a module that is slow to import, and Ctrl-C


def ended(*words: str, cwd: Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    """`fedmq WORDS`, with its output as in `settings`."""
    command = [sys.executable, "-m", "fedmq", *words]
    return subprocess.run(
        command,
        cwd=cwd,
        env=clean_environment(),
        stderr=subprocess.PIPE,
        text=True,
        timeout=WAIT_S,
        check=False,
        **settings,
    )


@pytest.mark.parametrize(
    ("words", "code"), [(["--help"], 0), (["config", "init", "trainer"], 0), (["runs", "show", "none"], 78)]
)
def test_closed_output_is_not_an_error(words: list[str], code: int, tmp_path: Path) -> None:
    done = ended(*words, cwd=tmp_path, preexec_fn=lambda: os.close(1))

    assert done.returncode == code
    assert done.stderr.count("\n") == (code != 0)


def test_demo_runs_without_an_output(tmp_path: Path) -> None:
    done = ended("demo", "--seed", "1", "--out", "run", cwd=tmp_path, preexec_fn=lambda: os.close(1))

    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "run" / "report.json").exists()


def test_full_device_gives_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = ended("config", "init", "trainer", cwd=tmp_path, stdout=full)

    assert done.returncode == 78
    assert done.stderr.startswith("fedmq: expected room for what is written, got: No space left on device")
    assert done.stderr.count("\n") == 1


def test_characters_outside_the_encoding_become_question_marks(tmp_path: Path) -> None:
    (tmp_path / "Ελλάδα").mkdir()

    done = run_fedmq("runs", "ls", "Ελλάδα", cwd=tmp_path, PYTHONIOENCODING="latin-1")

    assert "unexpected" not in done.stderr
    assert "??????" in done.stdout


def test_interrupted_command_prints_one_line(tmp_path: Path) -> None:
    (tmp_path / "msgspec.py").write_text(INTERRUPT)

    done = run_fedmq("runs", "ls", cwd=tmp_path)

    assert (done.returncode, done.stderr.strip()) == (130, "fedmq: interrupted")


def test_interrupt_during_imports_ends_the_command_silently(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text(INTERRUPT)

    done = run_fedmq("runs", "ls", cwd=tmp_path)

    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
