"""What is so on a host: the questions, as one shell script, and the answers as a value.

The script runs as root on whatever is there, an old system too, so it is plain sh and asks for nothing that may be
missing. Knows nothing of what anybody wants there, nor of how the script gets to the host.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

STATE = "/var/lib/private/fedmq"
KEYS = f"{STATE}/keys"  # of the broker and the aggregator
CREDENTIALS = "/etc/credstore"  # from which systemd hands each trainer its own key
UNIT_PROPERTIES = "Id,ActiveState,UnitFileState,NRestarts,StatusText,Result"
LINES_MAX = 4096

# One `word rest` a line. The broker's ports are looked up in /proc: ss may not be installed.
QUESTIONS = rf"""
export LC_ALL=C
[ ! -r /etc/os-release ] || (. /etc/os-release; echo "os ${{ID:-unknown}} ${{VERSION_ID:-}}")
command -v dpkg > /dev/null && echo "architecture $(dpkg --print-architecture)"
[ -d /run/systemd/system ] && echo "systemd $(systemctl --version | awk 'NR == 1 {{ print $2 }}')"
python=$(python3 -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2> /dev/null) && echo "python $python"
echo "free $(df -Pk /opt /var 2> /dev/null | awk 'NR > 1 {{ print $4 }}' | sort -n | head -n 1)"
echo "clock $(date +%s.%N)"
awk '$4 == "0A" {{ split($2, at, ":"); print "port " at[2] }}' /proc/net/tcp /proc/net/tcp6 2> /dev/null | sort -u
command -v dpkg-query > /dev/null && dpkg-query -W -f 'package ${{db:Status-Status}} ${{Version}}\n' fedmq 2> /dev/null
sha256sum /etc/fedmq/*.toml 2> /dev/null | sed 's/^/file /'
said() {{ sed -n "s/^ *\"$1\": *\"\(.*\)\",*$/\1/p" "$2"; }}
[ ! -f {KEYS}/broker.key ] || echo "federation $(said id {KEYS}/federation.json)"
[ ! -f {KEYS}/broker.key ] || echo "address $(said broker {KEYS}/federation.json)"
[ ! -f {CREDENTIALS}/fedmq-federation.json ] || echo "joined $(said id {CREDENTIALS}/fedmq-federation.json)"
for key in {CREDENTIALS}/fedmq-trainer-*.key; do
    [ ! -f "$key" ] || {{ name=${{key#{CREDENTIALS}/fedmq-trainer-}}; echo "trainer ${{name%.key}}"; }}
done
[ ! -f {STATE}/aggregator/report.json ] || echo finished
if [ -d /run/systemd/system ]; then
    units=$(
        systemctl list-units --all --plain --no-legend 'fedmq-*.service' | cut -d' ' -f1
        ls /etc/systemd/system/fedmq.target.wants 2> /dev/null  # systemd forgets an enabled unit that is over
    )
    [ -z "$units" ] || systemctl show --property={UNIT_PROPERTIES} $(echo "$units" | sort -u) | sed 's/^/unit /'
fi
:
"""


class Unit(NamedTuple):
    """A unit as systemd sees it."""

    active: str = "inactive"  # active, activating, failed, …
    enabled: bool = False
    restarts: int = 0
    status: str = ""
    result: str = "success"


@dataclass(frozen=True)
class Facts:
    """The answers; None where a host has none."""

    os: str | None = None
    architecture: str | None = None
    systemd: int | None = None
    python: tuple[int, int] | None = None
    free_kb: int | None = None
    clock: float | None = None  # seconds since 1970
    ports: frozenset[int] = frozenset()  # on which somebody listens
    package: str | None = None  # how it stands there in dpkg's word, installed or config-files
    version: str | None = None  # of the package, if it is installed whole
    files: dict[str, str] = field(default_factory=dict)  # SHA-256 of the settings, by path
    federation: str | None = None  # the id of the one whose broker's key is there
    address: str | None = None  # where its keys say that the broker is
    joined: str | None = None  # the id of the one that its trainers belong to
    trainers: frozenset[str] = frozenset()  # whose keys are there
    finished: bool = False  # the aggregator's run is over
    units: dict[str, Unit] = field(default_factory=dict)

    def unit(self, name: str) -> Unit:
        """A unit, also one that systemd has never heard of."""
        return self.units.get(name, Unit())


def read_facts(text: str) -> Facts:
    """The facts that the script printed; a line that it cannot have printed is left out."""
    one: dict[str, str] = {}
    ports: set[int] = set()
    files: dict[str, str] = {}
    trainers: set[str] = set()
    unit_lines: list[str] = []
    for line in text.splitlines()[:LINES_MAX]:
        word, _, rest = line.partition(" ")
        first, _, second = rest.partition(" ")
        if word == "port":
            ports.add(int(rest, 16) if _is_hexadecimal(rest) else 0)
        elif word == "file":
            files[second.strip()] = first
        elif word == "trainer":
            trainers.add(rest)
        elif word == "unit":
            unit_lines.append(rest)
        else:
            one[word] = rest.strip()
    status, _, version = one.get("package", "").partition(" ")
    return Facts(
        os=one.get("os"),
        architecture=one.get("architecture"),
        systemd=_whole(one.get("systemd")),
        python=_version(one.get("python")),
        free_kb=_whole(one.get("free")),
        clock=_number(one.get("clock")),
        ports=frozenset(ports),
        package=status if status not in ("", "not-installed") else None,
        version=version if status == "installed" else None,
        files=files,
        federation=one.get("federation"),
        address=one.get("address"),
        joined=one.get("joined"),
        trainers=frozenset(trainers),
        finished="finished" in one,
        units=_units(unit_lines),
    )


def _units(lines: list[str]) -> dict[str, Unit]:
    """Blocks of `Property=value`, with an empty line between two units; one that is only mentioned is left out."""
    found: dict[str, Unit] = {}
    block: dict[str, str] = {}
    for line in [*lines, ""]:
        key, equals, value = line.partition("=")
        if equals:
            block[key] = value
        elif "Id" in block:
            found[block["Id"]] = Unit(
                block.get("ActiveState", ""),
                block.get("UnitFileState", "") == "enabled",
                _whole(block.get("NRestarts")) or 0,
                block.get("StatusText", ""),
                block.get("Result", ""),
            )
            block = {}
    return {name: unit for name, unit in found.items() if unit.enabled or unit.active != "inactive"}


def _is_hexadecimal(text: str) -> bool:
    return len(text) == 4 and all(letter in "0123456789ABCDEFabcdef" for letter in text)


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() else None


def _number(text: str | None) -> float | None:
    whole, _, rest = (text or "").partition(".")
    return float(f"{whole}.{rest or 0}") if whole.isdecimal() and (not rest or rest.isdecimal()) else None


def _version(text: str | None) -> tuple[int, int] | None:
    major, _, minor = (text or "").partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None
