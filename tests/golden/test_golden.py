"""The wording of the command line, in transcripts. All other tests assert exit codes, reasons and values.

A transcript is a list of commands, each with its output and its exit code. `make golden` runs the commands and rewrites
the transcripts: read the difference before you commit it. What differs between two runs of a command is replaced by a
placeholder. After `# any order`, the lines of the output are sorted, because two trainers may start in either order.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

TRANSCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))
ANY_ORDER = "# any order"
PLACEHOLDERS = {
    r"\bfedmq1-[\w-]{200,}": "<token>",
    r"\b[a-z2-7]{4}(-[a-z2-7]{4}){3}\b": "<fingerprint>",
    r"\b[0-9a-f]{64}\b": "<sha256>",
    r"\b[0-9a-f]{16}…": "<sha256>…",
    r"\b(federation|token   ) [0-9a-f]{8}\b": r"\1 <id>",
    r"\b\d{4}-\d\d-\d\d \d\d:\d\d UTC": "<time>",
    r"\b(xor|parity4|linear)-\d{8}-\d{6}-[0-9a-f]{4}\b": "<run>",
    r"\b\d+(\.\d+)? (s|ms)\b": r"<duration>",
    r"\b\d+ (bytes|late|sent again)\b": r"<n> \1",
}
VARYING_LINES = re.compile(
    r"waiting for trainers \(1 of 2\)|trainer \w+ sent its result of round \d+ again|"
    r".*the broker at \S+ (does not answer yet; trying again|is connected)$"  # on a busy machine
)


def run(command: str, folder: Path) -> str:
    """Run a command of a transcript in a folder; return its output, with placeholders, and its exit code."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FEDMQ_")}
    done = subprocess.run(
        [sys.executable, "-m", *shlex.split(command, comments=True)],
        cwd=folder,
        env={**environment, "COLUMNS": "100", "OPENBLAS_NUM_THREADS": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=60,
    )
    output = done.stdout
    for pattern, placeholder in PLACEHOLDERS.items():
        output = re.sub(pattern, placeholder, output)
    lines = [line.rstrip() for line in output.splitlines() if not VARYING_LINES.match(line)]
    if command.endswith(ANY_ORDER):
        lines.sort()
    return "\n".join([f"$ {command}", *lines, f"[exit code {done.returncode}]"])


def replay(transcript: Path) -> str:
    """Run the commands of a transcript, in order, in a new folder; return the new transcript."""
    commands = re.findall(r"^\$ (.*)$", transcript.read_text(), flags=re.MULTILINE)
    with tempfile.TemporaryDirectory() as folder:
        return "\n\n".join(run(command, Path(folder)) for command in commands) + "\n"


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda path: path.stem)
def test_commands_print_their_transcript(transcript: Path) -> None:
    assert replay(transcript) == transcript.read_text(), "read the difference; if it is meant: make golden"


if __name__ == "__main__":
    for path in TRANSCRIPTS:
        path.write_text(replay(path))
