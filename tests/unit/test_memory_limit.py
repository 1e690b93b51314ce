"""The memory that a process may use: the least of all limits that are known."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fedmq.runtime import memory_limit
from fedmq.runtime.memory_limit import memory_allowed

MACHINE = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def in_group(folder: Path, monkeypatch: pytest.MonkeyPatch, **limits: str) -> None:
    """Put this process into the control group `unit` below `slice`, with these limits."""
    monkeypatch.setattr(memory_limit, "CGROUPS", folder)
    monkeypatch.setattr(memory_limit, "OWN_CGROUP", folder / "own")
    (folder / "own").write_text("1:cpu:/other\n0::/slice/unit\n")
    (folder / "slice" / "unit").mkdir(parents=True)
    for name, limit in limits.items():
        path = folder / "slice" if name == "slice" else folder / "slice" / name
        (path / "memory.max").write_text(limit)


def test_least_limit_of_the_control_groups_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_group(tmp_path, monkeypatch, slice="3000000\n", unit="5000000\n")
    assert memory_allowed() == 3_000_000


@pytest.mark.parametrize("limits", [{}, {"unit": "max\n"}, {"unit": f"{MACHINE * 2}\n"}, {"unit": "nonsense"}])
def test_machine_is_the_limit_without_another(
    limits: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_group(tmp_path, monkeypatch, **limits)
    assert memory_allowed() == MACHINE


def test_limit_of_the_address_space_counts() -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30));"
        "from fedmq.runtime.memory_limit import memory_allowed; print(memory_allowed())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert int(done.stdout) <= 1 << 30
