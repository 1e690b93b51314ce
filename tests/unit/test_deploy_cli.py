"""What `fedmq deploy` refuses to write into the inventory, or to leave aside in silence; no host is ever reached."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from fedmq.deploy import cli, package
from fedmq.deploy.facts import Facts
from fedmq.deploy.package import Package
from fedmq.deploy.status_table import standing
from fedmq.errors import BadConfiguration

BROKER = '[broker]\nhost = "north"\n'
TRAINERS = BROKER + '[[trainers]]\nhost = "south"\ncount = 2\ndata = "a.csv"\n'
TASK = BROKER + '[aggregator]\ntask = "xor"\n'


@pytest.fixture(autouse=True)
def _desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = Package(Path("fedmq.deb"), "1.0-1", "amd64", (3, 11), (3, 12), 80_000, 30_000)
    monkeypatch.setattr(package, "find_package", lambda _given: found)
    monkeypatch.setattr(cli, "_reach", lambda *_: None)


@pytest.mark.parametrize(
    ("before", "words", "line"),
    [
        ("", "broker a:b", "expected a host as HOST or USER@HOST"),
        ("", "broker north --address tcp://x", "got 'tcp://x'"),
        ("", "trainers south --data a.csv", "first fedmq deploy broker"),
        (BROKER, "trainers a:b --data a.csv", "expected a host as HOST or USER@HOST"),
        (BROKER, "aggregator --task xor --set deadline_s=inf", "expected --set deadline_s=NUMBER, got inf"),
        (TASK, "aggregator --set seed=8", "expected --task with --set"),
        (TRAINERS, "trainers south --data b.csv", "expected no south, or just these trainers there"),
        (TRAINERS, "trainers south --data a.csv --count 1", "expected no south, or just these trainers there"),
        (TRAINERS, "trainers south --count 1", "expected HOSTS and --data for new trainers, got no --data"),
        (TRAINERS, "trainers --data b.csv", "expected HOSTS and --data for new trainers, got no HOSTS"),
    ],
)
def test_what_cannot_be_is_refused_before_it_is_written(tmp_path: Path, before: str, words: str, line: str) -> None:
    path = tmp_path / "fleet.toml"
    if before:
        path.write_text(before)

    done = CliRunner().invoke(cli.deploy, words.split())

    assert isinstance(done.exception, BadConfiguration), done.output
    assert line in str(done.exception)
    assert (path.read_text() if path.exists() else "") == before


@pytest.mark.parametrize(
    "words", ["trainers south", "trainers south --data a.csv", "trainers south --data a.csv --count 2"]
)
def test_what_is_there_is_not_written_again(tmp_path: Path, words: str) -> None:
    (tmp_path / "fleet.toml").write_text(TRAINERS)

    assert CliRunner().invoke(cli.deploy, words.split()).exit_code == 0

    assert (tmp_path / "fleet.toml").read_text() == TRAINERS


def test_a_new_host_is_written(tmp_path: Path) -> None:
    for words in ("broker north", "trainers south --data a.csv --count 2", "aggregator --task xor --set seed=8"):
        assert CliRunner().invoke(cli.deploy, words.split()).exit_code == 0

    text = (tmp_path / "fleet.toml").read_text()
    assert 'host = "north"' in text
    assert 'count = 2\ndata = "a.csv"' in text
    assert "seed = 8" in text


def test_a_host_that_failed_is_one_line_where_there_is_no_terminal() -> None:
    why = "expected something else, got this; " * 10

    lines = standing({"north": Facts()}, {"south": why}, as_json=False).splitlines()

    assert [line.split()[0] for line in lines] == ["host", "north", "south"]
    assert lines[2].endswith(why.rstrip())
