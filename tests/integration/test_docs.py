"""What the README and the pages of docs/ show: each shell command is run, in order, and the reference is up to date.

`python tests/integration/test_docs.py` writes docs/reference/commands.md from the commands themselves.
"""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from services import clean_environment

from fedmq.cli.main import fedmq
from fedmq.deploy.processes import free_port
from fedmq.transport.address import PORTS

ROOT = Path(__file__).parents[2]
COMMANDS = ROOT / "docs" / "reference" / "commands.md"
PAGE_S = 45.0
BLOCK = re.compile(r"^```(?:sh|console)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
# What is there already when a test runs a page; what the verbs of the Makefile do is tested by doing it, and what
# changes a machine or asks its systemd belongs to a machine that is there for it.
BEFORE = re.compile(r"(git clone|make|cd|source \S*activate|sudo|systemctl|fedmq deploy)\b")
NAMED = (
    "how-to/by-hand",
    "how-to/enroll-a-trainer",
    "how-to/keep-a-run-alive",
    "how-to/metrics",
    "how-to/one-machine",
    "how-to/plot-and-compare",
    "how-to/your-own-task",
    "how-to/your-own-data",
    "how-to/ship-python",
    "how-to/watch-a-run",
    "tutorial",
)
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in NAMED)]
FIRST_MACHINE = "tcp://192.0.2.1:5550"  # on the pages, where the broker of a federation with keys is
METRICS_PORTS = ("9101", "9102", "9103")  # on the pages

INTRODUCTION = """\
# Commands

<!-- Written by `python tests/integration/test_docs.py` from the commands themselves. -->

Every option `--some-option` of the five commands that start something can also be set as `FEDMQ_SOME_OPTION` in the
environment, or as `some_option = value` in a TOML file that is named with `--config` (the variable `FEDMQ_CONFIG`
names one, too). The command line wins over the environment, the environment over the file, the file over the default.
A key that is not an option of the command is an error. [Files of settings](configuration.md) has all about them.

```toml
# aggregator.toml, for: fedmq aggregator --config aggregator.toml
task = "xor"
min_trainers = 2
deadline_s = 30
```

| exit code | meaning |
|---|---|
| 0 | done; for `demo` and `aggregator`: the target is reached |
| 1 | the target is not reached, or the aggregator was stopped before the end; for `doctor`: something is a problem |
| 2 | usage: an option that does not exist, or a value out of bounds |
| 69 | no broker answered within `--connect-timeout`; for what is said to a live run (`runs pause`): it did not |
| 77 | the broker does not let this key in; for `trainer join`: it is rejected, or the token is not good any more |
| 78 | bad configuration or settings, rows that cannot be used, a store that is damaged, no room to write |
| 130 | interrupted with Ctrl-C; `demo` also ends with 143 after SIGTERM, 129 after SIGHUP |

An error is one line on stderr: what was expected, what came, what to do. `--debug` shows a traceback as well.

SIGTERM stops a service. Ctrl-C (SIGINT) does, too, unless the service was started with SIGINT ignored, as a script
starts its background jobs: then it keeps ignoring it. The same holds for SIGHUP under `nohup`.
"""


def script_of(page: Path) -> str:
    """The commands of a page's shell blocks, without prompts, printed output, and what is done before."""
    lines: list[str] = []
    for block in BLOCK.findall(page.read_text()):
        commands = block.splitlines()
        if any(line.startswith("$ ") for line in commands):
            commands = [line.removeprefix("$ ") for line in commands if line.startswith("$ ")]
        lines += [line for line in commands if not BEFORE.match(line)]
    return "\n".join(lines)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_commands_of_a_page_work_in_order(page: Path, tmp_path: Path) -> None:
    script = script_of(page)
    assert "\nfedmq " in script, "the page shows no command of fedmq"
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    port, others = free_port(), free_port()
    while abs(port - others) < PORTS:  # five each
        others = free_port()
    script = script.replace(FIRST_MACHINE, f"tcp://127.0.0.1:{port}")
    script = re.sub("|".join(METRICS_PORTS), lambda one: str(others + METRICS_PORTS.index(one[0])), script)
    environment = clean_environment(
        PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        FEDMQ_PORT=str(port),
        FEDMQ_BROKER=f"tcp://127.0.0.1:{port}",
    )
    run_script(script, tmp_path, environment)


def run_script(script: str, folder: Path, environment: dict[str, str]) -> None:
    """Run the commands of a page in `folder`, where their output is kept; each has to be done with success."""
    with (folder / "output").open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-c", f"set -e\n{script}\n"],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = shell.wait(PAGE_S)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end(shell)
    assert code == 0, (folder / "output").read_text()


def end(shell: subprocess.Popen[bytes]) -> None:
    """End a shell and all that it left in the background."""
    with contextlib.suppress(ProcessLookupError):  # nothing was left
        os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()


def test_every_command_is_in_the_reference_and_up_to_date() -> None:
    expected = reference()

    assert COMMANDS.read_text() == expected, "run: python tests/integration/test_docs.py"


def reference() -> str:
    """The page docs/reference/commands.md."""
    sections = [section(path, command) for path, command in commands_below("fedmq", fedmq)]
    return "\n".join([INTRODUCTION, *sections])


def commands_below(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """All commands that do something, with their full names, in the order of the overview."""
    if not isinstance(command, click.Group) or command.invoke_without_command:
        yield path, command
    if not isinstance(command, click.Group):
        return
    context = click.Context(command)
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        assert inner is not None
        yield from commands_below(f"{path} {name}", inner)


def section(path: str, command: click.Command) -> str:
    """What the reference says of one command."""
    context = click.Context(command)
    arguments = [one.make_metavar(context) for one in command.params if isinstance(one, click.Argument)]
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    lines = [f"## {path}", "", f"`{' '.join([path, *arguments, '[OPTIONS]'])}`", "", explanation(command), ""]
    table = ["| option | default | meaning |", "|---|---|---|", *(table_row(one, context) for one in options), ""]
    return "\n".join([*lines, *table])


def explanation(command: click.Command) -> str:
    """The help of a command; its examples as a block of code."""
    text, _, examples = inspect.cleandoc(command.help or "").partition("\b\nExamples:\n")
    lines = [line.strip() for line in examples.splitlines()]
    return "\n".join([text.strip(), *(["", "```text", *lines, "```"] if lines else [])])


def table_row(option: click.Option, context: click.Context) -> str:
    text = option.help or ""
    told = re.search(r" \[default: (.*)\]", text)
    if told is not None:
        default, text = f"{told.group(1)}", text.replace(told.group(0), "")
    elif option.required:
        default = "(required)"
    elif isinstance(option.show_default, str):
        default = option.show_default
    else:
        default = "" if option.is_flag or not option.show_default else f"{option.get_default(context)}"
    value = "" if option.is_flag else f" {option.make_metavar(context)}"
    cells = [f"`{option.opts[-1]}{value}`", default.replace("<", "\\<"), text]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    COMMANDS.parent.mkdir(parents=True, exist_ok=True)
    COMMANDS.write_text(reference())
