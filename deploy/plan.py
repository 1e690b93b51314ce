"""Plan the steps for a host, as data, from its desired state and its facts.

Pure: the same facts give the same plan, and a host in its desired state gives an empty plan. A step is a shell script
that runs as root; secrets and long values come on its standard input, never in its text.
"""

import hashlib
import re
from dataclasses import dataclass
from shlex import quote

from fedmq.deploy.facts import CREDENTIALS, KEYS, STATE, Facts
from fedmq.deploy.inventory import BrokerHost, Instance, Setting, settings_text
from fedmq.deploy.package import Package
from fedmq.security.keys import FINGERPRINT_PATTERN
from fedmq.transport.address import PORTS

SYSTEMD_MIN = 252  # keys from /etc/credstore
SKEW_S_MAX = 30.0  # tokens expire by the clock, and logs of several hosts are compared
SPARE_KB = 64 << 10  # for state and logs, beside the installed package
ETC = "/etc/fedmq"
FEDMQ = "/opt/fedmq/bin/fedmq"
KEYS_SEEN = "/var/lib/fedmq/keys"  # the path inside the units
WRITTEN = "# Written by fedmq deploy; the next deploy overwrites it.\n"
BROKER, AGGREGATOR = "fedmq-broker.service", "fedmq-aggregator.service"


@dataclass(frozen=True)
class Step:
    """One step: a description, the script, its standard input, and its time limit."""

    what: str
    script: str
    reads: bytes = b""
    timeout_s: float = 90.0


@dataclass(frozen=True)
class Install:
    """Copy the package to the host and install it."""

    package: Package

    @property
    def what(self) -> str:
        return f"install {self.package.version}"


@dataclass(frozen=True)
class Enrol:
    """Create a trainer's key on its host and accept it on the broker's host."""

    name: str

    @property
    def what(self) -> str:
        return f"enrol {self.name}"


AnyStep = Step | Install | Enrol


def trainer_unit(name: str) -> str:
    """Return the name of the unit of a trainer."""
    return f"fedmq-trainer@{name}.service"


def short_name(unit: str) -> str:
    """Return the display name of a unit: broker, trainer@north."""
    return unit.removeprefix("fedmq-").removesuffix(".service")


def problems(facts: Facts, package: Package, now: float) -> list[str]:
    """Return why the package cannot be installed, one line each; `now` is our clock at the time of the facts."""
    found = []
    if facts.architecture is None or facts.os is None:
        found.append(f"expected Debian or Ubuntu, got {facts.os or 'neither'}; choose another host")
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
    """Return why the broker cannot listen on this host."""
    taken = sorted(facts.ports & set(range(broker.port, broker.port + PORTS)))
    if not taken or facts.unit(BROKER).active == "active":
        return []
    return [
        f"expected ports {broker.port} to {broker.port + PORTS - 1} free, got {taken[0]} in use; set another port "
        "below [broker] in the inventory"
    ]


def install(facts: Facts, package: Package) -> list[AnyStep]:
    """Install the package, unless this version is installed."""
    return [] if facts.version == package.version else [Install(package)]


def install_script(version: str) -> str:
    """Return a script that installs the package on its standard input, and dependencies from the host's sources.

    apt-get completes a partial installation, but also succeeds if dpkg did nothing: so the version is checked.
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
    """Set up the federation's keys, the settings and the unit of a broker."""
    steps: list[AnyStep] = []
    if facts.federation is None:
        steps.append(Step("create the federation's keys", keys_command("init", "--broker", wanted.url)))
    elif facts.address != wanted.url:
        edit = r's|^\( *"broker": *"\)[^"]*|\1' + wanted.url + "|"
        script = f"sed -i {quote(edit)} {KEYS}/federation.json"
        steps.append(Step("update the address in the federation's keys", script))
    settings: dict[str, Setting] = {"bind": "0.0.0.0", "port": wanted.port, "keys": KEYS_SEEN}  # noqa: S104 with keys
    return [*steps, *_run(facts, BROKER, "broker.toml", settings)]


def aggregator(facts: Facts, wanted: dict[str, Setting], port: int) -> list[AnyStep]:
    """Set up the settings and the unit of an aggregator beside the broker.

    A finished run stays as it is; if other settings are desired, its files are archived first.
    """
    settings = {"broker": f"tcp://127.0.0.1:{port}", **wanted, "keys": KEYS_SEEN}
    steps = _run(facts, AGGREGATOR, "aggregator.toml", settings, finished=facts.finished)
    return [Step("archive the finished run", archive_run()), *steps] if steps and facts.finished else steps


def archive_run() -> str:
    """Return a script that moves the files of a finished run to their own folder, so that the next run can start."""
    return (
        f"set -e; cd {STATE}/aggregator; systemctl stop {AGGREGATOR}\n"
        'run=$(sed -n \'s/^ *"run": "\\([A-Za-z0-9._-]*\\)",*$/\\1/p\' report.json); [ -n "$run" ]\n'
        'install -d -m 700 runs "runs/$run"; chown --reference=. runs "runs/$run"\n'
        'find . -mindepth 1 -maxdepth 1 ! -name runs -exec mv {} "runs/$run/" \\;'
    )


def trainers(facts: Facts, wanted: list[Instance], federation: str, broker: str) -> list[AnyStep]:
    """Set up the keys, settings and units of the trainers of one host; stop trainers that are not wanted.

    `broker` is the current address; the keys on the host may have an older one.
    """
    steps: list[AnyStep] = []
    for one in wanted:
        if facts.joined != federation or one.name not in facts.trainers:
            steps.append(Enrol(one.name))
        steps += _run(facts, trainer_unit(one.name), f"trainer-{one.name}.toml", {"broker": broker, "data": one.data})
    units = {trainer_unit(one.name) for one in wanted}
    return [
        *_stop([name for name in _units_in_use(facts) if name.startswith("fedmq-trainer@") and name not in units]),
        *steps,
    ]


def trainer_problems(facts: Facts, federation: str) -> list[str]:
    """Return why trainers of this federation cannot run on this host."""
    if facts.joined in (None, federation):
        return []
    return ["expected a host of this federation, got keys of another one; first run fedmq deploy remove"]


def stop(facts: Facts) -> list[AnyStep]:
    """Stop and disable all units of fedmq."""
    return _stop(_units_in_use(facts))


def _units_in_use(facts: Facts) -> list[str]:
    """Return the units that run, are enabled, or have failed."""
    return sorted(name for name, unit in facts.units.items() if unit.enabled or unit.active != "inactive")


def _stop(units: list[str]) -> list[AnyStep]:
    if not units:
        return []
    names = " ".join(map(quote, units))
    script = f"systemctl disable --now --quiet {names} && {{ systemctl reset-failed {names} 2> /dev/null || true; }}"
    return [Step(f"stop {', '.join(map(short_name, units))}", script)]


def remove(facts: Facts) -> list[AnyStep]:
    """Purge the package: files, state, keys, users and units; also if only its configuration is left."""
    if facts.package is None:
        return []
    return [Step("purge", "export DEBIAN_FRONTEND=noninteractive; dpkg --purge fedmq 2>&1 > /dev/null")]


def _run(facts: Facts, unit: str, file: str, settings: dict[str, Setting], *, finished: bool = False) -> list[AnyStep]:
    """Write the settings of a unit and start it, or restart it if the settings are new."""
    path, text = f"{ETC}/{file}", (WRITTEN + settings_text(settings)).encode()
    state, same = facts.unit(unit), facts.files.get(path) == hashlib.sha256(text).hexdigest()
    if same and state.enabled and (state.active == "active" or finished):
        return []
    verb = "start" if state.active != "active" else "restart"
    script = (
        f"set -e; cat > {path}.new; chmod 644 {path}.new; mv {path}.new {path}\n"
        f"systemctl enable --quiet fedmq.target {quote(unit)}; systemctl start fedmq.target\n"
        f"systemctl reset-failed {quote(unit)} 2> /dev/null || true\n"
        f"systemctl restart {quote(unit)} || {{ {_why(unit)} >&2; exit 1; }}"
    )
    return [Step(f"{verb} {short_name(unit)}", script, text)]


def _why(unit: str) -> str:
    """Return a script that prints the last log line of the unit's failed start, or systemd's own line."""
    journal, one = "journalctl --quiet --lines 1 --output cat --no-pager", quote(unit)
    return (
        f"journalctl --sync; id=$(systemctl show --property InvocationID --value {one})\n"
        f'why=$({journal} _SYSTEMD_INVOCATION_ID="$id"); '
        f'[ -z "$why" ] && {journal} --unit {one} || echo "$why"'
    )


def keys_command(action: str, *arguments: str) -> str:
    """Return a script that runs `fedmq keys ACTION ARGUMENTS` as the broker's user, on its keys."""
    properties = "-p DynamicUser=yes -p User=fedmq -p StateDirectory=fedmq/keys -p StateDirectoryMode=0700"
    command = " ".join(map(quote, [FEDMQ, "keys", action, "--keys", KEYS_SEEN, *arguments]))
    return f"exec systemd-run --quiet --pipe --wait --collect -p UMask=0077 {properties} {command}"


def accept_command(name: str, printed: str, wait_s: float) -> str | None:
    """Return a script that accepts the key of trainer `name` from the line that `join_script` printed on its host.

    The host may print anything: None if this is not the line of this trainer with a fingerprint. The broker's host
    compares the fingerprint with the request of this name.
    """
    found = re.fullmatch(rf"trainer {re.escape(name)}, fingerprint ({FINGERPRINT_PATTERN})", printed)
    return None if found is None else keys_command("accept", "--wait", f"{wait_s:g}", "--", name, found[1])


def join_script(name: str, connect_timeout_s: float) -> str:
    """Return a script that creates a trainer's key, enrols it with the token on stdin, and installs it for the unit.

    It may be interrupted: the next run discards leftover files, whose key is revoked. A key that was accepted is
    installed even if the join command fails afterward because its output has no reader.
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
