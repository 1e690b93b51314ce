"""The systemd units of fedmq, checked by `systemd-analyze`, which needs no running systemd."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import click
import pytest

from fedmq.cli.main import fedmq
from fedmq.cli.settings import config_key
from fedmq.security.keyring import FEDERATION, KEY_SUFFIX

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))
EVERY_UNIT = [*SERVICES, "fedmq.target"]
EXECUTABLE = "/opt/fedmq/bin/fedmq"
# The units of systemd that ours depend on; stand-ins, so that this machine does not affect the result.
STAND_INS = ["basic.target", "multi-user.target", "network-online.target", "shutdown.target", "sysinit.target"]
EXPOSURE_TENTHS_MAX = 20  # of systemd's own scale, 0 (isolated) to 100 (a plain root service)


@pytest.fixture
def analyze() -> str:
    """Return the path of systemd-analyze; without it skip the test, or fail on CI."""
    found = shutil.which("systemd-analyze")
    if found is None:
        line = "systemd-analyze is needed to check the units, but is not on PATH: install Debian's package systemd"
        if os.environ.get("CI") == "true":
            pytest.fail(line, pytrace=False)
        pytest.skip(line)
    return found


@pytest.fixture
def unit_folder(tmp_path: Path) -> Path:
    """Copy the units with an existing executable, and add stand-ins for the system's units."""
    for name in EVERY_UNIT:
        text = (UNITS / name).read_text()
        (tmp_path / name).write_text(text.replace(EXECUTABLE, "/bin/true"))
    for name in STAND_INS:
        (tmp_path / name).write_text("[Unit]\nDescription=stand-in\n")
    return tmp_path


def verify(analyze: str, folder: Path, unit: str) -> tuple[int, str]:
    """Return the exit code and the messages of systemd; unknown keys are messages with exit code 0."""
    done = subprocess.run(
        [analyze, "verify", "--man=no", f"./{unit}"],
        cwd=folder,
        env={**os.environ, "SYSTEMD_UNIT_PATH": str(folder), "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    return done.returncode, done.stderr


def commands_of(unit: str) -> list[list[str]]:
    """Return the arguments of each ExecStart of `unit`."""
    lines = re.findall(r"^ExecStart=(.*)$", (UNITS / unit).read_text(), flags=re.MULTILINE)
    return [shlex.split(line) for line in lines]


def subcommand(name: str) -> click.Command:
    """Return the command `fedmq NAME`."""
    found = fedmq.get_command(click.Context(fedmq), name)
    assert found is not None, f"fedmq has no command {name!r}"
    return found


@pytest.mark.parametrize("unit", EVERY_UNIT)
def test_systemd_accepts_the_unit(analyze: str, unit_folder: Path, unit: str) -> None:
    assert verify(analyze, unit_folder, unit) == (0, "")


@pytest.mark.parametrize(
    ("right", "wrong"),
    [("RestartSec=", "RestartSecs="), ("MemoryMax=512M", "MemoryMax=plenty"), ("[Install]", "[Instal]")],
)
def test_misspelled_line_is_found(analyze: str, unit_folder: Path, right: str, wrong: str) -> None:
    unit = unit_folder / "fedmq-broker.service"
    text = unit.read_text()
    assert right in text
    unit.write_text(text.replace(right, wrong))
    _, messages = verify(analyze, unit_folder, unit.name)
    assert "fedmq-broker.service:" in messages


def test_missing_executable_is_found(analyze: str, unit_folder: Path) -> None:
    unit = unit_folder / "fedmq-broker.service"
    unit.write_text(unit.read_text().replace("/bin/true", str(unit_folder / "nowhere")))
    assert verify(analyze, unit_folder, unit.name) != (0, "")


@pytest.mark.parametrize("unit", SERVICES)
def test_service_has_low_exposure(analyze: str, unit_folder: Path, unit: str) -> None:
    done = subprocess.run(
        [analyze, "security", "--no-pager", "--offline=true", f"--threshold={EXPOSURE_TENTHS_MAX}", f"./{unit}"],
        cwd=unit_folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, f"{done.stderr}{done.stdout}"


@pytest.mark.parametrize("unit", SERVICES)
def test_service_allows_the_system_calls_of_libzmq(unit: str) -> None:
    lines = (UNITS / unit).read_text().splitlines()
    families = next(line for line in lines if line.startswith("RestrictAddressFamilies="))
    assert "AF_NETLINK" in families.split()
    filters = [line for line in lines if line.startswith("SystemCallFilter=")]
    assert filters[-1] == "SystemCallFilter=sched_setscheduler"


@pytest.mark.parametrize("unit", SERVICES)
def test_service_notifies_readiness_and_has_a_watchdog(unit: str) -> None:
    lines = (UNITS / unit).read_text().splitlines()
    assert "Type=notify" in lines
    assert any(line.startswith("WatchdogSec=") for line in lines)
    assert any("PYTHONFAULTHANDLER=1" in line for line in lines)
    assert "LimitCORE=0" in lines  # a core would contain keys and rows


@pytest.mark.parametrize("unit", SERVICES)
def test_service_has_limits_of_memory_and_tasks(unit: str) -> None:
    text = (UNITS / unit).read_text()
    assert re.search(r"^MemoryMax=\d+(M|G|%)$", text, flags=re.MULTILINE)
    assert re.search(r"^TasksMax=\d+$", text, flags=re.MULTILINE)
    assert f"# systemctl set-property {unit.replace('@.', '@NAME.')} MemoryMax=" in text


@pytest.mark.parametrize("unit", SERVICES)
def test_configuration_errors_are_not_restarted(unit: str) -> None:
    (line,) = re.findall(r"^RestartPreventExitStatus=(.*)$", (UNITS / unit).read_text(), flags=re.MULTILINE)
    assert {"2", "77", "78"} <= set(line.split())
    assert "69" not in line.split()


def test_broker_and_aggregator_share_keys_but_no_secrets() -> None:
    broker, aggregator = ((UNITS / f"fedmq-{name}.service").read_text() for name in ("broker", "aggregator"))
    for text in (broker, aggregator):
        assert re.search(r"^StateDirectory=.*\bfedmq/keys$", text, flags=re.MULTILINE)
        assert "\nUser=fedmq\n" in text
    assert "\nInaccessiblePaths=-%S/fedmq/keys/aggregator.key\n" in broker
    assert "\nInaccessiblePaths=-%S/fedmq/keys/broker.key\n" in aggregator


def test_credentials_of_a_trainer_have_the_names_of_key_files() -> None:
    text = (UNITS / "fedmq-trainer@.service").read_text()
    names = re.findall(r"^LoadCredential=([^:]+):([^/\n]+)$", text, flags=re.MULTILINE)  # no path: the file is optional
    assert [name for name, _ in names] == [FEDERATION, f"trainer{KEY_SUFFIX}"]


def test_trainer_instances_have_different_users() -> None:
    assert "User=fedmq-trainer-%i" in (UNITS / "fedmq-trainer@.service").read_text().splitlines()


@pytest.mark.parametrize(
    ("unit", "example"),
    [
        ("fedmq-broker.service", "broker.toml"),
        ("fedmq-aggregator.service", "aggregator.toml"),
        ("fedmq-trainer@.service", "trainer.toml"),
        ("fedmq-dashboard.service", "dashboard.toml"),
    ],
)
def test_service_command_accepts_its_options_and_the_example_settings(
    unit: str, example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)  # keep the log settings of the tests
    [(executable, name, *arguments)] = commands_of(unit)
    assert executable == EXECUTABLE
    known = {"%i": "north", "${STATE_DIRECTORY}": str(tmp_path)}
    arguments = [str(UNITS / example) if word.endswith(".toml") else known.get(word, word) for word in arguments]
    settings = tomllib.loads((UNITS / example).read_text())
    with subcommand(name).make_context(name, arguments) as context:  # parses and converts, runs nothing
        options = [param for param in context.command.params if isinstance(param, click.Option)]
        parsed = {config_key(option): str(context.params.get(option.name)) for option in options}
        assert set(settings) <= set(parsed)
        assert {key: parsed[key] for key in settings} == {key: str(settings[key]) for key in settings}
