"""The steps of the Containerfile, carried out, and what comes of them as the first process of a sort of container.

There is no engine here. What one does for a service is done by hand: namespaces of its own, a file system that cannot
be written, a user without rights, SIGTERM to the first process.
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
from desk import ROOT
from machines import run, until

CONTAINERFILE = (ROOT / "deploy" / "container" / "Containerfile").read_text().replace("\\\n", " ")
PYTHON = "/usr/bin/python3"
END_S = 5.0
# As the first process of its own namespaces, nobody on a machine that cannot be written.
CONTAIN = """\
mount --make-rprivate / && mount -t tmpfs tmpfs /tmp && mount -o remount,bind,ro / && cd / || exit 99
exec setpriv --reuid 1000 --regid 1000 --clear-groups --bounding-set=-all --no-new-privs env -i PATH={path} "$@"
"""

pytestmark = pytest.mark.timeout(150)


@pytest.fixture(scope="module")
def image() -> Iterator[Path]:
    """A folder that everybody can read, with the environment that the Containerfile makes."""
    with tempfile.TemporaryDirectory(prefix="fedmq-image-", dir="/var/tmp") as place:
        folder = Path(place)
        folder.chmod(0o755)
        source = folder / "src"
        source.mkdir()
        for line in re.findall(r"^COPY (?!--)(.*)$", CONTAINERFILE, re.MULTILINE):
            *names, target = line.split()
            for name in names:
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
                copy(ROOT / name, source / (name if target == "./" else target))
        [steps] = re.findall(r"^RUN (.*)$", CONTAINERFILE, re.MULTILINE)
        environment = folder / "opt" / "fedmq"
        steps = steps.replace("/wheels", str(folder / "wheels")).replace("/opt/fedmq", str(environment))
        # This machine's own Python, as in its package of fedmq, stands for the image's; it may lack pip.
        steps = steps.replace("python -m pip", f"{sys.executable} -m pip --quiet").replace(
            "python -m venv", f"{PYTHON} -m venv"
        )
        run(["bash", "-c", f"set -e; unset PYTHONPATH; umask 022; cd {source}; {steps}"], timeout_s=120)
        yield environment


def contained(image: Path, *words: str) -> list[str]:
    """The words that run `fedmq WORDS` contained."""
    [entry] = [json.loads(line) for line in re.findall(r"^ENTRYPOINT (.*)$", CONTAINERFILE, re.MULTILINE)]
    own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--ipc", "--uts"]
    script = CONTAIN.format(path=shlex.quote(f"{image / 'bin'}:/usr/bin:/bin"))
    return [*own, "sh", "-c", f"ip link set lo up; {script}", "sh", *entry, *words]


def test_the_image_trains_where_nothing_can_be_written_but_its_folder(image: Path) -> None:
    done = subprocess.run(
        contained(image, "demo", "--seed", "1", "--out", "/tmp/run"),  # noqa: S108 - its own, in memory
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "solved in" in done.stdout
    assert not (image / "bin" / "pip").exists()


def test_a_service_that_is_the_first_process_ends_in_time_by_one_sigterm(image: Path, tmp_path: Path) -> None:
    output = tmp_path / "output"
    with output.open("wb") as out:
        process = subprocess.Popen(contained(image, "broker"), stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    try:
        until(lambda: "broker on" in output.read_text(), "the broker to listen", 20, stands=output.read_text)
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
