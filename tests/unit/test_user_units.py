"""What the user's systemd is asked for when `fedmq spawn` hands trainers over: a stand-in listens to the commands."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from deploy import user_units

WORDS = ["trainer", "--name", "ward-1", "--data", "rows of $ward.csv"]
# Writes down how it was called; systemctl answers with what the file `stand` says.
STAND_IN = """\
#!/bin/sh
printf '%s\\n' "$(basename "$0") $*" >> "{folder}/calls"
case "$(basename "$0") $*" in
    systemctl*show*Version*) [ -e "{folder}/stand" ] ;;
    systemctl*show*) cat "{folder}/stand" ;;
    systemd-run*) [ ! -e "{folder}/refusal" ] || {{ cat "{folder}/refusal" >&2; exit 1; }} ;;
    journalctl*) cat "{folder}/journal" ;;
esac
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose systemd is a stand-in."""
    for name in ("systemctl", "systemd-run", "journalctl"):
        (tmp_path / name).write_text(STAND_IN.format(folder=tmp_path))
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def calls(folder: Path) -> list[str]:
    """The verbs that the stand-ins have heard, with the unit if there is one."""
    lines = (folder / "calls").read_text().splitlines()
    return [line for line in lines if " show " not in line]


def stands(folder: Path, state: str, **more: str) -> None:
    """Let systemd say this of every unit."""
    found = {
        "ActiveState": state,
        "Description": "fedmq trainer --name ward-1 --data 'rows of $ward.csv'",
        "WorkingDirectory": str(folder),
        "ExecMainStatus": "0",
        "ExecMainPID": "4711",
        **more,
    }
    (folder / "stand").write_text("".join(f"{key}={value}\n" for key, value in found.items()))


def test_a_trainer_is_handed_over_with_what_the_unit_of_a_machine_says(folder: Path) -> None:
    words = user_units.command("ward-1", WORDS)

    assert words[:4] == ["systemd-run", "--user", "--quiet", "--unit=fedmq-trainer-ward-1.service"]
    assert words[words.index("--") + 1 :] == [sys.executable, "-m", "fedmq", *WORDS[:-1], "rows of $$ward.csv"]
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


def test_a_trainer_that_is_not_there_is_started(folder: Path) -> None:
    stands(folder, "inactive", Description="fedmq-trainer-ward-1.service")

    [outcome] = user_units.start({"ward-1": WORDS})

    assert outcome == ("ward-1", "started as fedmq-trainer-ward-1.service", 0)
    [call] = calls(folder)
    assert call.startswith("systemd-run --user")


@pytest.mark.parametrize("state", ["active", "activating"])
def test_a_trainer_that_runs_as_it_should_is_left_alone(folder: Path, state: str) -> None:
    stands(folder, state)

    assert list(user_units.start({"ward-1": WORDS})) == [("ward-1", "left alone, it runs", 0)]
    assert calls(folder) == []


@pytest.mark.parametrize(
    ("state", "other"),
    [
        ("active", {"Description": "fedmq trainer --name ward-1 --data others.csv"}),
        ("active", {"WorkingDirectory": "/elsewhere"}),
        ("failed", {}),
    ],
)
def test_a_trainer_with_other_settings_or_one_that_has_failed_is_started_again(
    folder: Path, state: str, other: dict[str, str]
) -> None:
    stands(folder, state, **other)

    [outcome] = user_units.start({"ward-1": WORDS})

    assert outcome.how == "started again as fedmq-trainer-ward-1.service"
    assert [call.split()[:3] for call in calls(folder)] == [
        ["systemctl", "--user", "stop"],
        ["systemctl", "--user", "reset-failed"],
        ["systemd-run", "--user", "--quiet"],
    ]


@pytest.mark.parametrize(
    ("journal", "why"),
    [
        ("fedmq: expected rows, got none\n", "expected rows, got none"),
        ("", "journalctl --user --quiet --unit=fedmq-trainer-ward-1.service may say why"),
    ],
)
def test_a_trainer_that_ends_at_once_is_one_line_with_its_exit_code(folder: Path, journal: str, why: str) -> None:
    stands(folder, "inactive", ExecMainStatus="78")
    (folder / "refusal").write_text("Job for fedmq-trainer-ward-1.service failed.\nSee systemctl.\n")
    (folder / "journal").write_text(journal)

    assert list(user_units.start({"ward-1": WORDS})) == [("ward-1", f"ended with exit code 78: {why}", 78)]


def test_what_systemd_itself_refuses_is_told_in_its_words(folder: Path) -> None:
    stands(folder, "inactive")
    (folder / "refusal").write_text("Failed to start transient service unit: no.\n")

    [outcome] = user_units.start({"ward-1": WORDS})

    assert outcome == ("ward-1", "could not be started: Failed to start transient service unit: no.", 1)


def test_a_systemd_that_does_not_answer_or_is_not_there_has_nobody(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not user_units.answers()
    stands(folder, "inactive")
    assert user_units.answers()
    monkeypatch.setenv("PATH", str(folder / "nowhere"))
    assert not user_units.answers()
