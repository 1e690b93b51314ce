"""Draws `terminal.svg`, the output of `fedmq watch`, and `run.svg`, that of `fedmq runs plot` (`make pictures`)."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from fedmq.observe.event_log import apply_line
from fedmq.observe.run_state import ObservedRun, RunState
from fedmq.observe.terminal_view import render_run
from fedmq.runtime.run_folder import EVENTS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COLUMNS, LINES = 104, 30
ROUNDS = 21  # closed rounds that the terminal shows
FONTS = "'DejaVu Sans Mono', Menlo, Consolas, monospace"  # of the reader's machine: no font is fetched


def fedmq(*arguments: str) -> None:
    """Run `fedmq ARGUMENTS`; it must succeed."""
    subprocess.run([sys.executable, "-m", "fedmq", *arguments], cwd=ROOT, check=True)


def draw_terminal(folder: Path) -> str:
    """Return the view of the run in `folder` after ROUNDS rounds, as SVG."""
    run_state = RunState()
    with (folder / EVENTS).open("rb") as file:
        for line in file:
            run_state = apply_line(run_state, line)
            if b'"result-accepted"' in line and len(run_state.rounds) > ROUNDS:
                break
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(render_run(ObservedRun(run_state, run_state.event_at, connected=True), COLUMNS, LINES))
    drawn = console.export_svg(title=f"fedmq watch {run_state.run}", unique_id="fedmq")
    drawn = drawn.replace("<svg ", '<svg xml:space="preserve" ', 1)  # some viewers drop leading spaces without it
    drawn = re.sub(r"@font-face \{.*?\}\n", "", drawn, flags=re.DOTALL)
    return re.sub(r"font-family: [^;]*;", f"font-family: {FONTS};", drawn)


def main() -> None:
    """Run the demos, then draw their pictures."""
    with tempfile.TemporaryDirectory() as temporary:
        parity, flowers = Path(temporary, "parity4"), Path(temporary, "flowers")
        fedmq("demo", "--task", "parity4", "--trainers", "4", "--seed", "3", "--quiet", "--out", str(parity))
        fedmq("demo", "--task", "examples/own_task.py", "--seed", "2", "--quiet", "--out", str(flowers))
        (HERE / "terminal.svg").write_text(draw_terminal(parity))
        fedmq("runs", "plot", str(flowers), "-o", str(HERE / "run.svg"), "--inputs", "0", "7")


if __name__ == "__main__":
    main()
