"""The command `fedmq config`, and services with a faulty file of settings."""

from __future__ import annotations

from pathlib import Path

from services import run_fedmq


def test_settings_file_is_written_once_checked_and_used(tmp_path: Path) -> None:
    written = run_fedmq("config", "init", "aggregator", "--out", "a.toml", cwd=tmp_path)
    assert written.returncode == 0
    checked = run_fedmq("config", "check", "aggregator", "a.toml", cwd=tmp_path)
    assert checked.returncode == 0
    assert checked.stdout.startswith("a.toml: 0 settings")
    again = run_fedmq("config", "init", "aggregator", "--out", "a.toml", cwd=tmp_path)
    assert again.returncode == 78
    assert "a.toml" in again.stderr


def test_faults_are_printed_with_lines_and_a_service_refuses_the_file(tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text("prot = 1\n\nport = 0\n")
    checked = run_fedmq("config", "check", "broker", "b.toml", cwd=tmp_path)
    assert checked.returncode == 78
    first, second = checked.stderr.splitlines()
    assert first.startswith("b.toml, line 1: ")
    assert "port?" in first
    assert second.startswith("b.toml, line 3: port: 0 ")
    started = run_fedmq("broker", "--config", "b.toml", cwd=tmp_path)
    assert started.returncode == 78
    assert started.stderr.startswith(f"fedmq: {first} (and 1 more")


def test_missing_settings_file_is_reported(tmp_path: Path) -> None:
    done = run_fedmq("config", "check", "trainer", "none.toml", cwd=tmp_path)
    assert done.returncode == 78
    assert done.stderr.startswith("fedmq: none.toml: ")
