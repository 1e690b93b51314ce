"""The inventory of a fleet: valid and invalid files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedmq.deploy.inventory import (
    BrokerHost,
    Inventory,
    TrainerHost,
    choose,
    instances,
    read_inventory,
    section,
)
from fedmq.errors import BadConfiguration


def write_and_read(folder: Path, text: str) -> Inventory:
    path = folder / "fleet.toml"
    path.write_text(text)
    return read_inventory(path)


def test_missing_file_is_an_empty_inventory(tmp_path: Path) -> None:
    assert read_inventory(tmp_path / "fleet.toml") == Inventory()


def test_written_sections_are_read_back(tmp_path: Path) -> None:
    broker = BrokerHost("admin@north", "192.0.2.1", 7000)
    settings: dict[str, str | int | float | bool] = {"task": "parity4", "seed": 7, "quorum": 0.5, "quiet": True}
    trainers = TrainerHost("south", 'a "quoted" \\ file.csv', 2, "ward")

    text = section(broker) + section(settings) + section(trainers)

    assert write_and_read(tmp_path, text) == Inventory(broker, settings, (trainers,))
    assert write_and_read(tmp_path, "\ufeff" + text) == Inventory(broker, settings, (trainers,))


def test_trainers_are_numbered_by_host_and_by_fleet() -> None:
    spec = "{name}: {n}, {part} of {parts}"
    fleet = Inventory(trainers=(TrainerHost("south.example.org", spec, 2), TrainerHost("me@192.0.2.9", spec)))

    assert [(one.name, one.data) for one in instances(fleet)] == [
        ("south-1", "south-1: 1, 1 of 3"),
        ("south-2", "south-2: 2, 2 of 3"),
        ("192-0-2-9", "192-0-2-9: 1, 3 of 3"),
    ]


@pytest.mark.parametrize(("host", "name"), [("a-host-with-a-long-name", None), ("[::1]", "not a name"), ("a", "-")])
def test_invalid_user_name_is_rejected(host: str, name: str | None) -> None:
    with pytest.raises(BadConfiguration, match=re.escape(host)):
        instances(Inventory(trainers=(TrainerHost(host, "rows.csv", name=name),)))


def test_duplicate_trainer_name_is_rejected(tmp_path: Path) -> None:
    text = '[[trainers]]\nhost = "one"\ndata = "a"\nname = "ward"\n' * 2

    with pytest.raises(BadConfiguration, match="ward"):
        write_and_read(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[broker", "fleet.toml"),
        ("[broker]\n", "`host`"),
        ('[broker]\nhost = "a"\nport = 65535\n', "<= 65531"),
        ('[broker]\nhost = "-oProxyCommand=x"\n', "'-oProxyCommand=x'"),
        ('[broker]\nhost = "a b"\n', "'a b'"),
        ('[broker]\nhost = "me@a:2222"\n', "'me@a:2222'.*~/.ssh/config"),
        ('[broker]\nhost = "a"\naddress = "tcp://a"\n', "'tcp://a'"),
        ('[broker]\nhost = "::1"\n', "IPv4 .*::1"),
        ('[[trainers]]\nhost = "[::1]"\ndata = "x"\n', re.escape("'[::1]'")),
        ('[broker]\nhost = "a"\n[[trainers]]\nhost = "me@a"\ndata = "x"\n', "a and me@a"),
        ('[[trainers]]\nhost = "a"\ndata = "x"\ncount = 0\n', ">= 1"),
        ('[worker]\nhost = "a"\n', "`worker`"),
    ],
)
def test_invalid_inventory_is_one_line_with_the_value(tmp_path: Path, text: str, named: str) -> None:
    with pytest.raises(BadConfiguration, match=named) as caught:
        write_and_read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_hosts_are_selected_by_name_or_label() -> None:
    fleet = Inventory(
        BrokerHost("north"), None, (TrainerHost("south", "a", labels=("clinic",)), TrainerHost("east", "b"))
    )

    assert fleet.hosts == ["north", "south", "east"]
    assert choose(fleet, (), None) == ["south", "east"]
    assert choose(fleet, (), "clinic") == ["south"]
    assert choose(fleet, ("east",), None) == ["east"]
    with pytest.raises(BadConfiguration, match="west"):
        choose(fleet, ("west",), None)
