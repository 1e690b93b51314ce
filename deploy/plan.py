"""What would be done on a host: problems and steps as data, from what is wanted and from the facts.

Pure: the same facts give the same plan, and a host that is as it should be gives an empty one. A step is a shell script
that root runs; what is secret or long comes on its standard input, never in its text. Knows nothing of SSH.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from shlex import quote

from fedmq.deploy.facts import CREDENTIALS, KEYS, STATE, Facts
from fedmq.deploy.inventory import BrokerHost, Instance, Setting, settings_text
from fedmq.deploy.package import Package
from fedmq.transport.address import PORTS

SYSTEMD_MIN = 252  # keys from /etc/credstore
SKEW_S_MAX = 30.0  # tokens expire by the clock, and logs of several hosts are read side by side
SPARE_KB = 64 << 10  # beside the package and what it unpacks to, for state and logs
ETC = "/etc/fedmq"
FEDMQ = "/opt/fedmq/bin/fedmq"
KEYS_SEEN = "/var/lib/fedmq/keys"  # as the units see it
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


def short(unit: str) -> str:
    """A unit's name for people: broker, trainer@north."""
    return unit.removeprefix("fedmq-").removesuffix(".service")


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
    return [
        f"expected ports {broker.port} to {broker.port + PORTS - 1} free, got {taken[0]} in use; set another port "
        "below [broker] in the inventory"
    ]


def install(facts: Facts, package: Package) -> list[AnyStep]:
    """The package, if it is not there in this version."""
    return [] if facts.version == package.version else [Install(package)]


def install_script(version: str) -> str:
    """Installs the package on the standard input. What it depends on comes from the host's own sources.

    apt-get mends what dpkg has left half done, and is content where dpkg has done nothing at all.
    """
    wanted = quote(f"installed {version}")
    return (
        "set -e; export LC_ALL=C DEBIAN_FRONTEND=noninteractive\n"
        "folder=$(mktemp -d /var/tmp/fedmq-XXXXXX); trap 'rm -rf \"$folder\"' EXIT\n"
        'cat > "$folder/fedmq.deb"\n'
        'dpkg --force-confdef --force-confold --install "$folder/fedmq.deb" > "$folder/log" 2>&1 ||\n'
        '    apt-get -qq -y --no-install-recommends --fix-broken install >> "$folder/log" 2>&1 ||\n'
        '    { tail -n 3 "$folder/log" >&2; exit 1; }\n'
        f"dpkg-query -W -f '${{db:Status-Status}} ${{Version}}\\n' fedmq | grep -qxF {wanted} ||\n"
        '    { grep -m 1 error: "$folder/log" || tail -n 3 "$folder/log"; exit 1; } >&2'
    )


def broker(facts: Facts, wanted: BrokerHost) -> list[AnyStep]:
    """The federation's keys, the settings and the unit of a broker."""
    steps: list[AnyStep] = []
    if facts.federation is None:
        steps.append(Step("make the federation's keys", keys_command("init", "--broker", wanted.url)))
    elif facts.address != wanted.url:
        says = r's|^\( *"broker": *"\)[^"]*|\1' + wanted.url + "|"
        script = f"sed -i {quote(says)} {KEYS}/federation.json"
        steps.append(Step("say the new address in the federation's keys", script))
    settings: dict[str, Setting] = {"bind": "0.0.0.0", "port": wanted.port, "keys": KEYS_SEEN}  # noqa: S104 with keys
    return [*steps, *_run(facts, BROKER, "broker.toml", settings)]


def aggregator(facts: Facts, wanted: dict[str, Setting], port: int) -> list[AnyStep]:
    """The settings and the unit of an aggregator beside the broker.

    A run that is over is left alone; when another one is wanted, its folder is put away.
    """
    settings = {"broker": f"tcp://127.0.0.1:{port}", **wanted, "keys": KEYS_SEEN}
    steps = _run(facts, AGGREGATOR, "aggregator.toml", settings, over=facts.finished)
    return [Step("put the finished run away", put_away_run()), *steps] if steps and facts.finished else steps


def put_away_run() -> str:
    """Moves the files of a run that is over to a folder of its own, so that the next can begin."""
    return (
        f"set -e; cd {STATE}/aggregator; systemctl stop {AGGREGATOR}\n"
        'run=$(sed -n \'s/^ *"run": "\\([A-Za-z0-9._-]*\\)",*$/\\1/p\' report.json); [ -n "$run" ]\n'
        'install -d -m 700 runs "runs/$run"; chown --reference=. runs "runs/$run"\n'
        'find . -mindepth 1 -maxdepth 1 ! -name runs -exec mv {} "runs/$run/" \\;'
    )


def trainers(facts: Facts, wanted: list[Instance], federation: str, broker: str) -> list[AnyStep]:
    """The keys, the settings and the units of the trainers of one host; what is there and not wanted is stopped.

    `broker` is its address now; the keys there say what it was when they were made.
    """
    steps: list[AnyStep] = []
    for one in wanted:
        if facts.joined != federation or one.name not in facts.trainers:
            steps.append(Enrol(one.name))
        steps += _run(facts, trainer_unit(one.name), f"trainer-{one.name}.toml", {"broker": broker, "data": one.data})
    units = {trainer_unit(one.name) for one in wanted}
    return [*_stop([name for name in _busy(facts) if name.startswith("fedmq-trainer@") and name not in units]), *steps]


def trainer_problems(facts: Facts, federation: str) -> list[str]:
    """Why trainers of this federation can not run there."""
    if facts.joined in (None, federation):
        return []
    return ["expected a host of this federation, got one with another's keys; fedmq deploy remove it first"]


def stop(facts: Facts) -> list[AnyStep]:
    """Stops whatever of fedmq runs there, for now and at the next boot."""
    return _stop(_busy(facts))


def _busy(facts: Facts) -> list[str]:
    """The units that run, would at the next boot, or are remembered because they failed."""
    return sorted(name for name, unit in facts.units.items() if unit.enabled or unit.active != "inactive")


def _stop(units: list[str]) -> list[AnyStep]:
    if not units:
        return []
    names = " ".join(map(quote, units))
    script = f"systemctl disable --now --quiet {names} && {{ systemctl reset-failed {names} 2> /dev/null || true; }}"
    return [Step(f"stop {', '.join(map(short, units))}", script)]


def remove(facts: Facts) -> list[AnyStep]:
    """Takes everything of fedmq from there: files, state, keys, users and units; also of a package that was removed."""
    if facts.package is None:
        return []
    return [Step("purge", "export DEBIAN_FRONTEND=noninteractive; dpkg --purge fedmq 2>&1 > /dev/null")]


def _run(facts: Facts, unit: str, file: str, settings: dict[str, Setting], *, over: bool = False) -> list[AnyStep]:
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
        f"systemctl restart {quote(unit)} || {{ {_why(unit)} >&2; exit 1; }}"
    )
    return [Step(f"{verb} {short(unit)}", script, text)]


def _why(unit: str) -> str:
    """Prints the last words of the unit's own process in the start that failed, or else what systemd says of it."""
    journal, one = "journalctl --quiet --lines 1 --output cat --no-pager", quote(unit)
    return (
        f"journalctl --sync; id=$(systemctl show --property InvocationID --value {one})\n"
        f'why=$({journal} _SYSTEMD_INVOCATION_ID="$id"); '
        f'[ -z "$why" ] && {journal} --unit {one} || echo "$why"'
    )


def keys_command(*words: str) -> str:
    """Runs `fedmq keys WORDS` as the user of the broker and the aggregator, on their folder of keys."""
    properties = "-p DynamicUser=yes -p User=fedmq -p StateDirectory=fedmq/keys -p StateDirectoryMode=0700"
    command = " ".join(map(quote, [FEDMQ, "keys", *words, "--keys", KEYS_SEEN]))
    return f"exec systemd-run --quiet --pipe --wait --collect -p UMask=0077 {properties} {command}"


def join_script(name: str, connect_timeout_s: float) -> str:
    """Makes a trainer's key, asks with the token on the standard input, and hands the key to the trainer's unit.

    It can be interrupted. What an earlier one has left is thrown away: that key is revoked. One that is accepted when
    nobody listens any more, so that the last words of the command go nowhere, is handed over all the same.
    """
    folder = f"{ETC}/joining-{name}"
    return (
        f"set -e; umask 077; rm -rf {folder}; install -d -m 700 {folder} {CREDENTIALS}\n"
        f"{FEDMQ} trainer join - --name {name} --keys {folder} --connect-timeout {connect_timeout_s:g} ||\n"
        f"    [ -f {folder}/trainer.key ]\n"
        f"mv {folder}/trainer.key {CREDENTIALS}/fedmq-trainer-{name}.key\n"
        f"mv {folder}/federation.json {CREDENTIALS}/fedmq-federation.json\n"
        f"rm -rf {folder}\n"
    )


def _dotted(version: tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"
