"""Defaults of options under systemd, and the bounds of numeric options."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from fedmq.cli.main import fedmq
from fedmq.cli.options import FiniteRange
from fedmq.errors import BadConfiguration

TRAINER = fedmq.get_command(click.Context(fedmq), "trainer")


@pytest.fixture(autouse=True)
def _no_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the log configuration of the tests."""
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)


def keys(*words: str) -> Path | None:
    """Return the keys of `fedmq trainer --data xor:1/2 WORDS`."""
    assert TRAINER is not None
    with TRAINER.make_context("trainer", ["--data", "xor:1/2", *words]) as context:
        found: Path | None = context.params["keys"]
        return found


def test_keys_default_to_the_credentials_of_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "federation.json").write_text("{}")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert keys() == tmp_path
    assert keys("--keys", "mine") == Path("mine")


def test_credentials_without_a_federation_are_not_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    assert keys() is None


def test_home_folder_is_replaced_where_no_shell_does_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert keys("--keys", "~/keys") == tmp_path / "keys"
    monkeypatch.setenv("FEDMQ_KEYS", "~/keys")
    assert keys() == tmp_path / "keys"
    monkeypatch.delenv("FEDMQ_KEYS")
    settings = tmp_path / "trainer.toml"
    settings.write_text('keys = "~/keys"\ndata = "~/rows.csv"\nstate = "~/state"\n')
    assert TRAINER is not None
    with TRAINER.make_context("trainer", ["--config", "~/trainer.toml"]) as context:
        found = [str(context.params[name]) for name in ("keys", "data", "state")]
    assert found == [str(tmp_path / name) for name in ("keys", "rows.csv", "state")]
    with TRAINER.make_context("trainer", ["--data", "./~/rows.csv"]) as context:
        assert context.params["data"] == "./~/rows.csv"


@pytest.mark.parametrize("text", ["127.0.0.1:7000", "127.0.0.1:7000/", "tcp://127.0.0.1:7000"])
def test_address_of_the_broker_is_completed(text: str) -> None:
    assert TRAINER is not None
    with TRAINER.make_context("trainer", ["--data", "xor:1/2", "--broker", text]) as context:
        assert context.params["broker"] == "tcp://127.0.0.1:7000"


def test_settings_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    settings = tmp_path / "trainer.toml"
    settings.write_bytes(b'\xef\xbb\xbfname = "alice"\r\ndata = "xor:1/2"\r\n')
    assert TRAINER is not None
    with TRAINER.make_context("trainer", ["--config", str(settings)]) as context:
        assert context.params["name"] == "alice"
    settings.write_text("name = " + "[" * 3_000)
    with pytest.raises(BadConfiguration, match="expected TOML"):
        TRAINER.make_context("trainer", ["--config", str(settings)])
    settings.write_text('name = "alice"', encoding="utf-16")
    with pytest.raises(BadConfiguration, match=r"trainer\.toml: expected text in UTF-8.*save it as UTF-8"):
        TRAINER.make_context("trainer", ["--config", str(settings)])


@pytest.mark.parametrize(("journal", "level"), [(True, "INFO"), (False, "WARNING")])
def test_log_level_is_lower_when_stderr_is_the_journal(
    journal: bool, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = []
    monkeypatch.setattr(logging, "basicConfig", lambda **settings: levels.append(settings["level"]))
    monkeypatch.setattr("fedmq.cli.options.is_journal", lambda _: journal)
    monkeypatch.setattr("fedmq.cli.options.JournalHandler", logging.NullHandler)
    keys()
    assert levels == [level]


def test_every_numeric_option_has_two_bounds_that_exclude_nan() -> None:
    found = dict(numbers(fedmq, "fedmq"))

    assert len(found) > 15
    for where, kind in found.items():
        assert kind.min is not None, where
        assert kind.max is not None, where
        assert isinstance(kind, click.IntRange | FiniteRange), where
        with pytest.raises(click.BadParameter):
            kind.convert("nan", None, None)


def numbers(command: click.Command, path: str) -> Iterator[tuple[str, click.IntRange | click.FloatRange]]:
    """Yield the types of all numeric options and arguments of a command and its subcommands."""
    for param in command.params:
        if isinstance(param.type, click.types.IntParamType | click.types.FloatParamType):
            assert isinstance(param.type, click.IntRange | click.FloatRange), f"{path} {param.name} has no bounds"
            yield f"{path} {param.name}", param.type
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            yield from numbers(below, f"{path} {name}")
