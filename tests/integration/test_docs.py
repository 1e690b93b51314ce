"""The README and the pages of docs/: every shell command runs, in order, and the reference is up to date.

`python tests/integration/test_docs.py` writes `docs/reference/commands.md` from the help texts of the commands.
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
from importlib.util import find_spec
from pathlib import Path

import click
import pytest
from services import clean_environment

from fedmq.cli.main import fedmq
from fedmq.deploy.processes import free_port
from fedmq.transport.address import PORTS

ROOT = Path(__file__).parents[2]
COMMANDS = ROOT / "docs" / "reference" / "commands.md"
PAGE_S = 160.0  # far more than any page takes
BLOCK = re.compile(r"^```(?:sh|console)\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
# Commands that a test skips: setup that already exists, verbs of the Makefile with tests of their own, and changes to a
# machine, which `make fleet` runs on machines of its own.
# A test of its own runs the demo with PyTorch.
SKIPPED = re.compile(
    r"(git clone|make|cd|source \S*activate|sudo|systemctl|fedmq deploy|fedmq demo examples/digits_cnn\.py)\b"
)
HAS_TORCH = find_spec("torch") is not None  # `make test` installs it with CI=true
TORCH = re.compile(r"digits_cnn\.py|tiny_transformer\.py")  # in a command that needs it
NAMED = (
    "how-to/by-hand",
    "how-to/choose-who-takes-part",
    "how-to/control-what-a-site-answers",
    "how-to/differential-privacy",
    "how-to/enroll-a-trainer",
    "how-to/evaluate",
    "how-to/keep-a-run-alive",
    "how-to/migrate-from-the-pygad-tutorial",
    "how-to/metrics",
    "how-to/one-machine",
    "how-to/plot-and-compare",
    *(("how-to/pytorch",) if HAS_TORCH else ()),
    "how-to/regression",
    "how-to/secure-sums",
    "how-to/simulate",
    "how-to/statistics",
    "how-to/your-own-algorithm",
    "how-to/your-own-task",
    "how-to/your-own-training-code",
    "how-to/your-own-data",
    "how-to/your-own-table",
    "how-to/ship-python",
    "how-to/use-the-model",
    "how-to/watch-a-run",
    "tutorial",
)
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in NAMED)]
FIRST_MACHINE = "tcp://192.0.2.1:5550"  # the broker of a federation with keys, on the pages
SITES = "for sites in 1 3 10; do"  # of the README; test_any_split compares the models of any number of sites
SEARCH_PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
METRICS_PORTS = ("9101", "9102", "9103")  # on the pages

INTRODUCTION = """\
# Commands

<!-- Written by `python tests/integration/test_docs.py` from the help texts of the commands. -->

The options, defaults and exit codes of every command.

For `broker`, `aggregator`, `trainer`, `dashboard` and `demo`, the option `--some-option` can also be set as
`FEDMQ_SOME_OPTION` in the environment, or as `some_option = value` in a TOML file. `--config` or `FEDMQ_CONFIG` names
the file. The command line overrides the environment, the environment the file, and the file the default. An unknown key
is an error. See [settings files](configuration.md).

```toml
# aggregator.toml, for: fedmq aggregator --config aggregator.toml
task = "xor"
min_trainers = 2
deadline_s = 30
```

| exit code | meaning |
|---|---|
| 0 | success; for `demo` and `aggregator`: the target is reached |
| 1 | the target is not reached, or the aggregator was stopped before the end; for `doctor`: there is a problem |
| 2 | usage: an unknown option, or a value out of bounds |
| 69 | no broker answered within `--connect-timeout`; for commands to a live run (`runs pause`): the run did not |
| 77 | the broker rejects this key; for `trainer join`: the request is rejected, or the token is not valid any more |
| 78 | bad configuration or settings, unusable rows, a damaged store, a full disk |
| 130 | interrupted with Ctrl-C; `demo` also ends with 143 after SIGTERM, 129 after SIGHUP |
| 141 | no process reads the output, as after head -1; services and `demo` go on without it |

An error is one line on stderr, *expected X, got Y: do Z*. `--debug` shows a traceback as well.

SIGTERM stops a service, and so does Ctrl-C (SIGINT). A service that starts with SIGINT ignored, such as a
background job of a script, keeps ignoring it. The same holds for SIGHUP under `nohup`.
"""


def script_of(page: Path) -> str:
    """Return the commands of a page's shell blocks, without prompts, output and skipped commands."""
    lines: list[str] = []
    for block in BLOCK.findall(page.read_text()):
        commands = block.splitlines()
        if any(line.startswith("$ ") for line in commands):
            commands = [line.removeprefix("$ ") for line in commands if line.startswith("$ ")]
        lines += [line for line in commands if not SKIPPED.match(line) and (HAS_TORCH or not TORCH.search(line))]
    return "\n".join(lines)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_page_run_in_order(page: Path, tmp_path: Path) -> None:
    script = script_of(page)
    assert "\nfedmq " in f"\n{script}", "the page has no command of fedmq"
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    port, others = free_port(), free_port()
    while abs(port - others) < PORTS:  # five ports each
        others = free_port()
    script = script.replace(SITES, "for sites in 1 3; do")
    script = script.replace(FIRST_MACHINE, f"tcp://127.0.0.1:{port}")
    script = re.sub("|".join(METRICS_PORTS), lambda one: str(others + METRICS_PORTS.index(one[0])), script)
    environment = clean_environment(
        PATH=SEARCH_PATH,
        FEDMQ_PORT=str(port),
        FEDMQ_BROKER=f"tcp://127.0.0.1:{port}",
    )
    run_script(script, tmp_path, environment)


@pytest.mark.skipif(not HAS_TORCH, reason="expected PyTorch, got none: set CI=true for make test")
def test_pytorch_demo_of_readme_trains_over_four_processes(tmp_path: Path) -> None:
    (command,) = re.findall(r"^fedmq demo examples/digits_cnn\.py .*$", (ROOT / "README.md").read_text(), re.MULTILINE)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    run_script(command, tmp_path, clean_environment(PATH=SEARCH_PATH))
    assert "finished in 3 rounds" in (tmp_path / "output").read_text()


def run_script(script: str, folder: Path, environment: dict[str, str]) -> None:
    """Run the commands of a page in `folder` and keep their output there; each must succeed."""
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
    """Kill a shell and its background processes."""
    with contextlib.suppress(ProcessLookupError):  # no process is left
        os.killpg(shell.pid, signal.SIGKILL)
    shell.wait()


def test_reference_has_current_help_of_every_command() -> None:
    expected = reference()

    assert COMMANDS.read_text() == expected, "run: python tests/integration/test_docs.py"


def reference() -> str:
    """Return the text of docs/reference/commands.md."""
    sections = [section(path, command) for path, command in commands_below("fedmq", fedmq)]
    return "\n".join([INTRODUCTION, *sections])


def commands_below(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Yield all commands that are not mere groups, with their full names, in the order of the overview."""
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
    """Return the section of one command."""
    context = click.Context(command)
    arguments = [one.make_metavar(context) for one in command.params if isinstance(one, click.Argument)]
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    lines = [f"## {path}", "", f"`{' '.join([path, *arguments, '[OPTIONS]'])}`", "", explanation(command), ""]
    table = ["| option | default | meaning |", "|---|---|---|", *(table_row(one, context) for one in options), ""]
    return "\n".join([*lines, *table])


def explanation(command: click.Command) -> str:
    """Return the help of a command, with its examples as a code block."""
    text, _, examples = inspect.cleandoc(command.help or "").partition("\b\nExamples:\n")
    lines = [line.strip() for line in examples.splitlines()]
    return "\n".join([text.strip(), *(["", "```text", *lines, "```"] if lines else [])])


def table_row(option: click.Option, context: click.Context) -> str:
    text = option.help or ""
    shown = re.search(r" \[default: (.*)\]", text)
    if shown is not None:
        default, text = shown.group(1), text.replace(shown.group(0), "")
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
