"""What would be done on a host: problems and steps as data, from what is wanted and from the facts.

Pure: the same facts give the same plan, and a host that is as it should be gives an empty one. A step is a shell script
that root runs; what is secret or long comes on its standard input, never in its text. Knows nothing of SSH.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from shlex import quote

from deploy.facts import STATE, Facts
from deploy.inventory import BrokerHost, Instance, Setting, settings_text
from deploy.package import Package
from fedmq.address import PORTS

SYSTEMD_MIN = 249  # credentials, and StateDirectory with DynamicUser as the units use them
SKEW_S_MAX = 30.0  # tokens expire by the clock, and logs of several hosts are read side by side
SPARE_KB = 64 << 10  # beside the package and what it unpacks to, for state and logs
ETC = "/etc/fedmq"
FEDMQ = "/opt/fedmq/bin/fedmq"
WRITTEN = "# Written by fedmq deploy; the next deploy writes it again.\n"
BROKER, AGGREGATOR = "fedmq-broker.service", "fedmq-aggregator.service"


@dataclass(frozen=True)
class Step:
    """One thing to do: what it is in words, the script, what it reads, and how long it may take."""

    what: str
    script: str
    reads: bytes = b""
    timeout_s: float = 90.0


@dataclass(frozen=True)
class Install:
    """Push the package and install it."""

    package: Package

    @property
    def what(self) -> str:
        """In words."""
        return f"install {self.package.version}"


@dataclass(frozen=True)
class Enrol:
    """Make this trainer's key on its host and have it accepted at the broker's."""

    name: str

    @property
    def what(self) -> str:
        """In words."""
        return f"enrol {self.name}"


AnyStep = Step | Install | Enrol


def trainer_unit(name: str) -> str:
    """The unit of a trainer."""
    return f"fedmq-trainer@{name}.service"


def problems(facts: Facts, package: Package, now: float) -> list[str]:
    """Why the package can not be installed there; each one line. `now` is our clock when theirs was asked."""
    found = []
    if facts.architecture is None or facts.os is None:
        found.append(f"expected Debian or Ubuntu, got {facts.os or 'neither'}; deploy to another host")
    elif facts.architecture != package.architecture:
        found.append(f"expected {package.architecture}, got {facts.architecture}; build the package on such a machine")
    if facts.systemd is None:
        found.append("expected systemd as the first process, got another; boot the host with systemd")
    elif facts.systemd < SYSTEMD_MIN:
        found.append(f"expected systemd {SYSTEMD_MIN} or newer, got {facts.systemd}; upgrade the host")
    least, below = package.python_min, package.python_below
    if facts.python is not None and not least <= facts.python < below:
        found.append(
            f"expected Python {_dotted(least)}, got {_dotted(facts.python)}; build the package with the host's Python "
            "(make deb PYTHON=…), or upgrade the host"
        )
    needed = 0 if facts.version == package.version else package.installed_kb + package.size_kb + SPARE_KB
    if facts.free_kb is not None and facts.free_kb < needed:
        found.append(f"expected {needed >> 10} MB free on /opt and /var, got {facts.free_kb >> 10} MB; make room")
    if facts.clock is not None and abs(facts.clock - now) > SKEW_S_MAX:
        found.append(
            f"expected a clock within {SKEW_S_MAX:g} s of this one, got {facts.clock - now:+.0f} s; "
            "timedatectl set-ntp true"
        )
    return found


def broker_problems(facts: Facts, broker: BrokerHost) -> list[str]:
    """Why the broker can not listen there."""
    taken = sorted(facts.ports & set(range(broker.port, broker.port + PORTS)))
    if not taken or facts.unit(BROKER).active == "active":
        return []
    return [f"expected ports {broker.port} to {broker.port + PORTS - 1} free, got {taken[0]} in use; choose --port"]


def install(facts: Facts, package: Package) -> list[AnyStep]:
    """The package, if it is not there in this version."""
    return [] if facts.version == package.version else [Install(package)]


def install_script() -> str:
    """Installs the package on the standard input. What it depends on comes from the host's own sources."""
    return (
        "set -e; export LC_ALL=C DEBIAN_FRONTEND=noninteractive\n"
        "folder=$(mktemp -d /var/tmp/fedmq-XXXXXX); trap 'rm -rf \"$folder\"' EXIT\n"
        'cat > "$folder/fedmq.deb"\n'
        'dpkg --force-confdef --force-confold --install "$folder/fedmq.deb" > "$folder/log" 2>&1 ||\n'
        "    apt-get -qq -y --no-install-recommends --fix-broken install >> \"$folder/log\" 2>&1 ||\n"
        '    { tail -n 3 "$folder/log" >&2; exit 1; }\n'
        "dpkg-query -W -f '${db:Status-Status}' fedmq | grep -qx installed || { tail -n 3 \"$folder/log\" >&2; exit 1; }"
    )


def broker(facts: Facts, wanted: BrokerHost) -> list[AnyStep]:
    """The federation's keys, the settings and the unit of a broker."""
    keys = keys_folder("broker")
    steps: list[AnyStep] = []
    if "broker" not in facts.members:
        init = as_user("broker", f"{FEDMQ} keys init --keys {keys} --broker {quote(wanted.url)}")
        steps.append(Step("make the federation's keys", init))
    settings: dict[str, Setting] = {"bind": "0.0.0.0", "port": wanted.port, "keys": keys}  # noqa: S104 with keys
    return [*steps, *_run(facts, BROKER, "broker.toml", settings)]


def aggregator(facts: Facts, wanted: dict[str, Setting], port: int) -> list[AnyStep]:
    """The keys, the settings and the unit of an aggregator beside the broker; none for a run that is over."""
    steps: list[AnyStep] = []
    if "aggregator" not in facts.members:
        steps.append(Step("hand over the aggregator's key", hand_over_aggregator_key()))
    settings = {"broker": f"tcp://127.0.0.1:{port}", **wanted, "keys": keys_folder("aggregator")}
    return [*steps, *_run(facts, AGGREGATOR, "aggregator.toml", settings, over=facts.finished)]


def trainers(facts: Facts, wanted: list[Instance], federation: str) -> list[AnyStep]:
    """The keys, the settings and the units of the trainers of one host."""
    steps: list[AnyStep] = []
    for one in wanted:
        if facts.members.get(f"trainer-{one.name}") != federation:
            steps.append(Enrol(one.name))
        settings: dict[str, Setting] = {"data": one.data, "keys": keys_folder(f"trainer-{one.name}")}
        steps += _run(facts, trainer_unit(one.name), f"trainer-{one.name}.toml", settings)
    return steps


def trainer_problems(facts: Facts, wanted: list[Instance], federation: str) -> list[str]:
    """Why these trainers can not run there."""
    others = [one.name for one in wanted if facts.members.get(f"trainer-{one.name}", federation) != federation]
    return [
        f"expected no key of {name}, or one of this federation, got another federation's; fedmq deploy remove first"
        for name in others[:1]
    ]


def stop(facts: Facts) -> list[AnyStep]:
    """Stops whatever of fedmq runs there, for now and at the next boot."""
    running = [name for name, unit in facts.units.items() if unit.enabled or unit.active not in ("inactive", "failed")]
    if not running:
        return []
    units = " ".join(map(quote, sorted(running)))
    return [Step(f"stop {len(running)} services", f"systemctl disable --now --quiet {units}")]


def remove(facts: Facts) -> list[AnyStep]:
    """Takes everything of fedmq from there: files, state, keys, users and units."""
    if facts.version is None:
        return []
    return [Step("purge", "export DEBIAN_FRONTEND=noninteractive; dpkg --purge fedmq 2>&1 > /dev/null")]


def _run(
    facts: Facts, unit: str, file: str, settings: dict[str, Setting], *, over: bool = False
) -> list[AnyStep]:
    """The settings of a unit, and the unit: started, or started again when the settings are new."""
    path, text = f"{ETC}/{file}", (WRITTEN + settings_text(settings)).encode()
    stands, same = facts.unit(unit), facts.files.get(path) == hashlib.sha256(text).hexdigest()
    if same and stands.enabled and (stands.active == "active" or over):
        return []
    verb = "start" if stands.active != "active" else "restart"
    script = (
        f"set -e; cat > {path}.new; chmod 644 {path}.new; mv {path}.new {path}\n"
        f"systemctl enable --quiet fedmq.target {quote(unit)}; systemctl start fedmq.target\n"
        f"systemctl reset-failed {quote(unit)} 2> /dev/null || true\n"
        f"systemctl restart {quote(unit)} || {{ journalctl --unit {quote(unit)} --lines 3 --output cat --no-pager >&2; "
        "exit 1; }"
    )
    return [Step(f"{verb} {unit.removeprefix('fedmq-').removesuffix('.service')}", script, text)]


def keys_folder(part: str) -> str:
    """Where the keys of the broker, the aggregator or a trainer are, as its unit sees it."""
    return f"/var/lib/fedmq/{part}/keys"


def as_user(part: str, command: str) -> str:
    """Runs a command as the user of a unit, on that unit's state, with the standard input and output of the script."""
    properties = f"-p DynamicUser=yes -p User=fedmq-{part} -p StateDirectory=fedmq/{part} -p StateDirectoryMode=0700"
    return f"exec systemd-run --quiet --pipe --wait --collect -p UMask=0077 {properties} {command}"


def hand_over_aggregator_key() -> str:
    """Moves the aggregator's key from where the federation was made to the aggregator alone, with who is a member."""
    broker_keys, own = f"{STATE}/broker/keys", f"{STATE}/aggregator"
    return (
        f"set -e; umask 077; install -d -m 700 {STATE} {own} {own}/keys\n"
        f"cp {broker_keys}/federation.json {own}/keys/federation.json\n"
        f"[ ! -f {broker_keys}/aggregator.key ] || mv {broker_keys}/aggregator.key {own}/keys/aggregator.key\n"
        f"test -f {own}/keys/aggregator.key\n" + copy_members()
    )


def copy_members() -> str:
    """Makes the aggregator's list of members that of the broker: a member of both, or of neither."""
    source, own = f"{STATE}/broker/keys/members", f"{STATE}/aggregator"
    target = f"{own}/keys/members"
    return (
        f"set -e; umask 077; [ -d {own}/keys ] || exit 0; install -d -m 700 {target}\n"
        f'for file in {source}/*.json; do [ ! -f "$file" ] || [ -f "{target}/${{file##*/}}" ] || '
        f'{{ cp "$file" "{target}/.new"; mv "{target}/.new" "{target}/${{file##*/}}"; }}; done\n'
        f'for file in {target}/*.json; do [ -f "{source}/${{file##*/}}" ] || rm -f "$file"; done\n'
        f"chown -R --reference={own} {own}/keys\n"
    )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
