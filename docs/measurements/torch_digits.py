"""Train a CNN of PyTorch on digits over ten trainers, each a process, whose classes are split by Dirichlet(0.3).

    python docs/measurements/torch_digits.py
    python docs/measurements/torch_digits.py --seeds 300 --trainers 2 --rounds 8  # for the kill alone

Prints the accuracy on held-out rows, the bytes and the seconds of a whole `fedmq demo` for each seed, process starts
included. Then kills all processes of another one of the last seed with SIGKILL after half of its rounds, continues, and
compares the SHA-256 of both models.
"""

import argparse
import contextlib
import json
import os
import resource
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


def measure(folder: Path, arguments: list[str], trainers: int, seed: int) -> dict:
    """Run a demo, print its figures, and return its report."""
    began, cpu_before = time.monotonic(), cpu_seconds()
    if start(folder, "whole", arguments).wait():
        sys.exit((folder / "whole.log").read_text())
    seconds, cpu_s, whole = time.monotonic() - began, cpu_seconds() - cpu_before, report(folder / "whole")
    print(
        f"seed {seed}: held out {whole['value']:.1%} after {whole['rounds']} rounds; {seconds:.1f} s in all, "
        f"{whole['train_s']:.1f} s in rounds, {cpu_s:.1f} s of CPU; "
        f"{whole['bytes_up'] / trainers / whole['rounds']:.0f} bytes up per trainer and round",
        flush=True,
    )
    return whole


def cpu_seconds() -> float:
    """Return the CPU time of all processes that have ended: a demo waits for its own."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def kill_and_continue(folder: Path, arguments: list[str], rounds: int, sha256: str) -> None:
    """Kill all processes of the same demo after half of its rounds, continue, and compare the models."""
    demo, log = start(folder, "killed", arguments), folder / "killed.log"
    while f"round {rounds // 2:>3}" not in log.read_text():
        if demo.poll() is not None:
            sys.exit(log.read_text())
        time.sleep(0.01)
    killed = kill(demo)
    reached = log.read_text().count("results of")
    if start(folder, "killed", arguments).wait():
        sys.exit(log.read_text())
    same = report(folder / "killed")["model_sha256"] == sha256
    print(f"{killed} processes killed after {reached} rounds, continued: {'the same' if same else 'ANOTHER'} model")
    if not same:
        sys.exit(1)


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[300, 301, 302, 303, 304])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--trainers", type=int, default=10)
    chosen, values = parser.parse_args(), []
    for seed in chosen.seeds:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            arguments = write_parts(folder, chosen.trainers, seed)
            arguments += ["--seed", str(seed), "--rounds", str(chosen.rounds)]
            whole = measure(folder, arguments, chosen.trainers, seed)
            values.append(whole["value"])
            if seed == chosen.seeds[-1]:
                kill_and_continue(folder, arguments, chosen.rounds, whole["model_sha256"])
    print(f"held out: mean {np.mean(values):.1%}, least {min(values):.1%} of {len(values)} seeds")


if __name__ == "__main__":
    main()
