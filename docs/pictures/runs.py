"""Draws `terminal.svg`, what `fedmq watch` shows of a run, and `run.svg`, what `fedmq runs plot` makes of one.

Run it: `make pictures`. Both are of real runs, which it makes first.
"""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from fedmq.observe.event_log import apply_line
from fedmq.observe.run_state import RunState
from fedmq.observe.terminal_view import ObservedRun, render_run
from fedmq.runtime.run_folder import EVENTS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
COLUMNS, LINES = 104, 30
ROUNDS = 21  # of the run that the terminal shows: it goes on
FONTS = "'DejaVu Sans Mono', Menlo, Consolas, monospace"  # those of the reader's machine: nothing is fetched


def fedmq(*arguments: str) -> None:
    """Run `fedmq ARGUMENTS`; it must do what it is asked for."""
    subprocess.run([sys.executable, "-m", "fedmq", *arguments], cwd=ROOT, check=True)


def draw_terminal(folder: Path) -> str:
    """The panel of the run in `folder`, as it was after so many rounds, as SVG."""
    view = RunState()
    with (folder / EVENTS).open("rb") as file:
        for line in file:
            view = apply_line(view, line)
            if b'"result-accepted"' in line and len(view.rounds) > ROUNDS:
                break
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), force_terminal=True, color_system="truecolor")
    console.print(render_run(ObservedRun(view, view.event_at, connected=True), COLUMNS, LINES))
    drawn = console.export_svg(title=f"fedmq watch {view.run}", unique_id="fedmq")
    drawn = drawn.replace("<svg ", '<svg xml:space="preserve" ', 1)  # else some readers drop the spaces before a word
    drawn = re.sub(r"@font-face \{.*?\}\n", "", drawn, flags=re.DOTALL)
    return re.sub(r"font-family: [^;]*;", f"font-family: {FONTS};", drawn)


def main() -> None:
    """Make the runs, then their pictures."""
    with tempfile.TemporaryDirectory() as temporary:
        parity, flowers = Path(temporary, "parity4"), Path(temporary, "flowers")
        fedmq("demo", "--task", "parity4", "--trainers", "4", "--seed", "3", "--quiet", "--out", str(parity))
        fedmq("demo", "--task", "examples/own_task.py", "--seed", "2", "--quiet", "--out", str(flowers))
        (HERE / "terminal.svg").write_text(draw_terminal(parity))
        fedmq("runs", "plot", str(flowers), "-o", str(HERE / "run.svg"), "--inputs", "0", "7")


if __name__ == "__main__":
    main()
