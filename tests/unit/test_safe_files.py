"""Files that another user may have prepared: what is read and written is regular, limited and private."""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from store_scene import CONFIG, a_close, a_result, filled

from fedmq.errors import BadConfiguration, StoreError
from fedmq.observe.event_log import EventLog
from fedmq.observe.events import RunPaused
from fedmq.observe.run_state import RunState
from fedmq.runs.blobs import BLOB_BYTES
from fedmq.runs.report import make_report, write_report
from fedmq.runs.store import Store
from fedmq.runtime.atomic_files import write_whole
from fedmq.runtime.run_folder import EVENTS, STORE
from fedmq.runtime.safe_files import (
    check_secret,
    check_trusted,
    make_private_folder,
    open_private,
    open_regular,
    read_regular,
)
from fedmq.trainer.high_water_marks import HighWaterMark
from fedmq.trainer.spool import FileSpool

OTHER = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[None]:
    before = os.umask(request.param)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.timeout(20)
def test_fifo_folder_and_device_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match=r"regular|directory"):
            open_regular(path)


def test_file_is_read_up_to_its_limit_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", 5) == b"12345"
    with pytest.raises(OSError, match="more than 4 bytes"):
        read_regular(tmp_path / "file", 4)


def test_huge_sparse_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="more than"):
        read_regular(tmp_path / "huge", 100)


@pytest.mark.usefixtures("umask")
def test_written_files_and_folders_are_private_whatever_the_umask(tmp_path: Path) -> None:
    make_private_folder(tmp_path / "a" / "b")
    os.close(open_private(tmp_path / "a" / "b" / "file"))
    assert [mode(tmp_path / name) for name in ("a", "a/b", "a/b/file")] == [0o700, 0o700, 0o600]


def test_existing_file_becomes_private_and_keeps_its_content(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old ")
    path.chmod(0o664)
    with os.fdopen(open_private(path, append=True), "ab") as file:
        file.write(b"new")
    assert path.read_bytes() == b"old new"
    assert mode(path) == 0o600


@pytest.mark.timeout(20)
def test_link_and_fifo_are_not_written_to(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "link").symlink_to(victim)
    (tmp_path / "dangling").symlink_to(tmp_path / "new")
    os.mkfifo(tmp_path / "fifo")
    for name in ("link", "dangling", "fifo"):
        with pytest.raises(OSError, match=r"symbolic link|regular"):
            open_private(tmp_path / name)
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "new").exists()


def test_device_and_pipe_are_not_replaced_by_a_file(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    link = tmp_path / "device"
    link.symlink_to("/dev/zero")
    before = os.lstat("/dev/stdout")
    for path in (pipe, link, Path("/dev/stdout")):
        with pytest.raises(OSError, match="not a file"):
            write_whole(path, b"rows")
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert link.is_symlink()
    assert os.lstat("/dev/stdout") == before


@needs_root
def test_file_of_another_user_is_not_written_to(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    os.chown(path, OTHER, OTHER)
    with pytest.raises(OSError, match="belongs to"):
        open_private(path)


def test_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match=r"exists|directory"):
            make_private_folder(folder)


@pytest.mark.parametrize("bits", [0o777, 0o770, 0o722, 0o720, 0o702])
def test_folder_that_others_can_write_is_not_trusted(tmp_path: Path, bits: int) -> None:
    tmp_path.chmod(bits)
    with pytest.raises(BadConfiguration, match=rf"{bits:04o}.*chmod go-w"):
        check_trusted(tmp_path, tmp_path.stat())


def test_files_that_only_root_and_this_user_can_write_are_trusted(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    for bits in (0o600, 0o640, 0o644, 0o444, 0o400):
        path.chmod(bits)
        check_trusted(path, path.stat())
    for system in (Path("/etc"), Path("/tmp")):  # noqa: S108 - of root, with the sticky bit
        check_trusted(system, system.stat())


def status_of(path: Path, owner: int, bits: int) -> os.stat_result:
    return os.stat_result((path.stat().st_mode & ~0o7777 | bits, *path.stat()[1:4], owner, *path.stat()[5:]))


def test_file_of_another_user_is_not_trusted(tmp_path: Path) -> None:
    with pytest.raises(
        BadConfiguration, match=r"expected the owner user .*, got user .*: run this command as .*, or chown"
    ):
        check_trusted(tmp_path, status_of(tmp_path, OTHER, 0o700))


def test_secret_of_root_may_be_read_by_the_group_of_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "key"
    path.touch()
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    check_secret(path, status_of(path, 0, 0o440))
    for owner, bits in ((0, 0o444), (0, 0o460), (1000, 0o640), (1000, 0o604)):
        with pytest.raises(BadConfiguration, match=rf"{bits:04o}.*chmod"):
            check_secret(path, status_of(path, owner, bits))


# --- what the services write ----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("umask")
def test_files_of_a_run_and_of_a_trainer_are_private_whatever_the_umask(tmp_path: Path) -> None:
    run, state = tmp_path / "runs" / "run", tmp_path / "state" / "alice"
    make_private_folder(run)
    with Store(run / STORE) as store:
        store.begin(CONFIG)
        filled(store)
        store.save(a_result(4, "carol", size=BLOB_BYTES))
        store.commit()
        log = EventLog(run / EVENTS, RunState())
        log(0.0, RunPaused())
        log.close()
        report, model = make_report(
            CONFIG, [a_close(1)], None, [], why="solved", failure="", rejections={}, bytes_up=0, bytes_down=0, ended=2e9
        )
        write_report(run, report, model, [a_close(1)])
        FileSpool(state).mark(HighWaterMark("run", 3, 4))

        written = list(tmp_path.rglob("*"))
        assert {f"{STORE}-wal", "store.commit-marker", "blobs", EVENTS, "report.json", "run.seen"} <= {
            path.name for path in written
        }
        assert {path.name: mode(path) for path in written if mode(path) != (0o700 if path.is_dir() else 0o600)} == {}


def test_store_of_an_earlier_version_becomes_private(tmp_path: Path) -> None:
    Store(tmp_path / STORE).close()
    (tmp_path / STORE).chmod(0o644)
    Store(tmp_path / STORE).close()
    assert mode(tmp_path / STORE) == 0o600


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", [STORE, EVENTS, "store.commit-marker"])
def test_no_link_and_no_fifo_in_the_folder_of_a_run_is_written_to(tmp_path: Path, name: str) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.touch()
    folder.mkdir()
    for make in (lambda path: path.symlink_to(victim), os.mkfifo):
        make(folder / name)
        with suppress(StoreError), Store(folder / STORE) as store:  # without its commit marker a store works
            store.begin(CONFIG)
            EventLog(folder / EVENTS, RunState()).close()
            assert name == "store.commit-marker"
        assert victim.read_bytes() == b""
        (folder / name).unlink()
        (folder / STORE).unlink(missing_ok=True)
