"""Facts about a host: one shell script that collects them, and the parsed answers.

The script runs as root on any system, also an old one: it is plain sh, and optional programs may be missing.
"""

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

STATE = "/var/lib/private/fedmq"
KEYS = f"{STATE}/keys"  # of the broker and the aggregator
CREDENTIALS = "/etc/credstore"  # systemd passes each trainer its key from here
UNIT_PROPERTIES = "Id,ActiveState,UnitFileState,NRestarts,StatusText,Result"
LINES_MAX = 4096
DIGITS_MAX = 18  # of a number

# Prints one `key value` a line. Ports come from /proc, because ss may not be installed.
FACTS_SCRIPT = rf"""
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
json_value() {{ sed -n "s/^ *\"$1\": *\"\(.*\)\",*$/\1/p" "$2"; }}
[ ! -f {KEYS}/broker.key ] || echo "federation $(json_value id {KEYS}/federation.json)"
[ ! -f {KEYS}/broker.key ] || echo "address $(json_value broker {KEYS}/federation.json)"
[ ! -f {CREDENTIALS}/fedmq-federation.json ] || echo "joined $(json_value id {CREDENTIALS}/fedmq-federation.json)"
for key in {CREDENTIALS}/fedmq-trainer-*.key; do
    [ ! -f "$key" ] || {{ name=${{key#{CREDENTIALS}/fedmq-trainer-}}; echo "trainer ${{name%.key}}"; }}
done
[ ! -f {STATE}/aggregator/report.json ] || echo finished
if [ -d /run/systemd/system ]; then
    units=$(
        systemctl list-units --all --plain --no-legend 'fedmq-*.service' | cut -d' ' -f1
        ls /etc/systemd/system/fedmq.target.wants 2> /dev/null  # systemd unloads an enabled unit that has ended
    )
    [ -z "$units" ] || systemctl show --property={UNIT_PROPERTIES} $(echo "$units" | sort -u) | sed 's/^/unit /'
fi
:
"""


class Unit(NamedTuple):
    """The state of a unit in systemd."""

    active: str = "inactive"  # active, activating, failed, …
    enabled: bool = False
    restarts: int = 0
    status: str = ""
    result: str = "success"


@dataclass(frozen=True)
class Facts:
    """The parsed answers; None where the host gives none."""

    os: str | None = None
    architecture: str | None = None
    systemd: int | None = None
    python: tuple[int, int] | None = None
    free_kb: int | None = None
    clock: float | None = None  # seconds since 1970
    ports: frozenset[int] = frozenset()  # listening TCP ports
    package: str | None = None  # status in dpkg: installed, config-files
    version: str | None = None  # of the package, if fully installed
    files: dict[str, str] = field(default_factory=dict)  # SHA-256 of the settings, by path
    federation: str | None = None  # id of the federation whose broker key is on this host
    address: str | None = None  # of the broker, from the federation's keys
    joined: str | None = None  # id of the federation of its trainers
    trainers: frozenset[str] = frozenset()  # names of the trainers whose keys are on this host
    finished: bool = False  # the aggregator's run has finished
    units: dict[str, Unit] = field(default_factory=dict)

    def unit(self, name: str) -> Unit:
        return self.units.get(name, Unit())


def read_facts(text: str) -> Facts:
    """Parse the output of the script; lines of unknown form are ignored."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for line in text.splitlines()[:LINES_MAX]:
        key, _, rest = line.partition(" ")
        found[key].append(rest)
    single = {key: lines[-1].strip() for key, lines in found.items()}
    ports = (port for port in found["port"] if re.fullmatch("[0-9A-Fa-f]{4}", port))
    files = (line.partition(" ") for line in found["file"])
    status, _, version = single.get("package", "").partition(" ")
    return Facts(
        os=single.get("os"),
        architecture=single.get("architecture"),
        systemd=_whole(single.get("systemd")),
        python=_version(single.get("python")),
        free_kb=_whole(single.get("free")),
        clock=_number(single.get("clock")),
        ports=frozenset(int(port, 16) for port in ports),
        package=status if status not in ("", "not-installed") else None,
        version=version if status == "installed" else None,
        files={path.strip(): digest for digest, _, path in files},
        federation=single.get("federation"),
        address=single.get("address"),
        joined=single.get("joined"),
        trainers=frozenset(found["trainer"]),
        finished="finished" in single,
        units=_units(found["unit"]),
    )


def _units(lines: list[str]) -> dict[str, Unit]:
    """Parse blocks of `Property=value` separated by an empty line; omit units that are inactive and disabled."""
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


def _whole(text: str | None) -> int | None:
    return int(text) if text and text.isdecimal() and len(text) <= DIGITS_MAX else None


def _number(text: str | None) -> float | None:
    whole, _, rest = (text or "").partition(".")
    return float(f"{whole}.{rest or 0}") if whole.isdecimal() and (not rest or rest.isdecimal()) else None


def _version(text: str | None) -> tuple[int, int] | None:
    major, minor = map(_whole, (text or "").partition(".")[::2])
    return None if major is None or minor is None else (major, minor)
