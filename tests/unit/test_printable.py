"""Text of other machines is printable where it leaves this process: log lines, lines of commands, tables, screens."""

from __future__ import annotations

import ast
import io
import json
import logging
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from names import modules
from rich.table import Table
from rich.text import Text

from fedmq.cli.echo import echo, echo_json
from fedmq.cli.main import fedmq, main
from fedmq.errors import BadConfiguration
from fedmq.observe import events
from fedmq.observe.console import PrintableConsole, PrintableTable
from fedmq.observe.event_log import EventLog, apply_line
from fedmq.observe.log_format import LogFormatter
from fedmq.observe.run_state import RunState
from fedmq.runs.charts import Series, bar_list, line_chart
from fedmq.runs.store import Store
from fedmq.runtime.printable import printable
from fedmq.runtime.run_folder import EVENTS, STORE
from fedmq.testing import run_config

FORGED = "\x1b]0;title\x07\n2026-01-01 00:00:00,000 WARNING fedmq: \x9b2J\u202etrusted\r\x7f\u2028\ud800"
FORGED_PRINTED = "?]0;title? 2026-01-01 00:00:00,000 WARNING fedmq: ?2J?trusted ? ?"
MARKUP = "[/nope] [red]x[/red] :smile:"


def test_text_keeps_its_length_and_loses_control_characters() -> None:
    assert printable(FORGED) == FORGED_PRINTED
    assert len(FORGED_PRINTED) == len(FORGED)
    assert printable("Zürich, 北京, 50 %") == "Zürich, 北京, 50 %"


def test_log_record_is_one_line_and_its_traceback_keeps_its_lines() -> None:
    log, written = logging.getLogger("test_printable"), io.StringIO()
    handler = logging.StreamHandler(written)
    handler.setFormatter(LogFormatter("%(levelname)s %(message)s"))
    log.handlers, log.propagate = [handler], False
    log.warning("refused: %s", FORGED)
    try:
        raise ValueError(FORGED)
    except ValueError:
        log.exception("failed")
    first, second, *trace = written.getvalue().splitlines()
    assert first == f"WARNING refused: {FORGED_PRINTED}"
    assert second == "ERROR failed"
    assert trace[0] == "  Traceback (most recent call last):"
    assert all(line == printable(line) and line.startswith("  ") for line in trace)


def test_log_of_every_command_uses_this_format(capsys: pytest.CaptureFixture[str]) -> None:
    before = logging.getLogger().handlers[:], logging.getLogger().level
    try:
        CliRunner().invoke(fedmq, ["keys", "ls", "--keys", "nowhere"])
        (handler,) = logging.getLogger().handlers
        assert isinstance(handler.formatter, LogFormatter)
    finally:
        logging.getLogger().handlers[:], level = before
        logging.getLogger().setLevel(level)


def test_line_of_a_command_is_printable(capsys: pytest.CaptureFixture[str]) -> None:
    echo(FORGED)
    echo(FORGED, err=True)
    assert capsys.readouterr() == (f"{FORGED_PRINTED}\n", f"{FORGED_PRINTED}\n")


def test_json_of_a_command_is_printable_and_exact(capsys: pytest.CaptureFixture[str]) -> None:
    exact = FORGED[:-1] + "\U000e0001 Zürich"  # the surrogate is not encodable at all
    echo_json({"detail": exact})
    text = capsys.readouterr().out.removesuffix("\n")
    assert text == printable(text)
    assert json.loads(text) == {"detail": exact}


def test_log_line_of_a_command_without_log_options_is_printable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(**_arguments: object) -> None:
        assert logging.lastResort is not None
        logging.lastResort.handle(logging.makeLogRecord({"msg": FORGED, "levelno": logging.WARNING}))

    monkeypatch.setattr(fedmq, "main", warn)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().err == f"{FORGED_PRINTED}\n"


def test_line_of_the_event_log_is_printable_and_exact(tmp_path: Path) -> None:
    log, state = EventLog(tmp_path / EVENTS, RunState()), RunState()
    rejected = events.ResultRejected(trainer="bob", reason="header", detail=FORGED[:-1])
    log(1.0, rejected)
    log.close()
    line = (tmp_path / EVENTS).read_text().removesuffix("\n")
    assert line == printable(line)
    assert apply_line(state, line.encode()).feed[0].event == rejected


@pytest.mark.parametrize("debug", [False, True])
def test_error_of_a_command_is_printable(
    debug: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(**_arguments: object) -> None:
        raise BadConfiguration(FORGED)

    monkeypatch.setattr(fedmq, "main", fail)
    monkeypatch.setattr(sys, "argv", ["fedmq", *["--debug"] * debug])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises((BadConfiguration, SystemExit)) as ended:
        main()
    if debug:
        sys.excepthook(ended.type, ended.value, ended.tb)
    *before, last = capsys.readouterr().err.removesuffix("\n").split("\n")
    start = "  2026-01-01 00:00:00,000 WARNING" if debug else "fedmq: ?]0;title? 2026-01-01"
    assert last.startswith(start)
    assert all(line == printable(line) for line in (*before, last))


def test_cells_are_printed_as_they_are_written() -> None:
    screen, text = io.StringIO(), f"{MARKUP}\x1b[2J\nforged\u202e"
    console = PrintableConsole(file=screen, width=200, color_system=None)
    table = PrintableTable(box=None, show_header=False)
    table.add_row(text, Text(text, style="red"), "[b]other[/b]")
    console.print(table)
    console.print(text, Text(text))
    expected = f"{MARKUP}?[2J forged?"
    assert screen.getvalue() == f" {expected}  {expected}  [b]other[/b] \n{expected} {expected}\n"


def test_styles_of_a_text_stay_in_place() -> None:
    screen = io.StringIO()
    console = PrintableConsole(file=screen, width=100, force_terminal=True, color_system="standard")
    console.print(Text.assemble(("a\x1b", "bold"), "b"))
    assert screen.getvalue() == "\x1b[1ma?\x1b[0mb\n"


def test_list_of_runs_shows_markup_of_a_foreign_run(tmp_path: Path) -> None:
    for name, algorithm in (("good", "evolution"), ("bad", f"[/nope]{FORGED[:-1]}")):
        (tmp_path / name).mkdir()
        store = Store(tmp_path / name / STORE)
        store.begin(run_config(name, algorithm=algorithm, parameters={}))
        store.close()
    done = CliRunner().invoke(fedmq, ["runs", "ls", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0
    rows = done.stdout.splitlines()
    assert len(rows) == 3
    assert any(FORGED_PRINTED[:-1] in row and "[/nope]" in row for row in rows)


def uses_of_other_doors(module: Path) -> set[str]:
    """Return calls in a module that print without `printable`."""
    found, source = set(), module.read_text()
    doors = {"print", "click.echo", "Console", "sys.stdout.write", "sys.stderr.write"}
    doors |= {"Table"} if "rich.table" in source else set()  # that of fedmq.tables prints nothing
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            if name in doors:
                found.add(name)
    return found


# Each prints only text of its own.
OTHER_DOORS = {
    "cli/echo.py": {"click.echo"},
    "runs/model_commands.py": {"sys.stdout.write"},  # predictions for a program, as they would be in a file
    "runtime/journal.py": {"print"},  # a formatted record
    "deploy/packaging/build.py": {"print"},  # no part of the installed package
}


def test_no_module_prints_by_another_way() -> None:
    root = Path(sys.modules["fedmq"].__path__[0])
    found = {path.relative_to(root).as_posix(): uses for path in modules() if (uses := uses_of_other_doors(path))}
    assert found == OTHER_DOORS
    assert issubclass(PrintableTable, Table)


def test_names_in_a_chart_of_a_report_are_printable_and_no_markup() -> None:
    names = ("\x1b]0;x", "<i>")
    drawn = line_chart(*names, "y", [Series(name, [(0.0, 1.0), (1.0, 2.0)]) for name in names])
    drawn += bar_list("title", [(name, 1.0) for name in names], " %")
    assert "\x1b" not in drawn
    assert "<i>" not in drawn
    assert "&lt;i&gt;" in drawn
