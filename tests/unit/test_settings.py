"""Files of settings: faults with their lines, templates, and the files that ship with the systemd units.

`python tests/unit/test_settings.py` rewrites the shipped files from the options; values that are set stay.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import click
import pytest

from fedmq.cli.main import fedmq
from fedmq.cli.settings import settable_options, template, values_of

SERVICES = ["broker", "aggregator", "trainer", "dashboard"]
SHIPPED = Path(__file__).parents[2] / "deploy" / "systemd"


def command(name: str) -> click.Command:
    found = fedmq.get_command(click.Context(fedmq), name)
    assert found is not None
    return found


def faults(service: str, text: str) -> list[tuple[int, str]]:
    return [tuple(fault) for fault in values_of(command(service), text)[1]]


@pytest.mark.parametrize(
    ("service", "text", "line", "named"),
    [
        ("broker", "\n# a comment\nprot = 1\n", 3, "did you mean port?"),
        ("broker", "zzz = 1", 1, "bind, keys, log_level, metrics, port"),
        ("broker", "config = 'x'", 1, "config"),
        ("broker", "port = 0", 1, "port: 0"),
        ("broker", "port = 'many'", 1, "port: 'many'"),
        ("broker", "port = 1\nport = 2", 2, "expected TOML"),
        ("broker", "bind = \n", 1, "expected TOML"),
        ("broker", "\nbind = [1,\n", 2, "expected TOML"),
        ("broker", "bind = 7", 1, 'bind = "7"'),
        ("broker", "bind = true", 1, 'bind = "true"'),
        ("broker", "bind = [\n'a',\n]\nprot = 1", 1, "bind"),
        ("broker", "log_level = 'loud'", 1, "log_level: 'loud'"),
        ("broker", "[table]\nport = 1", 1, "table"),
        ("broker", "port = 1\n\n[[bind]]\n", 3, "bind"),
        ("aggregator", 'out = """\nmin_trainers = 0\n"""\nmin-trainers = 2', 4, "min_trainers"),
        ("aggregator", "quorum = 1.5", 1, "quorum: 1.5"),
        ("aggregator", "quorum = nan", 1, "quorum: nan"),
        ("aggregator", "deadline_s = nan", 1, "deadline_s: nan"),
        ("aggregator", "deadline_s = inf", 1, "deadline_s: inf"),
        ("aggregator", "deadline_s = 1e300", 1, "deadline_s: 1e+300"),
        ("aggregator", "connect_timeout = nan", 1, "connect_timeout: nan"),
        ("aggregator", "rounds = 99999999999999999999", 1, "rounds: 99999999999999999999"),
        ("aggregator", "min_trainers = 99999999999999999999", 1, "is not in the range"),
        ("aggregator", "max_examples = 99999999999999999999", 1, "is not in the range"),
        ("aggregator", "keep_rounds = 99999999999999999999", 1, "is not in the range"),
        ("aggregator", "param = 'population=3'", 1, "param = { NAME = VALUE }"),
        ("aggregator", "\nparam = 3", 2, "param = { NAME = VALUE }"),
        ("trainer", "min_rows = 99999999999999999999", 1, "is not in the range"),
        ("aggregator", "quiet = 'perhaps'", 1, "quiet: 'perhaps'"),
        ("aggregator", "task = 1979-05-27", 1, "1979-05-27"),
        ("trainer", "data = 'xor:1/2'\nname = 'a b'", 2, "'a b'"),
        ("trainer", "broker = 'foo'", 1, "broker:"),
        ("trainer", "broker = 'tcp://h:99999'", 1, "broker:"),
        ("trainer", "data = 'xor:9/2'", 1, "xor:9/2"),
        ("trainer", "data = 'xr:1/2'", 1, "xr:1/2"),
        ("broker", "bind = '::1'", 1, "::1"),
        ("aggregator", "task = 'xr'", 1, "xr"),
        ("aggregator", "algorithm = 'fedag'", 1, "fedag"),
        ("aggregator", "param = 'rule=median'", 1, "param"),
        ("aggregator", "strategy = 'fedavg'", 1, "algorithm"),
        ("aggregator", "robust = 'median'", 1, "rule"),
        ("trainer", 'data = "a\\u0000b"', 1, "data"),
    ],
)
def test_fault_in_a_file_is_reported_with_its_line(service: str, text: str, line: int, named: str) -> None:
    found = faults(service, text)
    assert found[0][0] == line
    assert named in found[0][1]


def test_faults_are_sorted_by_line() -> None:
    found = faults("aggregator", "seed = -1\n\nrounds = 3\nquorum = 2\nzzz = 1\n")
    assert [line for line, _ in found] == [1, 4, 5]


def test_valid_file_gives_text_by_parameter_name() -> None:
    values, wrong = values_of(command("aggregator"), "task = 'xor'\nrounds = 3\nquorum = 0.5\njson = true\n")
    assert wrong == []
    assert values == {"task_name": "xor", "rounds_max": "3", "quorum": "0.5", "as_json": "true"}


def test_table_of_parameters_gives_name_and_value_pairs() -> None:
    text = "[param]\nlearning_rate = 0.05\nrule = 'krum'\nmutation = [-1.0, 0.5]\n"
    values, wrong = values_of(command("aggregator"), text)
    assert wrong == []
    assert values == {"parameters": ["learning_rate=0.05", 'rule="krum"', "mutation=[-1.0, 0.5]"]}
    context = command("aggregator").make_context("aggregator", ["--task", "xor"], default_map=values)
    assert context.params["parameters"] == {"learning_rate": 0.05, "rule": "krum", "mutation": [-1.0, 0.5]}
    context = command("aggregator").make_context("aggregator", ["--param", "steps=3"], default_map=values)
    assert context.params["parameters"] == {"steps": 3}


@pytest.mark.parametrize("service", SERVICES)
def test_template_names_every_setting_once_and_sets_none(service: str) -> None:
    text = template(command(service), service)
    named = re.findall(r"^# (\w+) = ", text, flags=re.MULTILINE)
    assert named == [key for key, option in settable_options(command(service)).items() if not option.hidden]
    assert tomllib.loads(text) == {}
    assert max(map(len, text.splitlines())) <= 100


@pytest.mark.parametrize("service", SERVICES)
def test_defaults_in_the_template_are_valid_values(service: str) -> None:
    lines = re.findall(r"^# (\w+ = [^A-Z\n]*)$", template(command(service), service), flags=re.MULTILINE)
    lines = [line for line in lines if "|" not in line]  # that shows a choice
    assert faults(service, "\n".join(lines)) == []


def with_values_of(shipped: str, text: str) -> str:
    """Return a template with the settings that the shipped file sets."""
    for line in re.findall(r"^\w+ = .*$", shipped, flags=re.MULTILINE):
        text = re.sub(rf"^# {line.partition(' ')[0]} = .*$", lambda _, line=line: line, text, flags=re.MULTILINE)
    return text


@pytest.mark.parametrize("service", SERVICES)
def test_shipped_file_is_the_template_with_some_values_set(service: str) -> None:
    shipped = (SHIPPED / f"{service}.toml").read_text()
    assert shipped == with_values_of(shipped, template(command(service), service)), "run: make golden"
    assert faults(service, shipped) == []


if __name__ == "__main__":
    for name in SERVICES:
        path = SHIPPED / f"{name}.toml"
        path.write_text(with_values_of(path.read_text(), template(command(name), name)))
