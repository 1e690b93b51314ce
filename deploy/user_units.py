"""Trainers as transient services of the user's own systemd: started once, and from then on systemd's.

Knows how to hand them over and what systemd says of them, nothing of their settings.
"""

from __future__ import annotations

import configparser
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

# Lives and ends as the trainer of a whole machine does. What that one may see is another matter: this one is the
# user's own process, among the user's own files.
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
OWN = ("StateDirectory=fedmq", "StateDirectoryMode=0700")  # each trainer has a folder of its name in it
NEXT = """\
Now systemd has them.
see     systemctl --user status 'fedmq-trainer-*'
follow  journalctl --user --follow --unit 'fedmq-trainer-*'
stop    systemctl --user stop 'fedmq-trainer-*'
keep    loginctl enable-linger    (or they end when you have logged out)"""


class Outcome(NamedTuple):
    """What became of a trainer; `code` is 0 when it runs."""

    name: str
    how: str
    code: int = 0


def answers() -> bool:
    """Whether the user has a systemd that can be asked."""
    try:
        return _systemctl("show", "--property=Version").returncode == 0
    except OSError:
        return False


def start(trainers: dict[str, list[str]]) -> Iterator[Outcome]:
    """Have these run, by name with the words of their commands; what is as it should be is left alone."""
    stands = {name: _show(name) for name in trainers}
    wanted = {name: _wanted(words) for name, words in trainers.items()}
    same = {name for name, stand in stands.items() if stand["ActiveState"] in ("active", "activating")}
    same = {name for name in same if {key: stands[name][key] for key in wanted[name]} == wanted[name]}
    others = [name for name in trainers if name not in same]
    if before := [unit_of(name) for name in others if stands[name]["ActiveState"] != "inactive"]:
        _systemctl("stop", *before)
        _systemctl("reset-failed", *before)  # a transient unit that has failed is kept until then
    begun = {name: _popen(command(name, trainers[name])) for name in others}
    for name in trainers:
        if name in same:
            yield Outcome(name, "left alone, it runs")
        else:
            errors = begun[name].communicate()[1]
            again = " again" * (stands[name]["ActiveState"] != "inactive")
            failed = begun[name].returncode != 0
            yield _failure(name, errors) if failed else Outcome(name, f"started{again} as {unit_of(name)}")


def unit_of(name: str) -> str:
    """The unit of a trainer."""
    return f"fedmq-trainer-{name}.service"


def command(name: str, words: list[str]) -> list[str]:
    """What starts `fedmq WORDS` as the unit of this trainer, and waits until it is ready."""
    properties = [*shared_properties(), *OWN, *(f"{key}={value}" for key, value in _wanted(words).items())]
    own = [sys.executable, "-P", "-m", "fedmq", *words]
    start = ["systemd-run", "--user", "--quiet", f"--unit={unit_of(name)}"]
    # systemd takes $WORD for a variable.
    return [*start, *(f"--property={one}" for one in properties), "--", *(word.replace("$", "$$") for word in own)]


def shared_properties() -> list[str]:
    """The lines of the unit that hold here, too."""
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT.read_text(encoding="utf-8"))
    found = {**unit["Unit"], **unit["Service"]}
    return [f"{key}={found[key]}" for key in SHARED]


def _wanted(words: list[str]) -> dict[str, str]:
    """What tells a unit from another with other settings; the first is for people to read, too."""
    return {"Description": f"fedmq {shlex.join(words)}", "WorkingDirectory": str(Path.cwd())}


def _show(name: str) -> dict[str, str]:
    """How the unit of a trainer stands."""
    keys = "ActiveState,Description,WorkingDirectory,ExecMainStatus,ExecMainPID"
    lines = _systemctl("show", f"--property={keys}", unit_of(name)).stdout.splitlines()
    return dict.fromkeys(keys.split(","), "") | {
        key: value for key, _, value in (line.partition("=") for line in lines)
    }


def _failure(name: str, errors: str) -> Outcome:
    """Why it does not run, in one line: in its own words, if the journal shows them."""
    stand = _show(name)
    code = stand["ExecMainStatus"]
    if code in ("", "0"):
        return Outcome(name, f"could not be started: {' '.join(errors.split()) or 'systemd-run does not say why'}", 1)
    journal = ["journalctl", "--user", "--quiet", f"--unit={unit_of(name)}"]
    last = _run([*journal, "--output=cat", "--lines=1", f"_PID={stand['ExecMainPID']}"]).stdout.strip()
    why = last.removeprefix("fedmq: ") or f"{shlex.join(journal)} may say why"
    return Outcome(name, f"ended with exit code {code}: {why}", int(code))


def _systemctl(*words: str) -> subprocess.CompletedProcess[str]:
    return _run(["systemctl", "--user", *words])


def _run(words: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def _popen(words: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
