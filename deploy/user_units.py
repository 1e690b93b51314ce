"""Trainers as transient services of the user's own systemd, which restarts them from then on."""

import configparser
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# A user's trainer starts and stops like the system's one. It has no file restrictions: it runs as the user, among the
# user's own files.
UNIT = Path(__file__).with_name("systemd") / "fedmq-trainer@.service"
SHARED = (
    "StartLimitIntervalSec",
    "Type",
    "TimeoutStartSec",
    "Environment",
    "LimitCORE",
    "Restart",
    "RestartPreventExitStatus",
    "RestartSec",
    "TimeoutStopSec",
    "WatchdogSec",
    "TasksMax",
    "UMask",
    "NoNewPrivileges",
)
OWN = ("StateDirectory=fedmq", "StateDirectoryMode=0700")  # each trainer has a folder of its name inside
NEXT = """\
Managed by systemd:
see     systemctl --user status 'fedmq-trainer-*'
follow  journalctl --user --follow --unit 'fedmq-trainer-*'
stop    systemctl --user stop 'fedmq-trainer-*'
keep    loginctl enable-linger    (without it they end when you log out)"""


class StartResult(NamedTuple):
    """The result of starting a trainer; `code` is 0 if it runs."""

    name: str
    result: str
    code: int = 0


def is_available() -> bool:
    """Return whether the user has a running systemd."""
    try:
        return _systemctl("show", "--property=Version").returncode == 0
    except OSError:
        return False


def start(trainers: dict[str, list[str]]) -> Iterator[StartResult]:
    """Run these trainers, by name with the arguments of their commands; unchanged running ones are left alone."""
    states = {name: _show(name) for name in trainers}
    wanted = {name: _identity(arguments) for name, arguments in trainers.items()}
    same = {name for name, state in states.items() if state["ActiveState"] in ("active", "activating")}
    same = {name for name in same if {key: states[name][key] for key in wanted[name]} == wanted[name]}
    others = [name for name in trainers if name not in same]
    if before := [unit_of(name) for name in others if states[name]["ActiveState"] != "inactive"]:
        _systemctl("stop", *before)
        _systemctl("reset-failed", *before)  # a transient unit that has failed is kept until then
    begun = {name: _popen(command(name, trainers[name])) for name in others}
    for name in trainers:
        if name in same:
            yield StartResult(name, "already running")
        else:
            errors = begun[name].communicate()[1]
            verb = "started" if states[name]["ActiveState"] == "inactive" else "restarted"
            failed = begun[name].returncode != 0
            yield _failure(name, errors) if failed else StartResult(name, f"{verb} as {unit_of(name)}")


def unit_of(name: str) -> str:
    """Return the name of the unit of a trainer."""
    return f"fedmq-trainer-{name}.service"


def command(name: str, arguments: list[str]) -> list[str]:
    """Return the command that starts `fedmq ARGUMENTS` as the unit of a trainer, and waits until it is ready."""
    properties = [*shared_properties(), *OWN, *(f"{key}={value}" for key, value in _identity(arguments).items())]
    own = [sys.executable, "-P", "-m", "fedmq", *arguments]
    start = ["systemd-run", "--user", "--quiet", f"--unit={unit_of(name)}"]
    # systemd would expand $NAME.
    return [*start, *(f"--property={one}" for one in properties), "--", *(word.replace("$", "$$") for word in own)]


def shared_properties() -> list[str]:
    """Return the properties of the system unit that apply to a user unit, too."""
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT.read_text(encoding="utf-8"))
    found = {**unit["Unit"], **unit["Service"]}
    return [f"{key}={found[key]}" for key in SHARED]


def _identity(arguments: list[str]) -> dict[str, str]:
    """Return the properties that differ between units with different settings."""
    return {"Description": f"fedmq {shlex.join(arguments)}", "WorkingDirectory": str(Path.cwd())}


def _show(name: str) -> dict[str, str]:
    """Return the state of the unit of a trainer."""
    state = dict.fromkeys(("ActiveState", "Description", "WorkingDirectory", "ExecMainStatus", "ExecMainPID"), "")
    lines = _systemctl("show", f"--property={','.join(state)}", unit_of(name)).stdout.splitlines()
    return state | {key: value for key, _, value in (line.partition("=") for line in lines)}


def _failure(name: str, errors: str) -> StartResult:
    """Return why a trainer does not run: its own last line, if the journal has it."""
    state = _show(name)
    code = state["ExecMainStatus"]
    if code in ("", "0"):
        return StartResult(name, f"could not be started: {' '.join(errors.split()) or 'systemd-run gave no reason'}", 1)
    journal = ["journalctl", "--user", "--quiet", f"--unit={unit_of(name)}"]
    last = _run([*journal, "--output=cat", "--lines=1", f"_PID={state['ExecMainPID']}"]).stdout.strip()
    why = last.removeprefix("fedmq: ") or f"see {shlex.join(journal)}"
    return StartResult(name, f"ended with exit code {code}: {why}", int(code))


def _systemctl(*arguments: str) -> subprocess.CompletedProcess[str]:
    return _run(["systemctl", "--user", *arguments])


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def _popen(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
