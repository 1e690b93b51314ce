"""Rules of the house that no other tool checks: light imports, versions, no local paths, and a correct README."""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
import sys
from pathlib import Path
from shutil import which

import click
import pytest

from fedmq import __version__
from fedmq.cli.main import fedmq

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
HEAVY = ["numpy", "pygad", "zmq"]
# In parts, because this file is checked, too.
FORBIDDEN = [
    *(rf"(?<![\w.])/{folder}/" for folder in ("work", "root")),
    *(
        re.escape(f"{host}.{domain}")
        for host, domain in [("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("deb.debian", "org")]
    ),
]
LIGHT_HELP = f"""
import sys
from fedmq.cli.main import main
sys.argv = ["fedmq", "--help"]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("loaded:", [name for name in {HEAVY} if name in sys.modules])
"""


def printed_by(code: str) -> str:
    """Run `code` in a new interpreter; return its output."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def files_of_the_project() -> list[Path]:
    """Return every file that git tracks or would add."""
    if which("git") is None:
        pytest.skip("git is not installed")
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    if done.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def commands_in_the_readme() -> list[str]:
    """Commands of fedmq in the README: in its shell blocks, which test_docs.py runs, and in its text."""
    return re.findall(r"^(?:\$ )?(fedmq [^|&;>\n]*)|`(fedmq [^`\n]*)`", README.read_text(), flags=re.MULTILINE)


def unknown_words(text: str) -> list[str]:
    """Return the command, or the long options, of a command line that do not exist."""
    words = shlex.split(text, comments=True)[1:]
    command: click.Command = fedmq
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        inner = command.get_command(click.Context(command), words[0])
        if inner is None:
            return words[:1]
        command, words = inner, words[1:]
    known = {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)}
    return [word for word in words if word.startswith("--") and word.partition("=")[0] not in known]


def test_folders_of_tests_are_not_packages() -> None:
    assert list((ROOT / "tests").rglob("__init__.py")) == []


def test_package_is_marked_as_typed() -> None:
    assert (ROOT / "fedmq" / "py.typed").is_file()


def test_importing_fedmq_loads_no_heavy_module() -> None:
    assert printed_by(f"import sys, fedmq; print([name for name in {HEAVY} if name in sys.modules])").strip() == "[]"


def test_help_loads_no_heavy_module() -> None:
    assert printed_by(LIGHT_HELP).splitlines()[-1] == "loaded: []"


def test_files_name_no_path_of_one_machine_and_no_registry() -> None:
    pattern = re.compile("|".join(FORBIDDEN))
    found = []
    for path in files_of_the_project():
        text = path.read_bytes().decode("utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {match.group()}" for match in pattern.finditer(text)]
    assert found == []


def version() -> str:
    """Return the version in setup.cfg."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    return settings["metadata"]["version"]


def test_package_and_metadata_have_the_same_version() -> None:
    assert __version__ == version()


def test_first_heading_of_the_changelog_is_this_version_or_unreleased() -> None:
    headings = re.findall(r"^## \[?([^\]\s]+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] in {version(), "Unreleased"}


def test_commands_and_options_in_the_readme_exist() -> None:
    commands = ["".join(found) for found in commands_in_the_readme()]
    assert commands
    assert [(command, unknown) for command in commands if (unknown := unknown_words(command))] == []


@pytest.mark.parametrize("words", ["demoo", "--no-such-option", "demo --no-such-option=1", "runs nothing"])
def test_unknown_command_or_option_is_detected(words: str) -> None:
    assert len(unknown_words(f"fedmq {words}")) == 1
