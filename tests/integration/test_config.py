"""The command `fedmq config`, and what a service says of a file with faults."""

from __future__ import annotations

from pathlib import Path

from services import run_fedmq


def test_settings_file_is_written_once_checked_and_used(tmp_path: Path) -> None:
    written = run_fedmq("config", "init", "aggregator", "--out", "a.toml", cwd=tmp_path)
    assert written.returncode == 0
    checked = run_fedmq("config", "check", "aggregator", "a.toml", cwd=tmp_path)
    assert (checked.returncode, checked.stdout) == (0, "a.toml: 0 settings, all of them good for fedmq aggregator\n")
    again = run_fedmq("config", "init", "aggregator", "--out", "a.toml", cwd=tmp_path)
    assert again.returncode == 78
    assert "there is a file already" in again.stderr


def test_faults_are_printed_with_lines_and_a_service_refuses_the_file(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text("prot = 1\n\nport = 0\n")
    checked = run_fedmq("config", "check", "broker", "b.toml", cwd=tmp_path)
    assert checked.returncode == 78
    first, second = checked.stderr.splitlines()
    assert first == "b.toml, line 1: unknown setting 'prot'; did you mean port?"
    assert second.startswith("b.toml, line 3: port: 0 is not in the range")
    started = run_fedmq("broker", "--config", "b.toml", cwd=tmp_path)
    assert started.returncode == 78
    assert started.stderr == f"fedmq: {first} (and 1 more, which fedmq config check tells)\n"


def test_missing_settings_file_is_reported(tmp_path: Path) -> None:
    done = run_fedmq("config", "check", "trainer", "none.toml", cwd=tmp_path)
    assert done.returncode == 78
    assert done.stderr.startswith("fedmq: none.toml: cannot be read")
