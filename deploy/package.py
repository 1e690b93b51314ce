"""What a Debian package says of itself: its version, its architecture, and the Pythons that it runs on.

Reads the format of deb(5) itself, so that any machine can deploy it. Knows nothing of hosts.
"""

from __future__ import annotations

import io
import re
import tarfile
from pathlib import Path
from typing import NamedTuple

from fedmq.errors import BadConfiguration

MAGIC = b"!<arch>\n"
HEADER_BYTES = 60  # of a member of an ar archive: name 16, …, size 10 at 48, end 2
CONTROL_BYTES_MAX = 1 << 20
BUILD = "build one with make deb"


class Package(NamedTuple):
    """A package file; Pythons from `python_min` up to, but not, `python_below`."""

    path: Path
    version: str
    architecture: str
    python_min: tuple[int, int]
    python_below: tuple[int, int]
    installed_kb: int
    size_kb: int


def read_package(path: Path) -> Package:
    """What a package file says.

    Raises:
        BadConfiguration: it is not a package of fedmq.
    """
    try:
        fields = _fields(_control(path))
        python = [tuple(map(int, found)) for found in re.findall(r"python3 \(\S+ (\d+)\.(\d+)\)", fields["Depends"])]
        least, below = python
        if fields["Package"] != "fedmq":
            raise ValueError(f"it is {fields['Package']}")
        return Package(
            path,
            fields["Version"],
            fields["Architecture"],
            (least[0], least[1]),
            (below[0], below[1]),
            int(fields["Installed-Size"]),
            path.stat().st_size >> 10,
        )
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        raise BadConfiguration(f"{path}: expected a Debian package of fedmq, got none ({error}); {BUILD}") from error


def find_package(given: Path | None) -> Package:
    """The package that is meant: this one, or the newest in dist/.

    Raises:
        BadConfiguration: there is none.
    """
    if given is not None:
        return read_package(given)
    found = sorted(Path("dist").glob("fedmq_*.deb"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise BadConfiguration(f"expected a package in dist/ or --package FILE.deb, got none; {BUILD}")
    return read_package(found[-1])


def _control(path: Path) -> str:
    """The control file, from the archive in the archive."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError("not an archive")
        while header := file.read(HEADER_BYTES):
            name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
            if name.startswith("control.tar"):
                if size > CONTROL_BYTES_MAX:
                    raise ValueError("its control archive is too long")
                with tarfile.open(fileobj=io.BytesIO(file.read(size))) as archive:
                    member = archive.extractfile("./control")
                    assert member is not None
                    return member.read(CONTROL_BYTES_MAX).decode()
            file.seek(size + size % 2, io.SEEK_CUR)
    raise ValueError("without a control file")


def _fields(text: str) -> dict[str, str]:
    lines = [line.partition(":") for line in text.splitlines() if not line.startswith(" ")]
    return {key: value.strip() for key, _, value in lines}
