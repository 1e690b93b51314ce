"""The conditions under which every test runs, in any environment: signals, umask, descriptors, environment, home.

A test that gets less from the machine than it asks for reports with `leave_out` what it did not try; the last lines of
the run show that.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from fedmq.deploy import processes

# A deadline would time the machine: a page that is read in for the first time takes longer than the test.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

LEFT_OUT = "left out"
DESCRIPTORS = 4096
# Python itself ignores these two; the children that it starts do not.
IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)
# Variables by which a service of systemd, a hook of git, a terminal or a user changes what programs do and print.
FOREIGN = {
    *("CREDENTIALS_DIRECTORY", "JOURNAL_STREAM", "NOTIFY_SOCKET", "RUNTIME_DIRECTORY", "STATE_DIRECTORY"),
    *("WATCHDOG_PID", "WATCHDOG_USEC"),
    *("CLICOLOR", "CLICOLOR_FORCE", "COLORTERM", "COLUMNS", "FORCE_COLOR", "LINES", "NO_COLOR", "TERM"),
    *("TTY_COMPATIBLE", "TTY_INTERACTIVE"),
    *("LANG", "LANGUAGE", "PYTHONDEVMODE", "PYTHONDONTWRITEBYTECODE", "PYTHONIOENCODING", "PYTHONOPTIMIZE"),
    *("PYTHONUTF8", "PYTHONWARNINGS"),
}
FOREIGN_PREFIXES = ("FEDMQ_", "GIT_", "LC_", "MLFLOW_", "XDG_")

# Without bytecode on disk, each of some thousand processes compiles fedmq anew: half of the time of the whole run.
sys.dont_write_bytecode = False


@pytest.fixture(scope="session", autouse=True)
def _conditions(tmp_path_factory: pytest.TempPathFactory, pytestconfig: pytest.Config) -> Iterator[None]:
    """The same conditions for all tests of this process and for its children."""
    _reset_signals()
    os.umask(0o022)
    _raise_descriptors()
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ:
            if name in FOREIGN or name.startswith(FOREIGN_PREFIXES):
                patch.delenv(name)
        patch.setenv("LC_ALL", "C.UTF-8")
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(processes, "CANDIDATES", _own_ports())
        for name in ("no_proxy", "NO_PROXY"):  # the tests talk to this machine only
            patch.setenv(name, "127.0.0.1,localhost")
        if "MPLCONFIGDIR" not in os.environ:  # kept between runs: matplotlib reports when it lists the fonts anew
            cache: pytest.Cache | None = getattr(pytestconfig, "cache", None)  # None with -p no:cacheprovider
            kept = tmp_path_factory.mktemp("matplotlib") if cache is None else cache.mkdir("matplotlib")
            patch.setenv("MPLCONFIGDIR", str(kept))
        yield


def _own_ports() -> range:
    """Return the share of the ports for this process: one that another test has chosen is free until it is bound."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    count = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    share = len(processes.CANDIDATES) // count
    first = number % count * share
    return processes.CANDIDATES[first : first + share]


def _reset_signals() -> None:
    """Handle signals that the parent ignores or blocks: SIGINT in a background job, SIGHUP under nohup."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for number in signal.valid_signals() - {*IGNORED_BY_PYTHON}:
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)


def _raise_descriptors() -> None:
    """As many descriptors as the tests use, or as many as there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@pytest.fixture
def leave_out(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Report, in one line at the end of the run, what this test did not try on this machine."""
    return lambda what: request.node.user_properties.append((LEFT_OUT, f"{request.node.nodeid}: {what}"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show what tests have left out."""
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    for line in dict.fromkeys(str(what) for one in reports for name, what in one.user_properties if name == LEFT_OUT):
        terminalreporter.write_line(f"{LEFT_OUT}: {line}")
