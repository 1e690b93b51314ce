"""A stand-in for `docker compose` in tests: the services of a compose file as processes of this machine.

Docker Compose's own parser reads the file. A mount becomes the path of its source, a folder of secrets a folder of
links, the broker's host and port those of $STAND_IN_PORT on the loopback address. Everything is in the process group of
the caller, and ends with it. Of an engine it has only the commands that are used here.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from services import WAIT_S, until

COMPOSE = Path(sys.executable).with_name("docker-compose")
FEDMQ = [sys.executable, "-m", "fedmq"]
STATE = Path("stand-in")
EVERYWHERE = "0.0.0.0"  # noqa: S104 - the setting of the broker, which listens on loopback here


def config(folder: Path, *more: str) -> dict[str, Any]:
    """What Docker Compose makes of the file in a folder."""
    words = [str(COMPOSE), "--profile", "by-hand", "config", "--format", "json", *more]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True, timeout=WAIT_S)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def command_of(name: str) -> list[str]:
    """The words of a service's command, as they are on this machine."""
    project, port = config(Path.cwd()), os.environ["STAND_IN_PORT"]
    service = project["services"][name]
    places = {mount["target"]: mount["source"] for mount in service["volumes"]}
    if "secrets" in service:
        folder = STATE / f"{name}-secrets"
        folder.mkdir(parents=True)
        for secret in service["secrets"]:
            (folder / secret["target"]).symlink_to(project["secrets"][secret["source"]]["file"])
        places["/run/secrets"] = str(folder.absolute())
    words = []
    for word in service["command"]:
        top = next((place for place in places if word == place or word.startswith(f"{place}/")), "")
        words.append((places.get(top, "") + word.removeprefix(top)).replace("//broker:", "//127.0.0.1:"))
    return ["127.0.0.1" if word == EVERYWHERE else word.replace("5550", port) for word in words]


def up(names: list[str]) -> None:
    """Start these services, or all that are not there only by hand; what was started before is left alone."""
    STATE.mkdir(exist_ok=True)
    for name in names or [name for name, one in config(Path.cwd())["services"].items() if "profiles" not in one]:
        if not (STATE / name).exists():
            words = [*FEDMQ, *command_of(name)]
            script = '"$@" & echo $! > "$0"; wait $!; echo $? > "$0.code"'
            with (STATE / f"{name}.log").open("wb") as log:
                subprocess.Popen(["sh", "-c", script, str(STATE / name), *words], stdout=log, stderr=log)
            until(lambda path=STATE / name: path.exists() and path.read_text(), f"{name} to start")  # type: ignore[misc]


def wait(name: str) -> int:
    """The exit code of a service, once it has ended."""
    code = STATE / f"{name}.code"
    until(lambda: code.exists() and code.read_text(), f"{name} to end: {(STATE / f'{name}.log').read_text()}")
    return int(code.read_text())


def down() -> None:
    """SIGTERM to all that run, as an engine sends it; complain about one that does not end well by it."""
    names = [path.stem for path in STATE.glob("*.log")]
    for name in names:
        if not (STATE / f"{name}.code").exists():
            os.kill(int((STATE / name).read_text()), signal.SIGTERM)
    assert {name: wait(name) for name in names} == dict.fromkeys(names, 0)


def main() -> int:
    """`docker compose …`, as far as the page has it."""
    match sys.argv[1:]:
        case ["compose", "build"]:
            return 0
        case ["compose", "run", "--rm", "-T", "fedmq", *words] | ["compose", "run", "--rm", "fedmq", *words]:
            port = os.environ["STAND_IN_PORT"]
            here = [word.replace("//broker:5550", f"//127.0.0.1:{port}") for word in words]
            return subprocess.run([*FEDMQ, *here], check=False).returncode
        case ["compose", "up", "--detach", *names]:
            up(names)
            return 0
        case ["compose", "wait", name]:
            return wait(name)
        case ["compose", "down"]:
            down()
            return 0
    raise SystemExit(f"the stand-in does not know docker {' '.join(sys.argv[1:])}")


if __name__ == "__main__":
    sys.exit(main())
