"""Read the control fields of a Debian package: version, architecture, and the supported Python versions.

Parses the format of deb(5) itself, so that machines without dpkg can deploy, too.

Functions raise BadConfiguration if there is no package of fedmq.
"""

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
    """A package file for Python versions in [`python_min`, `python_below`)."""

    path: Path
    version: str
    architecture: str
    python_min: tuple[int, int]
    python_below: tuple[int, int]
    installed_kb: int
    size_kb: int


def read_package(path: Path) -> Package:
    """Return the fields of a package file."""
    try:
        lines = [line.partition(":") for line in _control(path).splitlines() if not line.startswith(" ")]
        fields = {key: value.strip() for key, _, value in lines}
        python = [tuple(map(int, found)) for found in re.findall(r"python3 \(\S+ (\d+)\.(\d+)\)", fields["Depends"])]
        least, below = python
        if fields["Package"] != "fedmq":
            raise ValueError(f"package {fields['Package']}")
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
    """Return the given package, or the newest in dist/."""
    if given is not None:
        return read_package(given)
    found = sorted(Path("dist").glob("fedmq_*.deb"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise BadConfiguration(f"expected a package in dist/ or --package FILE.deb, got none; {BUILD}")
    return read_package(found[-1])


def _control(path: Path) -> str:
    """Return the text of the control file inside the control archive."""
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError("not an archive")
        while header := file.read(HEADER_BYTES):
            name, size = header[:16].decode("ascii").strip().rstrip("/"), int(header[48:58])
            if name.startswith("control.tar"):
                if size > CONTROL_BYTES_MAX:
                    raise ValueError("control archive too long")
                with tarfile.open(fileobj=io.BytesIO(file.read(size))) as archive:
                    member = archive.extractfile("./control")
                    assert member is not None
                    return member.read(CONTROL_BYTES_MAX).decode()
            file.seek(size + size % 2, io.SEEK_CUR)
    raise ValueError("no control file")
