"""Commands with a closed or full output, and interrupted commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from services import WAIT_S, clean_environment, run_fedmq

INTERRUPTED = """
import os, signal, sys
class Finder:
    def find_spec(self, name, *_):
        if name == "{module}":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
sys.argv = ["fedmq", "runs", "ls"]
from fedmq.__main__ import main
main()
"""


def ended(*words: str, cwd: Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run `fedmq WORDS` to its end, with the output of `settings`."""
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


@contextmanager
def without_a_reader() -> Iterator[int]:
    """Yield a pipe as after `| head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@pytest.mark.parametrize(
    ("words", "code"), [(["--help"], 0), (["config", "init", "trainer"], 0), (["runs", "show", "none"], 78)]
)
def test_closed_output_is_not_an_error(words: list[str], code: int, tmp_path: Path) -> None:
    done = ended(*words, cwd=tmp_path, preexec_fn=lambda: os.close(1))

    assert done.returncode == code
    assert done.stderr.count("\n") == (code != 0)


def test_demo_runs_without_an_output(tmp_path: Path) -> None:
    done = ended("demo", "--seed", "1", "--out", "run", cwd=tmp_path, preexec_fn=lambda: os.close(1))

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / "report.json").exists()


@pytest.mark.parametrize("words", [["--help"], ["runs", "ls", "--help"], ["config", "init", "trainer"], ["runs", "ls"]])
def test_output_without_a_reader_ends_a_command_silently_as_sigpipe_would(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    with without_a_reader() as pipe:
        done = ended(*words, cwd=tmp_path, stdout=pipe)

    assert (done.returncode, done.stderr) == (141, "")


def test_run_is_trained_to_its_end_without_a_reader(tmp_path: Path) -> None:
    with without_a_reader() as pipe:
        done = ended("demo", "--seed", "1", "--out", "run", cwd=tmp_path, stdout=pipe)

    assert done.returncode == 0, done.stderr
    assert "pipe" not in done.stderr
    assert (tmp_path / "run" / "report.json").exists()


def test_full_device_gives_one_line(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = ended("config", "init", "trainer", cwd=tmp_path, stdout=full)

    assert done.returncode == 78
    assert "No space left on device" in done.stderr
    assert done.stderr.count("\n") == 1


def test_characters_outside_the_encoding_become_question_marks(tmp_path: Path) -> None:
    (tmp_path / "Ελλάδα").mkdir()

    done = run_fedmq("runs", "ls", "Ελλάδα", cwd=tmp_path, PYTHONIOENCODING="latin-1")

    assert "unexpected" not in done.stderr
    assert "??????" in done.stdout


def interrupted_during_import(module: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `fedmq runs ls`, with Ctrl-C during the import of a module."""
    return subprocess.run(
        [sys.executable, "-c", INTERRUPTED.format(module=module)],
        cwd=folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=WAIT_S,
        check=False,
    )


def test_interrupted_command_prints_one_line(tmp_path: Path) -> None:
    done = interrupted_during_import("fedmq.runs.commands", tmp_path)

    assert (done.returncode, done.stderr.strip()) == (130, "fedmq: interrupted")


def test_interrupt_during_imports_ends_the_command_silently(tmp_path: Path) -> None:
    done = interrupted_during_import("click", tmp_path)

    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


def test_path_that_cannot_exist_gives_one_line(tmp_path: Path) -> None:
    done = run_fedmq("deploy", "status", "--inventory", "x" * 300, cwd=tmp_path)

    assert done.returncode == 78
    assert done.stderr.endswith("expected a file or folder, got: File name too long: check the path\n")
    assert done.stderr.count("\n") == 1
