"""The inventory of a fleet: what it says, and what cannot be said in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fedmq.deploy.inventory import (
    BrokerHost,
    Inventory,
    TrainerHost,
    aggregator_section,
    broker_section,
    choose,
    instances,
    read_inventory,
    trainers_section,
)
from fedmq.errors import BadConfiguration


def written(folder: Path, text: str) -> Inventory:
    path = folder / "fleet.toml"
    path.write_text(text)
    return read_inventory(path)


def test_without_a_file_nothing_is_known(tmp_path: Path) -> None:
    assert read_inventory(tmp_path / "fleet.toml") == Inventory()


def test_what_is_remembered_is_read_again(tmp_path: Path) -> None:
    broker = BrokerHost("admin@north", "192.0.2.1", 7000)
    settings: dict[str, str | int | float | bool] = {"task": "parity4", "seed": 7, "quorum": 0.5, "quiet": True}
    trainers = TrainerHost("south", 'a "quoted" \\ file.csv', 2, "ward")

    text = broker_section(broker) + aggregator_section(settings) + trainers_section(trainers)

    assert written(tmp_path, text) == Inventory(broker, settings, (trainers,))


def test_trainers_are_numbered_over_the_host_and_over_the_fleet() -> None:
    spec = "{name}: {n}, {part} of {parts}"
    fleet = Inventory(trainers=(TrainerHost("south.example.org", spec, 2), TrainerHost("me@192.0.2.9", spec)))

    assert [(one.name, one.data) for one in instances(fleet)] == [
        ("south-1", "south-1: 1, 1 of 3"),
        ("south-2", "south-2: 2, 2 of 3"),
        ("192-0-2-9", "192-0-2-9: 1, 3 of 3"),
    ]


@pytest.mark.parametrize(("host", "name"), [("a-host-with-a-long-name", None), ("[::1]", "not a name"), ("a", "-")])
def test_a_name_that_cannot_be_a_users_has_to_be_chosen(host: str, name: str | None) -> None:
    with pytest.raises(BadConfiguration, match="say name = … at host"):
        instances(Inventory(trainers=(TrainerHost(host, "rows.csv", name=name),)))


def test_two_trainers_never_have_one_name(tmp_path: Path) -> None:
    text = '[[trainers]]\nhost = "one"\ndata = "a"\nname = "ward"\n' * 2

    with pytest.raises(BadConfiguration, match="got ward twice"):
        written(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[broker", "not an inventory"),
        ("[broker]\n", "missing required field `host`"),
        ('[broker]\nhost = "a"\nport = 65535\n', "<= 65531"),
        ('[broker]\nhost = "-oProxyCommand=x"\n', "expected a host as HOST or USER@HOST"),
        ('[broker]\nhost = "a b"\n', "expected a host as HOST or USER@HOST"),
        ('[broker]\nhost = "me@a:2222"\n', "a port of sshd goes into"),
        ('[broker]\nhost = "a"\naddress = "tcp://a"\n', "got 'tcp://a'"),
        ('[broker]\nhost = "::1"\n', "IPv4 address, got ::1"),
        ('[[trainers]]\nhost = "[::1]"\ndata = "x"\n', "expected a host as HOST or USER@HOST"),
        ('[broker]\nhost = "a"\n[[trainers]]\nhost = "me@a"\ndata = "x"\n', "got a and me@a"),
        ('[[trainers]]\nhost = "a"\ndata = "x"\ncount = 0\n', ">= 1"),
        ('[worker]\nhost = "a"\n', "unknown field `worker`"),
    ],
)
def test_what_is_no_inventory_is_said_in_one_line(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(BadConfiguration, match=complaint) as caught:
        written(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_hosts_are_chosen_by_name_or_label() -> None:
    fleet = Inventory(
        BrokerHost("north"), None, (TrainerHost("south", "a", labels=("clinic",)), TrainerHost("east", "b"))
    )

    assert fleet.hosts == ["north", "south", "east"]
    assert choose(fleet, (), None) == ["south", "east"]
    assert choose(fleet, (), "clinic") == ["south"]
    assert choose(fleet, ("east",), None) == ["east"]
    with pytest.raises(BadConfiguration, match="got west"):
        choose(fleet, ("west",), None)
