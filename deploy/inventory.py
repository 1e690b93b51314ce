"""The inventory: hosts and their services, in a TOML file (`fleet.toml`).

[broker]
host = "north"                   # a host name of ssh
address = "10.0.0.11"            # for the other hosts; default: the host name
[aggregator]
task = "parity4"                 # and any other setting of `fedmq aggregator --config`
[[trainers]]
host = "south"
count = 2                        # south-1 and south-2
data = "parity4:{part}/{parts}"  # {part} of {parts}: among all trainers; {n}: on this host
labels = ["clinic"]

Functions raise BadConfiguration for a file, a host or a name that is not valid.
"""

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
# A trainer's user is fedmq-trainer-NAME, and a user name has at most 31 characters.
NAME_PATTERN = r"[a-z0-9][a-z0-9_-]{0,16}"
PLACEHOLDERS = ("{part}", "{parts}", "{n}", "{name}")

Setting = str | int | float | bool
# A host is an argument of ssh and of shell commands: it cannot be an option or contain spaces.
HOST_PATTERN = r"([A-Za-z0-9_][A-Za-z0-9_.-]*@)?[A-Za-z0-9_:][A-Za-z0-9_.:-]*"
Host = Annotated[str, Meta(max_length=255)]
Port = Annotated[int, Meta(ge=1, le=65536 - PORTS)]


class BrokerHost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The host of the broker."""

    host: Host
    address: Host | None = None
    port: Port = DEFAULT_PORT

    @property
    def url(self) -> str:
        """Return the broker's address for the other hosts."""
        return f"tcp://{self.address or self.host.rpartition('@')[2]}:{self.port}"


class TrainerHost(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A host with one or more trainers, and the source of their rows."""

    host: Host
    data: str
    count: Annotated[int, Meta(ge=1, le=COUNT_MAX)] = 1
    name: str | None = None
    labels: tuple[str, ...] = ()


class Inventory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole inventory; missing parts are None or empty."""

    broker: BrokerHost | None = None
    aggregator: dict[str, Setting] | None = None  # it runs on the broker's host
    trainers: tuple[TrainerHost, ...] = ()

    @property
    def hosts(self) -> list[str]:
        first = [] if self.broker is None else [self.broker.host]
        return list(dict.fromkeys([*first, *(one.host for one in self.trainers)]))


class Instance(NamedTuple):
    """One trainer on one host."""

    host: str
    name: str
    data: str


def read_inventory(path: Path) -> Inventory:
    """Read the inventory; an empty one if there is no file."""
    if not path.exists():
        return Inventory()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfiguration(f"{path}: not readable ({error})") from error
    return parse_inventory(path, text)


def parse_inventory(path: Path, text: str) -> Inventory:
    """Parse the text of an inventory; `path` is for errors."""
    try:
        inventory = msgspec.convert(tomllib.loads(text), Inventory)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, RecursionError) as error:
        raise BadConfiguration(f"{path}: not an inventory: {error}; see docs/how-to/three-machines.md") from error
    _check_hosts(path, inventory)
    instances(inventory)
    return inventory


def _check_hosts(path: Path, inventory: Inventory) -> None:
    """Check that each host is valid and has one spelling."""
    broker, spelled = inventory.broker, dict[str, str]()
    for host in [*inventory.hosts, *([broker.address] if broker is not None and broker.address else [])]:
        name = host.rpartition("@")[2]
        if not re.fullmatch(HOST_PATTERN, host) or (":" in name and not _is_ipv6(name)):
            raise BadConfiguration(
                f"{path}: expected a host as HOST or USER@HOST, of letters, digits and . _ -, got {host!r}; "
                "set a port of sshd in ~/.ssh/config"
            )
    for host in inventory.hosts:
        if (other := spelled.setdefault(host.rpartition("@")[2], host)) != host:
            raise BadConfiguration(f"{path}: expected one spelling of each host, got {other} and {host}; use one")
    if broker is not None:
        parse_address(broker.url)


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def instances(inventory: Inventory) -> list[Instance]:
    """Return every trainer, in the order of the file."""
    parts = sum(one.count for one in inventory.trainers)
    found: list[Instance] = []
    for one in inventory.trainers:
        for n in range(1, one.count + 1):
            name = _name(one, n)
            data = fill(one.data, part=len(found) + 1, parts=parts, n=n, name=name)
            if name in {other.name for other in found}:
                raise BadConfiguration(f"expected a name for each trainer, got {name} twice; set name = … at one host")
            found.append(Instance(one.host, name, data))
    return found


def fill(text: str, *, part: int, parts: int, n: int, name: str) -> str:
    """Replace {part}, {parts}, {n} and {name} by the values of one trainer."""
    for placeholder, value in zip(PLACEHOLDERS, (part, parts, n, name), strict=True):
        text = text.replace(placeholder, str(value))
    return text


def _name(one: TrainerHost, n: int) -> str:
    """Return the name of the nth trainer of a host."""
    short = one.host.rpartition("@")[2].lower()
    if not re.fullmatch(r"[\d.:\[\]]+", short):  # not an address
        short = short.partition(".")[0]
    stem = one.name or re.sub(r"[^a-z0-9_-]+", "-", short).strip("-")
    name = stem if one.count == 1 else f"{stem}-{n}"
    if not re.fullmatch(NAME_PATTERN, name):
        raise BadConfiguration(
            f"expected at most 17 lowercase letters, digits, - and _ as a trainer's name, got {name!r}; "
            f"set name = … at host {one.host}"
        )
    return name


def choose(inventory: Inventory, hosts: tuple[str, ...], label: str | None) -> list[str]:
    """Select hosts with trainers: the given ones, those with this label, or all."""
    known = list(dict.fromkeys(one.host for one in inventory.trainers))
    for host in hosts:
        if host not in known:
            raise BadConfiguration(
                f"expected a host of the inventory ({', '.join(known) or 'which is empty'}), got {host}; "
                "add it with --data SPEC"
            )
    labeled = {one.host for one in inventory.trainers if label is None or label in one.labels}
    return [host for host in known if host in labeled and (not hosts or host in hosts)]


def settings_text(settings: dict[str, Setting]) -> str:
    """Format settings as TOML: strings, numbers and booleans of JSON are valid in it."""
    return "".join(f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in settings.items())


def section(part: BrokerHost | TrainerHost | dict[str, Setting]) -> str:
    """Format a section to append to the inventory: the broker, a host with trainers, or settings of the aggregator."""
    if isinstance(part, dict):
        return f"[aggregator]\n{settings_text(part)}\n"
    heading = "[broker]" if isinstance(part, BrokerHost) else "[[trainers]]"
    settings = {key: value for key, value in msgspec.structs.asdict(part).items() if value not in (None, ())}
    return f"{heading}\n{settings_text(settings)}\n"
