"""Train a CNN of PyTorch on digits over ten trainers, each a process, whose classes are split by Dirichlet(0.3).

    python docs/measurements/torch_digits.py --seed 100
    python docs/measurements/torch_digits.py --trainers 2 --rounds 8  # for the kill alone

Prints the accuracy on held-out rows, the bytes and the seconds of a whole `fedmq demo`, process starts included. Then
kills all of its processes with SIGKILL after some rounds, continues, and compares the SHA-256 of both models.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

TASK = Path(__file__).parents[2] / "examples" / "digits_cnn.py"
ALPHA, HOLDOUT = 0.3, 0.2


def write_parts(folder: Path, trainers: int, seed: int) -> list[str]:
    """Write the rows of each trainer, and return the options of `fedmq demo` that name them."""
    digits, draws = load_digits(), np.random.default_rng(seed)
    owners = np.empty(len(digits.target), int)
    for one in range(10):
        (places,) = np.nonzero(digits.target == one)
        owners[places] = draws.choice(trainers, len(places), p=draws.dirichlet([ALPHA] * trainers))
    options = []
    for trainer in range(trainers):
        mine = owners == trainer
        path = folder / f"site-{trainer}.npz"
        np.savez(path, X=digits.data[mine] / 16.0, y=digits.target[mine])
        options += ["--data", str(path)]
    return options


def start(folder: Path, out: str, arguments: list[str]) -> "subprocess.Popen[bytes]":
    """Start a demo in a session of its own, so that all of its processes can be killed at once."""
    command = [sys.executable, "-m", "fedmq", "demo", str(TASK), "--holdout", str(HOLDOUT), "--out", out, *arguments]
    with (folder / f"{out}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def kill(demo: "subprocess.Popen[bytes]") -> int:
    """Send SIGKILL to all processes of a demo, itself last, else it would stop the others; return their number."""
    every = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    mine: list[int] = []
    for process in every:
        with contextlib.suppress(OSError):  # ended meanwhile
            mine += [process] if os.getsid(process) == demo.pid and process != demo.pid else []
    for process in [*mine, demo.pid]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    demo.wait()
    return len(mine) + 1


def report(folder: Path) -> dict:
    """Return the report of a run."""
    return json.loads((folder / "report.json").read_text())


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--trainers", type=int, default=10)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = write_parts(folder, chosen.trainers, chosen.seed)
        arguments += ["--seed", str(chosen.seed), "--rounds", str(chosen.rounds)]
        began = time.monotonic()
        if start(folder, "whole", arguments).wait():
            sys.exit((folder / "whole.log").read_text())
        seconds, whole = time.monotonic() - began, report(folder / "whole")
        print(
            f"seed {chosen.seed}: held out {whole['value']:.1%} after {whole['rounds']} rounds, {seconds:.1f} s, "
            f"{whole['train_s']:.1f} s in rounds; "
            f"{whole['bytes_up'] / chosen.trainers / whole['rounds']:.0f} bytes up per trainer and round"
        )
        demo, log = start(folder, "killed", arguments), folder / "killed.log"
        while f"round {chosen.rounds // 2:>3}" not in log.read_text():
            time.sleep(0.01)
        killed = kill(demo)
        reached = log.read_text().count("results of")
        if start(folder, "killed", arguments).wait():
            sys.exit(log.read_text())
        same = report(folder / "killed")["model_sha256"] == whole["model_sha256"]
        print(f"{killed} processes killed after {reached} rounds, continued: {'the same' if same else 'ANOTHER'} model")


if __name__ == "__main__":
    main()
