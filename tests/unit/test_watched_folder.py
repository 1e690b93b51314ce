"""A folder in memory: what has changed is read again, and what cannot be read keeps its last content."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from fedmq.security.watched_folder import WatchedFolder

EVERY_S = 1.0


class Scene:
    """A folder with text files, and a reader that fails on demand."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.time = folder, 0.0
        self.reads, self.fails = 0, False
        self.watched = WatchedFolder(folder, ".txt", self._read, EVERY_S)

    def _read(self, path: Path) -> str | None:
        self.reads += 1
        if self.fails:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return path.read_text() or None

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)
        os.utime(self.folder / name)

    def refresh(self) -> dict[str, str]:
        self.time += EVERY_S
        self.watched.refresh(self.time)
        return self.watched.files


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


def no_descriptors(*_args: object) -> None:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_only_changed_files_are_read_again(scene: Scene) -> None:
    scene.write("a.txt", "1")
    scene.write("b.md", "no")
    assert scene.refresh() == scene.refresh() == {"a.txt": "1"}
    assert scene.reads == 1
    scene.write("a.txt", "22")
    scene.write("b.txt", "3")
    assert scene.refresh() == {"a.txt": "22", "b.txt": "3"}
    assert scene.reads == 3
    (scene.folder / "a.txt").unlink()
    assert scene.refresh() == {"b.txt": "3"}


def test_skipped_file_is_read_again_once_it_changes(scene: Scene) -> None:
    scene.write("a.txt", "")
    assert scene.refresh() == scene.refresh() == {}
    assert scene.reads == 1
    scene.write("a.txt", "1")
    assert scene.refresh() == {"a.txt": "1"}


def test_refresh_waits_for_its_interval_and_expire_ends_the_wait(scene: Scene) -> None:
    scene.refresh()
    scene.write("a.txt", "1")
    assert not scene.watched.refresh(scene.time)
    scene.watched.expire()
    assert scene.watched.refresh(scene.time)


def test_file_that_cannot_be_read_now_keeps_its_content_and_is_tried_again(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.write("a.txt", "1")
    scene.refresh()
    scene.write("a.txt", "22")
    scene.write("b.txt", "3")
    scene.fails = True

    assert scene.refresh() == scene.refresh() == {"a.txt": "1"}

    assert caplog.text.count("Too many open files") == 1
    scene.fails = False
    assert scene.refresh() == {"a.txt": "22", "b.txt": "3"}


def test_folder_that_cannot_be_listed_keeps_its_content(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scene.write("a.txt", "1")
    scene.refresh()
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", no_descriptors)
        scene.write("b.txt", "2")
        assert scene.refresh() == scene.refresh() == {"a.txt": "1"}
    assert caplog.text.count("Too many open files") == 1
    assert scene.refresh() == {"a.txt": "1", "b.txt": "2"}
