"""The inventory: which host runs what, read from a TOML file (`fleet.toml`) that people write.

    [broker]
    host = "north"                   # as ssh knows it
    address = "10.0.0.11"            # how the others reach it; without it by the host's name
    [aggregator]
    task = "parity4"                 # and whatever else `fedmq aggregator --config` takes
    [[trainers]]
    host = "south"
    count = 2                        # south-1 and south-2
    data = "parity4:{part}/{parts}"  # for each: {part} of {parts} counts over all trainers, {n} over the host's
    labels = ["clinic"]

Knows nothing of how a host is reached or what is on it.
"""

from __future__ import annotations

import ipaddress
import re
import tomllib
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
from msgspec import Meta

from fedmq.errors import BadConfiguration
from fedmq.transport.address import DEFAULT_PORT, PORTS, parse_address

INVENTORY = Path("fleet.toml")
COUNT_MAX = 64
# A trainer's user is fedmq-trainer-NAME, and a user's name ends at 31 letters.
NAME_PATTERN = r"[a-z0-9][a-z0-9_-]{0,16}"
PLACEHOLDERS = ("{part}", "{parts}", "{n}", "{name}")

Setting = str | int | float | bool
# A host goes to ssh and into a shell's words: nothing in it can be taken for an option or a second word.
HOST_PATTERN = r"([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_:][A-Za-z0-9_.:-]*"
Host = Annotated[str, Meta(max_length=255)]
Port = Annotated[int, Meta(ge=1, le=65536 - PORTS)]


class BrokerHost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the broker runs."""

    host: Host
    address: Host | None = None
    port: Port = DEFAULT_PORT

    @property
    def url(self) -> str:
        """The broker's address for everybody else."""
        return f"tcp://{self.address or self.host.rpartition('@')[2]}:{self.port}"


class TrainerHost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A host with one or more trainers, and where their rows are."""

    host: Host
    data: str
    count: Annotated[int, Meta(ge=1, le=COUNT_MAX)] = 1
    name: str | None = None
    labels: tuple[str, ...] = ()


class Inventory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """All of it; a part that is not there yet is None or empty."""

    broker: BrokerHost | None = None
    aggregator: dict[str, Setting] | None = None  # it runs beside the broker
    trainers: tuple[TrainerHost, ...] = ()

    @property
    def hosts(self) -> list[str]:
        """Every host once, the broker's first."""
        first = [] if self.broker is None else [self.broker.host]
        return list(dict.fromkeys([*first, *(one.host for one in self.trainers)]))


class Instance(NamedTuple):
    """One trainer on one host."""

    host: str
    name: str
    data: str


def read_inventory(path: Path) -> Inventory:
    """The inventory in a file; an empty one if there is no file.

    Raises:
        BadConfiguration: it cannot be read, or does not say what an inventory says.
    """
    if not path.exists():
        return Inventory()
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"{path}: cannot be read ({error})") from error
    return parse_inventory(path, text)


def parse_inventory(path: Path, text: str) -> Inventory:
    """The inventory that this text is, of the file at `path`.

    Raises:
        BadConfiguration: it does not say what an inventory says.
    """
    try:
        inventory = msgspec.convert(tomllib.loads(text), Inventory)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise BadConfiguration(f"{path}: not an inventory: {error}; see docs/how-to/three-machines.md") from error
    _check_hosts(path, inventory)
    instances(inventory)
    return inventory


def _check_hosts(path: Path, inventory: Inventory) -> None:
    """That each host can be one, and is called the same everywhere."""
    broker, spelled = inventory.broker, dict[str, str]()
    for host in [*inventory.hosts, *([broker.address] if broker is not None and broker.address else [])]:
        name = host.rpartition("@")[2]
        if not re.fullmatch(HOST_PATTERN, host) or (":" in name and not _is_ipv6(name)):
            raise BadConfiguration(
                f"{path}: expected a host as HOST or USER@HOST, of letters, digits and . _ -, got {host!r}; "
                "a port of sshd goes into ~/.ssh/config"
            )
    for host in inventory.hosts:
        if (other := spelled.setdefault(host.rpartition("@")[2], host)) != host:
            raise BadConfiguration(f"{path}: expected one spelling of each host, got {other} and {host}; choose one")
    if broker is not None:
        parse_address(broker.url)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def instances(inventory: Inventory) -> list[Instance]:
    """Every trainer, in the order of the file.

    Raises:
        BadConfiguration: a name that cannot be one, or is there twice.
    """
    parts = sum(one.count for one in inventory.trainers)
    found: list[Instance] = []
    for one in inventory.trainers:
        for n in range(1, one.count + 1):
            name = _name(one, n)
            data = fill(one.data, part=len(found) + 1, parts=parts, n=n, name=name)
            if name in {other.name for other in found}:
                raise BadConfiguration(f"expected a name for each trainer, got {name} twice; say name = … at one host")
            found.append(Instance(one.host, name, data))
    return found


def fill(text: str, *, part: int, parts: int, n: int, name: str) -> str:
    """A setting with one trainer's values in place of {part}, {parts}, {n} and {name}."""
    for placeholder, value in zip(PLACEHOLDERS, (part, parts, n, name), strict=True):
        text = text.replace(placeholder, str(value))
    return text


def _name(one: TrainerHost, n: int) -> str:
    """The name of the nth trainer of a host."""
    short = one.host.rpartition("@")[2].lower()
    if not re.fullmatch(r"[\d.:\[\]]+", short):  # not an address
        short = short.partition(".")[0]
    stem = one.name or re.sub(r"[^a-z0-9_-]+", "-", short).strip("-")
    name = stem if one.count == 1 else f"{stem}-{n}"
    if not re.fullmatch(NAME_PATTERN, name):
        raise BadConfiguration(
            f"expected at most 17 small letters, digits, - and _ as a trainer's name, got {name!r}; "
            f"say name = … at host {one.host}"
        )
    return name


def choose(inventory: Inventory, hosts: tuple[str, ...], label: str | None) -> list[str]:
    """The hosts with trainers that are meant: these, or those with this label, or all.

    Raises:
        BadConfiguration: one that the inventory does not know.
    """
    known = list(dict.fromkeys(one.host for one in inventory.trainers))
    for host in hosts:
        if host not in known:
            raise BadConfiguration(
                f"expected a host of the inventory ({', '.join(known) or 'there is none'}), got {host}; "
                "say --data SPEC to add it"
            )
    labelled = {one.host for one in inventory.trainers if label is None or label in one.labels}
    return [host for host in known if host in labelled and (not hosts or host in hosts)]


def settings_text(settings: dict[str, Setting]) -> str:
    """Settings as the TOML that `--config` reads."""
    return "".join(f"{key} = {_toml(value)}\n" for key, value in settings.items())


def broker_section(broker: BrokerHost) -> str:
    """What the inventory says of a broker, as text to be put at its end."""
    settings: dict[str, Setting] = {"host": broker.host}
    if broker.address is not None:
        settings["address"] = broker.address
    return "[broker]\n" + settings_text({**settings, "port": broker.port}) + "\n"


def aggregator_section(settings: dict[str, Setting]) -> str:
    """What the inventory says of an aggregator, as text to be put at its end."""
    return "[aggregator]\n" + settings_text(settings) + "\n"


def trainers_section(trainers: TrainerHost) -> str:
    """What the inventory says of a host with trainers, as text to be put at its end."""
    settings: dict[str, Setting] = {"host": trainers.host, "count": trainers.count, "data": trainers.data}
    if trainers.name is not None:
        settings["name"] = trainers.name
    return "[[trainers]]\n" + settings_text(settings) + "\n"


def _toml(value: Setting) -> str:
    # JSON's strings, numbers and booleans are TOML's.
    return msgspec.json.encode(value).decode()
