"""Execute the steps of the Containerfile, and run the result as the first process of a container.

There is no container engine: the tests create namespaces, a read-only file system and an unprivileged user, and send
SIGTERM to the first process.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from machines import run, until
from workstation import ROOT

CONTAINERFILE = (ROOT / "deploy" / "container" / "Containerfile").read_text().replace("\\\n", " ")
PYTHON = "/usr/bin/python3"
END_S = 5.0
# The first process of its own namespaces, unprivileged, with a read-only file system.
CONTAIN = """\
mount --make-rprivate / && mount -t tmpfs tmpfs /tmp && mount -o remount,bind,ro / && cd / || exit 99
exec setpriv --reuid 1000 --regid 1000 --clear-groups --bounding-set=-all --no-new-privs env -i PATH={path} "$@"
"""

pytestmark = pytest.mark.timeout(150)


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """Return a folder readable by all users, with the environment of the Containerfile."""
    with tempfile.TemporaryDirectory(prefix="fedmq-image-", dir="/var/tmp") as place:
        folder = Path(place)
        folder.chmod(0o755)
        source = folder / "src"
        source.mkdir()
        for line in re.findall(r"^COPY (?!--)(.*)$", CONTAINERFILE, re.MULTILINE):
            *names, target = line.split()
            for name in names:
                copied = source / (name if target == "./" else target)
                if (ROOT / name).is_dir():
                    shutil.copytree(ROOT / name, copied, symlinks=True)  # as COPY does
                else:
                    shutil.copy(ROOT / name, copied)
        [steps] = re.findall(r"^RUN (.*)$", CONTAINERFILE, re.MULTILINE)
        environment = folder / "opt" / "fedmq"
        steps = steps.replace("/wheels", str(folder / "wheels")).replace("/opt/fedmq", str(environment))
        # The Python of this machine replaces the image's; it may have no pip.
        steps = steps.replace("python -m pip", f"{sys.executable} -m pip --quiet").replace(
            "python -m venv", f"{PYTHON} -m venv"
        )
        run(["bash", "-c", f"set -e; unset PYTHONPATH; umask 022; cd {source}; {steps}"], timeout_s=120)
        yield environment


def contained(image: Path, *arguments: str) -> list[str]:
    """Return the command that runs `fedmq ARGUMENTS` in the container."""
    [entry] = [json.loads(line) for line in re.findall(r"^ENTRYPOINT (.*)$", CONTAINERFILE, re.MULTILINE)]
    own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--ipc", "--uts"]
    script = CONTAIN.format(path=shlex.quote(f"{image / 'bin'}:/usr/bin:/bin"))
    return [*own, "sh", "-c", f"ip link set lo up; {script}", "sh", *entry, *arguments]


def test_image_trains_with_a_read_only_file_system(image: Path) -> None:
    done = subprocess.run(
        contained(image, "demo", "--seed", "1", "--out", "/tmp/run"),  # noqa: S108 - in memory
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "solved in" in done.stdout
    assert not (image / "bin" / "pip").exists()


def test_service_as_first_process_ends_on_one_sigterm(image: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("wb") as out:
        process = subprocess.Popen(contained(image, "broker"), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        until(lambda: "broker on" in output.read_text(), "the broker to listen", 20, details=output.read_text)
        first = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()[0]
        status = Path(f"/proc/{first}/status").read_text()
        assert re.search(r"^NSpid:\t\d+\t1$", status, re.MULTILINE), status
        assert re.search(r"^Uid:\t1000\t", status, re.MULTILINE), status
        assert re.search(r"^CapEff:\t0+$", status, re.MULTILINE), status
        run(["kill", f"-{signal.SIGTERM.value}", first])
        assert process.wait(END_S) == 0, output.read_text()
    finally:
        process.kill()
        process.wait()
