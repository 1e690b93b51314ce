"""The commands that `fedmq spawn` sends to the user's systemd, recorded by fake programs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from fedmq.deploy import user_units

ARGUMENTS = ["trainer", "--name", "ward-1", "--data", "rows of $ward.csv"]
# Records how it was called; systemctl prints the file `state`.
FAKE = """\
#!/bin/sh
printf '%s\\n' "$(basename "$0") $*" >> "{folder}/calls"
case "$(basename "$0") $*" in
    systemctl*show*Version*) [ -e "{folder}/state" ] ;;
    systemctl*show*) cat "{folder}/state" ;;
    systemd-run*) [ ! -e "{folder}/refusal" ] || {{ cat "{folder}/refusal" >&2; exit 1; }} ;;
    journalctl*) cat "{folder}/journal" ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working directory with a fake systemd."""
    for name in ("systemctl", "systemd-run", "journalctl"):
        (tmp_path / name).write_text(FAKE.format(folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calls(folder: Path) -> list[str]:
    """Return the recorded commands, without queries."""
    lines = (folder / "calls").read_text().splitlines()
    return [line for line in lines if " show " not in line]


def set_state(folder: Path, state: str, **more: str) -> None:
    """Set the state that systemd reports of every unit."""
    found = {
        "ActiveState": state,
        "Description": "fedmq trainer --name ward-1 --data 'rows of $ward.csv'",
        "WorkingDirectory": str(folder),
        "ExecMainStatus": "0",
        "ExecMainPID": "4711",
        **more,
    }
    (folder / "state").write_text("".join(f"{key}={value}\n" for key, value in found.items()))


def test_user_unit_has_the_properties_of_the_system_unit(folder: Path) -> None:
    words = user_units.command("ward-1", ARGUMENTS)

    assert words[:4] == ["systemd-run", "--user", "--quiet", "--unit=fedmq-trainer-ward-1.service"]
    started = words[words.index("--") + 1 :]
    assert started == [
        sys.executable,
        "-P",
        "-m",
        "fedmq",
        *ARGUMENTS[:-1],
        "rows of $$ward.csv",
    ]
    properties = {word.removeprefix("--property=") for word in words if word.startswith("--property=")}
    assert properties >= {
        "Type=notify",
        "Restart=on-failure",
        "RestartPreventExitStatus=2 77 78",
        "StartLimitIntervalSec=0",
        "WatchdogSec=60",
        f"WorkingDirectory={folder}",
        "Description=fedmq trainer --name ward-1 --data 'rows of $ward.csv'",
    }
    lines = user_units.UNIT.read_text().splitlines()
    assert all(line in lines for line in user_units.shared_properties())


def test_missing_trainer_is_started(folder: Path) -> None:
    set_state(folder, "inactive", Description="fedmq-trainer-ward-1.service")

    [result] = user_units.start({"ward-1": ARGUMENTS})

    assert result == ("ward-1", "started as fedmq-trainer-ward-1.service", 0)
    [call] = calls(folder)
    assert call.startswith("systemd-run --user")


@pytest.mark.parametrize("state", ["active", "activating"])
def test_unchanged_running_trainer_is_left_alone(folder: Path, state: str) -> None:
    set_state(folder, state)

    assert list(user_units.start({"ward-1": ARGUMENTS})) == [("ward-1", "already running", 0)]
    assert calls(folder) == []


@pytest.mark.parametrize(
    ("state", "other"),
    [
        ("active", {"Description": "fedmq trainer --name ward-1 --data others.csv"}),
        ("active", {"WorkingDirectory": "/elsewhere"}),
        ("failed", {}),
    ],
)
def test_changed_or_failed_trainer_is_restarted(folder: Path, state: str, other: dict[str, str]) -> None:
    set_state(folder, state, **other)

    [result] = user_units.start({"ward-1": ARGUMENTS})

    assert result.result == "restarted as fedmq-trainer-ward-1.service"
    assert [call.split()[:3] for call in calls(folder)] == [
        ["systemctl", "--user", "stop"],
        ["systemctl", "--user", "reset-failed"],
        ["systemd-run", "--user", "--quiet"],
    ]


@pytest.mark.parametrize(
    ("journal", "named"),
    [
        ("fedmq: expected rows, got none\n", "expected rows, got none"),
        ("", "journalctl --user --quiet --unit=fedmq-trainer-ward-1.service"),
    ],
)
def test_failed_start_is_one_line_with_the_exit_code(folder: Path, journal: str, named: str) -> None:
    set_state(folder, "inactive", ExecMainStatus="78")
    (folder / "refusal").write_text("Job for fedmq-trainer-ward-1.service failed.\nSee systemctl.\n")
    (folder / "journal").write_text(journal)

    [result] = user_units.start({"ward-1": ARGUMENTS})

    assert (result.name, result.code) == ("ward-1", 78)
    assert (named in result.result, "\n" in result.result) == (True, False)


def test_error_of_systemd_run_is_reported(folder: Path) -> None:
    set_state(folder, "inactive")
    (folder / "refusal").write_text("Failed to start transient service unit: no.\n")

    [result] = user_units.start({"ward-1": ARGUMENTS})

    assert (result.name, result.code) == ("ward-1", 1)
    assert "Failed to start transient service unit: no." in result.result


def test_systemd_that_is_missing_or_silent_is_not_available(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not user_units.is_available()
    set_state(folder, "inactive")
    assert user_units.is_available()
    monkeypatch.setenv("PATH", str(folder / "nowhere"))
    assert not user_units.is_available()
