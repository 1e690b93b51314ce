"""The test machines leave no process, mount or control group after a crash."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from machines import PREFIX, cgroup_trees, until

CRASH = """
import os, signal
from machines import Network

network = Network()
network.machine("north").boot()
print(os.getpid(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
GONE_S = 20.0


def left_of(tag: str) -> list[str]:
    """Return processes, mounts and control groups with this tag."""
    found = [str(path) for tree in cgroup_trees() for path in tree.glob(f"{tag}-*")]
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            found += [str(process)] * (tag.encode() in process.read_bytes())
    return found + [line for line in Path("/proc/mounts").read_text().splitlines() if PREFIX in line and tag in line]


def test_crash_leaves_no_process_mount_or_control_group() -> None:
    folder = Path(__file__).parent

    done = subprocess.run([sys.executable, "-c", CRASH], cwd=folder, capture_output=True, text=True, check=False)

    assert done.returncode == -signal.SIGKILL, done.stderr
    tag = f"{PREFIX}-{int(done.stdout)}"
    until(lambda: not left_of(tag), f"all of {tag} to be removed", GONE_S, details=lambda: "\n".join(left_of(tag)))
