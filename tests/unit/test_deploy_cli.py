"""Options of `fedmq deploy` that are rejected or written to the inventory; no host is contacted."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from fedmq.deploy import cli, package
from fedmq.deploy.facts import Facts
from fedmq.deploy.package import Package
from fedmq.deploy.status_table import print_status
from fedmq.errors import BadConfiguration

BROKER = '[broker]\nhost = "north"\n'
TRAINERS = BROKER + '[[trainers]]\nhost = "south"\ncount = 2\ndata = "a.csv"\n'
TASK = BROKER + '[aggregator]\ntask = "xor"\n'


@pytest.fixture(autouse=True)
def _workstation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = Package(Path("fedmq.deb"), "1.0-1", "amd64", (3, 11), (3, 12), 80_000, 30_000)
    monkeypatch.setattr(package, "find_package", lambda _given: found)
    monkeypatch.setattr(cli, "_converge", lambda *_: None)


@pytest.mark.parametrize(
    ("before", "words", "named"),
    [
        ("", "broker a:b", ["'a:b'"]),
        ("", "broker north --address tcp://x", ["'tcp://x'"]),
        ("", "trainers south --data a.csv", ["fedmq deploy broker"]),
        (BROKER, "trainers a:b --data a.csv", ["'a:b'"]),
        (BROKER, "aggregator --task xor --set deadline_s=inf", ["--set deadline_s", "inf"]),
        (TASK, "aggregator --set seed=8", ["--task", "--set"]),
        (TRAINERS, "trainers south --data b.csv", ["fleet.toml", "south"]),
        (TRAINERS, "trainers south --data a.csv --count 1", ["fleet.toml", "south"]),
        (TRAINERS, "trainers south --count 1", ["no --data"]),
        (TRAINERS, "trainers --data b.csv", ["no HOSTS"]),
    ],
)
def test_invalid_options_do_not_change_the_inventory(tmp_path: Path, before: str, words: str, named: list[str]) -> None:
    path = tmp_path / "fleet.toml"
    if before:
        path.write_text(before)

    done = CliRunner().invoke(cli.deploy, words.split())

    assert isinstance(done.exception, BadConfiguration), done.output
    assert [value for value in named if value not in str(done.exception)] == []
    assert (path.read_text() if path.exists() else "") == before


@pytest.mark.parametrize(
    "words", ["trainers south", "trainers south --data a.csv", "trainers south --data a.csv --count 2"]
)
def test_known_trainers_are_not_added_again(tmp_path: Path, words: str) -> None:
    (tmp_path / "fleet.toml").write_text(TRAINERS)

    assert CliRunner().invoke(cli.deploy, words.split()).exit_code == 0

    assert (tmp_path / "fleet.toml").read_text() == TRAINERS


def test_new_hosts_are_added_to_the_inventory(tmp_path: Path) -> None:
    for words in ("broker north", "trainers south --data a.csv --count 2", "aggregator --task xor --set seed=8"):
        assert CliRunner().invoke(cli.deploy, words.split()).exit_code == 0

    text = (tmp_path / "fleet.toml").read_text()
    assert 'host = "north"' in text
    assert 'data = "a.csv"\ncount = 2' in text
    assert "seed = 8" in text


def test_failed_host_is_one_line_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    why = "expected something else, got this; " * 10

    print_status({"north": Facts()}, {"south": why}, as_json=False)

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["host", "north", "south"]
    assert lines[2].rstrip().endswith(why.rstrip())
