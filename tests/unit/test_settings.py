"""Files of settings: what is wrong with one, and where; and the one to begin with, which never drifts."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest

from fedmq.cli.main import fedmq
from fedmq.cli.settings import settings_of, template, values_of

SERVICES = ["broker", "aggregator", "trainer", "dashboard"]
SHIPPED = Path(__file__).parents[2] / "deploy" / "systemd"


def command(name: str) -> click.Command:
    found = fedmq.get_command(click.Context(fedmq), name)
    assert found is not None
    return found


def faults(service: str, text: str) -> list[tuple[int, str]]:
    return [tuple(fault) for fault in values_of(command(service), text)[1]]


@pytest.mark.parametrize(
    ("service", "text", "line", "said"),
    [
        ("broker", "\n# a comment\nprot = 1\n", 3, "unknown setting 'prot'; did you mean port?"),
        ("broker", "zzz = 1", 1, "unknown setting 'zzz'; known are bind, keys, log_level, metrics, port"),
        ("broker", "config = 'x'", 1, "unknown setting 'config'"),
        ("broker", "port = 0", 1, "port: 0 is not in the range"),
        ("broker", "port = 'many'", 1, "port: 'many' is not a valid integer range"),
        ("broker", "port = 1\nport = 2", 2, "expected TOML, got Cannot overwrite a value"),
        ("broker", "bind = \n", 1, "expected TOML, got Invalid value"),
        ("broker", "\nbind = [1,\n", 2, "expected TOML, got Invalid value"),
        ("broker", "bind = 7", 1, 'bind: expected text in quotes, got 7; write bind = "7"'),
        ("broker", "bind = true", 1, 'write bind = "true"'),
        ("broker", "bind = [\n'a',\n]\nprot = 1", 1, "bind: expected one value, got"),
        ("broker", "log_level = 'loud'", 1, "log_level: 'loud' is not one of"),
        ("broker", "[table]\nport = 1", 1, "unknown setting 'table'"),
        ("broker", "port = 1\n\n[[bind]]\n", 3, "bind: expected one value"),
        ("aggregator", 'out = """\nmin_trainers = 0\n"""\nmin-trainers = 2', 4, "did you mean min_trainers?"),
        ("aggregator", "quorum = 1.5", 1, "quorum: 1.5 is not in the range"),
        ("aggregator", "quorum = nan", 1, "quorum: nan is not in the range"),
        ("aggregator", "deadline_s = nan", 1, "deadline_s: nan is not in the range"),
        ("aggregator", "deadline_s = inf", 1, "deadline_s: inf is not in the range"),
        ("aggregator", "deadline_s = 1e300", 1, "deadline_s: 1e+300 is not in the range"),
        ("aggregator", "connect_timeout = nan", 1, "connect_timeout: nan is not in the range"),
        ("aggregator", "rounds = 99999999999999999999", 1, "rounds: 99999999999999999999 is not in the range"),
        ("aggregator", "min_trainers = 99999999999999999999", 1, "is not in the range"),
        ("aggregator", "max_examples = 99999999999999999999", 1, "is not in the range"),
        ("aggregator", "keep_rounds = 99999999999999999999", 1, "is not in the range"),
        ("trainer", "min_rows = 99999999999999999999", 1, "is not in the range"),
        ("aggregator", "quiet = 'perhaps'", 1, "quiet: 'perhaps' is not a valid boolean"),
        ("aggregator", "task = 1979-05-27", 1, "task: expected text in quotes, got 1979-05-27"),
        ("trainer", "data = 'xor:1/2'\nname = 'a b'", 2, "name: expected letters, digits and . _ -"),
        ("trainer", "broker = 'foo'", 1, "broker: expected a broker address like"),
        ("trainer", "broker = 'tcp://h:99999'", 1, "broker: expected a broker address like"),
        ("trainer", "data = 'xor:9/2'", 1, "data: xor:9/2: expected a part from 1 to 2, got 9"),
        ("trainer", "data = 'xr:1/2'", 1, "data: expected rows such as"),
        ("broker", "bind = '::1'", 1, "bind: expected a broker's name or IPv4 address"),
        ("aggregator", "task = 'xr'", 1, "task: expected a task, one of xor"),
        ("aggregator", "strategy = 'fedag'", 1, "strategy: expected one of evolution"),
        ("aggregator", "robust = 'mean'", 1, "robust: expected one of none"),
        ("trainer", 'data = "a\\u0000b"', 1, "data: expected one value"),
    ],
)
def test_fault_in_a_file_is_reported_with_its_line(service: str, text: str, line: int, said: str) -> None:
    found = faults(service, text)
    assert found[0][0] == line
    assert said in found[0][1]


def test_faults_are_sorted_by_line() -> None:
    found = faults("aggregator", "seed = -1\n\nrounds = 3\nquorum = 2\nzzz = 1\n")
    assert [line for line, _ in found] == [1, 4, 5]


def test_valid_file_gives_text_by_parameter_name() -> None:
    values, wrong = values_of(command("aggregator"), "task = 'xor'\nrounds = 3\nquorum = 0.5\njson = true\n")
    assert wrong == []
    assert values == {"task_name": "xor", "rounds": "3", "quorum": "0.5", "as_json": "true"}


@pytest.mark.parametrize("service", SERVICES)
def test_template_names_every_setting_once_and_sets_none(service: str) -> None:
    text = template(command(service), service)
    named = re.findall(r"^# (\w+) = ", text, flags=re.MULTILINE)
    assert named == [key for key, option in settings_of(command(service)).items() if not option.hidden]
    assert tomllib.loads(text) == {}
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("service", SERVICES)
def test_defaults_in_the_template_are_valid_values(service: str) -> None:
    lines = re.findall(r"^# (\w+ = [^A-Z\n]*)$", template(command(service), service), flags=re.MULTILINE)
    lines = [line for line in lines if "|" not in line]  # that shows a choice
    assert faults(service, "\n".join(lines)) == []


@pytest.mark.parametrize("service", SERVICES)
def test_shipped_file_is_the_template_with_some_values_set(service: str) -> None:
    shipped = (SHIPPED / f"{service}.toml").read_text().splitlines()
    generated = template(command(service), service).splitlines()
    assert len(shipped) == len(generated), f"run: fedmq config init {service}"
    for ours, theirs in zip(shipped, generated, strict=True):
        assert ours == theirs or theirs.startswith(f"# {ours.partition('=')[0]}=")
    assert faults(service, "\n".join(shipped)) == []
