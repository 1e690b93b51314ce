"""The rules of the house that no other tool checks: light imports, words, and a README that tells the truth.

Knows nothing of what the code does.
"""

from __future__ import annotations

import configparser
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from shutil import which

import click
import pytest

from fedmq import __version__
from fedmq.cli.main import fedmq

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
HEAVY = ["numpy", "pygad", "zmq"]
# In parts, so that this file may name what no file may name.
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
    """What a new interpreter prints when it runs `code`."""
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
    """Every file that git has or would take, without those that are already deleted."""
    if which("git") is None:
        pytest.skip("git is not here, so nobody can say which files belong to the project")
    done = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    if done.returncode != 0:
        pytest.skip("this tree is not a git checkout, so nobody can say which files belong to it")
    return [ROOT / name for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


def code_blocks() -> list[str]:
    """The shell blocks of the README, without prompts; of a block with prompts, only the lines that have one."""
    blocks = re.findall(r"^```(?:sh|bash|shell|console)\n(.*?)^```", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [commands_without_prompts(block) for block in blocks]


def commands_without_prompts(block: str) -> str:
    if not re.search(r"^\$ ", block, flags=re.MULTILINE):
        return block
    return "\n".join(line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ "))


def simple_commands(script: str) -> Iterator[list[str]]:
    """The simple commands of a shell script, in words: split at newlines and at ; & | ( )."""
    for line in script.replace("\\\n", " ").splitlines():
        words = shlex.shlex(line, posix=True, punctuation_chars=True)
        words.whitespace_split = True
        command: list[str] = []
        for word in words:
            if set(word) <= set(";&|()"):
                yield command
                command = []
            else:
                command.append(word)
        yield command


def fedmq_commands() -> list[list[str]]:
    """The words after `fedmq` of each command in the README, in its shell blocks and in its code spans."""
    prose = re.sub(r"^```.*?^```", "", README.read_text(), flags=re.MULTILINE | re.DOTALL)
    spans = [span.strip() for span in re.findall(r"`([^`\n]+)`", prose) if re.match(r"\s*fedmq\s", span)]
    # Usage spans have brackets, dots and bars, which are no shell: read them as plain words.
    found = [re.sub(r"[\[\]|…]", " ", span).split()[1:] for span in spans]
    for block in code_blocks():
        for command in simple_commands(block):
            words = [word for word in command if not re.match(r"\w+=", word) and word != "sudo"]
            if words and Path(words[0]).name == "fedmq":
                found.append(words[1:])
    return found


def complaints_about(words: list[str]) -> Iterator[str]:
    """What is wrong with `fedmq WORDS...`: a subcommand or a long option that does not exist."""
    command: click.Command = fedmq
    options, values = long_options_of(command), 0
    for word in words:
        if word == "--":
            return
        if values:
            values -= 1
        elif word.startswith("--"):
            if word.partition("=")[0] not in options:
                yield f"fedmq {' '.join(words)}: {command.name} has no option {word}"
            elif "=" not in word:
                values = options[word]
        elif isinstance(command, click.Group) and not word.startswith("-"):
            inner = command.get_command(click.Context(command), word)
            if inner is None:
                yield f"fedmq {' '.join(words)}: there is no command {word}"
                return
            command, options = inner, long_options_of(inner)


def long_options_of(command: click.Command) -> dict[str, int]:
    """How many words follow each as its value."""
    return {
        flag: 0 if getattr(parameter, "is_flag", False) else parameter.nargs
        for parameter in command.get_params(click.Context(command))
        for flag in (*parameter.opts, *parameter.secondary_opts)
        if flag.startswith("--")
    }


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
    """The version in setup.cfg."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    return settings["metadata"]["version"]


def test_package_and_metadata_have_the_same_version() -> None:
    assert __version__ == version()


def test_first_heading_of_the_changelog_is_this_version_or_unreleased() -> None:
    headings = re.findall(r"^## \[?([^\]\s]+)", (ROOT / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert headings[0] in {version(), "Unreleased"}


def test_the_readme_shows_shell_that_a_shell_can_read() -> None:
    for block in code_blocks():
        done = subprocess.run(["bash", "-n"], input=block, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode == 0, f"{done.stderr}in:\n{block}"


def test_commands_and_options_in_the_readme_exist() -> None:
    commands = fedmq_commands()
    assert commands, "the README shows no fedmq command"
    assert [complaint for words in commands for complaint in complaints_about(words)] == []


@pytest.mark.parametrize("words", [["demoo"], ["--no-such-option"], ["demo", "--no-such-option=1"]], ids=" ".join)
def test_unknown_command_or_option_is_detected(words: list[str]) -> None:
    assert len(list(complaints_about(words))) == 1


@pytest.mark.parametrize(
    ("script", "commands"),
    [
        ("fedmq broker & fedmq demo | tee log", [["fedmq", "broker"], ["fedmq", "demo"], ["tee", "log"]]),
        ("fedmq demo \\\n  --seed 1  # quick", [["fedmq", "demo", "--seed", "1"]]),
    ],
)
def test_commands_are_found_in_a_script(script: str, commands: list[list[str]]) -> None:
    assert [command for command in simple_commands(script) if command] == commands
