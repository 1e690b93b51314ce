"""The checks of a machine, each with the trouble made that it looks for."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from fedmq.deploy.check_result import Finding
from fedmq.deploy.local_checks import (
    check_clock,
    check_data,
    check_files_limit,
    check_folder,
    check_keys,
    check_libzmq,
    check_python,
)
from fedmq.security.keyring import FederationInfo, write_federation, write_identity
from fedmq.security.keys import Identity, Role


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    """A trainer's folder of keys."""
    broker, aggregator = Identity.new("broker", "broker"), Identity.new("aggregator", "aggregator")
    folder = tmp_path / "keys"
    federation = FederationInfo(os.urandom(16), "tcp://127.0.0.1:7000", broker.public.transport, aggregator.public)
    write_federation(folder, federation)
    write_identity(folder, Identity.new("trainer", "alice"))
    return folder


@pytest.fixture
def _few_files() -> Iterator[None]:
    """A process that may have few files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def is_a_problem(finding: Finding, said: str) -> bool:
    return finding.state == "problem" and said in finding.found and bool(finding.advice)


def test_this_python_and_this_libzmq_are_fine() -> None:
    assert [check_python().state, check_libzmq().state] == ["ok", "ok"]


def test_an_old_python_and_an_old_libzmq_are_problems() -> None:
    assert is_a_problem(check_python((3, 10, 1)), "Python 3.10.1")
    assert is_a_problem(check_libzmq(lambda: ("4.2.5", True)), "libzmq 4.2.5")


def test_a_libzmq_that_cannot_encrypt_is_a_warning() -> None:
    assert check_libzmq(lambda: ("4.3.5", False)).state == "warning"


@pytest.mark.usefixtures("_few_files")
def test_few_files_are_a_warning_that_says_for_how_many_trainers_they_are() -> None:
    finding = check_files_limit()
    assert finding.state == "warning"
    assert "1024 files and connections may be open: enough for about 512 trainers" in finding.found
    assert "ulimit -n 16384" in finding.advice


def test_hardly_any_files_are_a_problem_and_many_are_fine() -> None:
    assert check_files_limit(64).state == "problem"
    assert check_files_limit(16_384).state == "ok"


@pytest.mark.parametrize(("state", "verdict"), [(0, "ok"), (5, "warning"), (-1, "warning")])
def test_a_clock_that_is_not_synchronised_is_a_warning(state: int, verdict: str) -> None:
    assert check_clock(lambda: state).state == verdict


def test_this_machines_clock_can_be_asked() -> None:
    assert check_clock().state in {"ok", "warning"}


def test_a_folder_that_can_be_written_is_fine_and_left_as_it_was(tmp_path: Path) -> None:
    assert check_folder(tmp_path).state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert is_a_problem(check_folder(tmp_path / "missing"), "No such file or directory")
    assert is_a_problem(check_folder(tmp_path / "file"), "Not a directory")
    assert check_folder(Path("/proc")).state == "problem"  # not even root may


@pytest.mark.parametrize("role", get_args(Role))
def test_keys_that_can_be_used_say_whose_they_are(keys: Path, role: Role) -> None:
    (keys / "trainer.key").unlink()
    write_identity(keys, Identity.new(role, "wall"))
    finding, credentials = check_keys(keys)
    assert (finding.state, finding.found) == ("ok", f"{keys}: keys of {role} for the broker at tcp://127.0.0.1:7000")
    connects = None if credentials is None else credentials.identity.role
    assert connects == (None if role == "broker" else role)


def test_keys_that_others_can_read_are_a_problem(keys: Path) -> None:
    (keys / "trainer.key").chmod(0o644)
    assert is_a_problem(check_keys(keys)[0], "expected mode 0600, got 0644")


def test_keys_that_are_damaged_are_a_problem(keys: Path) -> None:
    (keys / "federation.json").write_text(json.dumps({"id": "x"}))
    assert is_a_problem(check_keys(keys)[0], "federation.json: not as fedmq wrote it")


def test_a_folder_without_keys_is_a_problem(keys: Path, tmp_path: Path) -> None:
    assert is_a_problem(check_keys(tmp_path)[0], "expected federation.json in it")
    (keys / "trainer.key").unlink()
    assert is_a_problem(check_keys(keys)[0], "no secret key")


def test_rows_that_can_be_read_are_counted() -> None:
    assert check_data("xor:1/2").found == "xor:1/2: 2 rows, 2 inputs"


def test_rows_that_cannot_be_read_are_a_problem(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b,class\n1,2,0\n3,nan,1\n")
    assert is_a_problem(check_data(str(tmp_path / "rows.csv")), "line 3, column 2 (b): expected a finite number")
    assert is_a_problem(check_data(str(tmp_path / "none.csv")), "no such file")
