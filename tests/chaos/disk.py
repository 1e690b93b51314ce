"""The disk of a run: a small file system that can be filled, and damage to store files."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np

STORE_FILES = ("store.sqlite3", "store.sqlite3-wal")
EVENTS = "events.jsonl"
BALLAST = "ballast"
FILL_BYTES = 1 << 20


class Disk:
    """A folder on its own tmpfs; without the right to mount one, a plain folder and RLIMIT_FSIZE."""

    def __init__(self, folder: Path, bytes_max: int) -> None:
        folder.mkdir()
        self.folder = folder
        command = ["mount", "-t", "tmpfs", "-o", f"size={bytes_max}", "fedmq-chaos", str(folder)]
        done = subprocess.run(command, capture_output=True, check=False)
        self.mounted = done.returncode == 0
        self.how = "a tmpfs, filled" if self.mounted else "RLIMIT_FSIZE (no right to mount a tmpfs)"

    def fill(self, pid: int | None) -> None:
        """Fill the disk; without a tmpfs limit the file size of the process `pid`."""
        if not self.mounted:
            if pid is not None:  # the files of the run reach this size, the logs do not
                longest = (self.folder / EVENTS).stat().st_size
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (longest, resource.RLIM_INFINITY))
            return
        with (self.folder / BALLAST).open("wb", buffering=0) as file:
            size = FILL_BYTES
            while size:
                try:
                    file.write(bytes(size))
                except OSError:
                    size //= 2

    def free(self, pid: int | None) -> None:
        """Free the space again."""
        (self.folder / BALLAST).unlink(missing_ok=True)
        if not self.mounted and pid is not None:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def release(self, keep_in: Path | None) -> None:
        """Copy the files to `keep_in`, if given, and unmount."""
        try:
            (self.folder / BALLAST).unlink(missing_ok=True)
            if keep_in is not None:
                shutil.copytree(self.folder, keep_in, dirs_exist_ok=True)
        finally:
            if self.mounted:
                subprocess.run(["umount", "--lazy", str(self.folder)], check=True)


class Damage(NamedTuple):
    """A change of one bit (`bit` of byte `place`), or the loss of all from `place` on (`bit` is None)."""

    file: str
    place: int
    bit: int | None

    def __str__(self) -> str:
        what = "truncated at" if self.bit is None else f"bit {self.bit} flipped of"
        return f"{self.file} {what} byte {self.place}"

    def apply(self, folder: Path) -> None:
        """Damage the file in `folder`."""
        path = folder / self.file
        if self.bit is None:
            os.truncate(path, self.place)
            return
        with path.open("r+b") as file:
            file.seek(self.place)
            (byte,) = file.read(1)
            file.seek(self.place)
            file.write(bytes([byte ^ 1 << self.bit]))


def draw_damage(folder: Path, generator: np.random.Generator) -> Damage:
    """Draw a damage to one of the store's files, by size; three quarters are bit flips, the rest truncations."""
    sizes = {name: (folder / name).stat().st_size for name in STORE_FILES if (folder / name).exists()}
    names = [name for name, size in sizes.items() if size]
    shares = np.array([sizes[name] for name in names], dtype=np.float64)
    name = str(generator.choice(names, p=shares / shares.sum()))
    place = int(generator.integers(sizes[name]))
    return Damage(name, place, int(generator.integers(8)) if generator.random() < 0.75 else None)


def copy_run(folder: Path, to: Path) -> Path:
    """Copy the run in `folder`, without files of a running process."""
    shutil.copytree(folder, to, ignore=shutil.ignore_patterns(BALLAST, "*-shm", "*.partial"))
    return to
