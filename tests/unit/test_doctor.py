"""The checks of a machine, each with the problem that it detects."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest

from fedmq.deploy.local_checks import (
    CheckResult,
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
    """Return a trainer's folder of keys."""
    broker, aggregator = Identity.new("broker", "broker"), Identity.new("aggregator", "aggregator")
    folder = tmp_path / "keys"
    federation = FederationInfo(os.urandom(16), "tcp://127.0.0.1:7000", broker.public.transport, aggregator.public)
    write_federation(folder, federation)
    write_identity(folder, Identity.new("trainer", "alice"))
    return folder


@pytest.fixture
def _few_files() -> Iterator[None]:
    """Limit this process to few open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def is_problem(result: CheckResult, named: str) -> bool:
    return result.state == "problem" and named in result.found and bool(result.advice)


def test_this_python_and_this_libzmq_are_ok() -> None:
    assert [check_python().state, check_libzmq().state] == ["ok", "ok"]


def test_old_python_and_old_libzmq_are_problems() -> None:
    assert is_problem(check_python((3, 10, 1)), "Python 3.10.1")
    assert is_problem(check_libzmq(lambda: ("4.2.5", True)), "libzmq 4.2.5")


def test_libzmq_without_curve_is_a_warning() -> None:
    assert check_libzmq(lambda: ("4.3.5", False)).state == "warning"


@pytest.mark.usefixtures("_few_files")
def test_low_file_limit_is_a_warning_with_the_number_of_trainers() -> None:
    result = check_files_limit()
    assert result.state == "warning"
    assert ("1024" in result.found, "512 trainers" in result.found) == (True, True)
    assert "ulimit -n 16384" in result.advice


def test_very_low_file_limit_is_a_problem_and_high_is_ok() -> None:
    assert check_files_limit(64).state == "problem"
    assert check_files_limit(16_384).state == "ok"


@pytest.mark.parametrize(("state", "expected"), [(0, "ok"), (5, "warning"), (-1, "warning")])
def test_unsynchronized_clock_is_a_warning(state: int, expected: str) -> None:
    assert check_clock(lambda: state).state == expected


def test_clock_of_this_machine_is_readable() -> None:
    assert check_clock().state in {"ok", "warning"}


def test_writable_folder_is_ok_and_stays_unchanged(tmp_path: Path) -> None:
    assert check_folder(tmp_path).state == "ok"
    assert list(tmp_path.iterdir()) == []


def test_folder_that_is_not_writable_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert is_problem(check_folder(tmp_path / "missing"), "No such file or directory")
    assert is_problem(check_folder(tmp_path / "file"), "Not a directory")
    assert check_folder(Path("/proc")).state == "problem"  # root cannot write it either


@pytest.mark.parametrize("role", get_args(Role))
def test_valid_keys_are_reported_with_role_and_broker(keys: Path, role: Role) -> None:
    (keys / "trainer.key").unlink()
    write_identity(keys, Identity.new(role, "wall"))
    result, credentials = check_keys(keys)
    assert result.state == "ok"
    assert [value for value in (str(keys), role, "tcp://127.0.0.1:7000") if value not in result.found] == []
    found = None if credentials is None else credentials.identity.role
    assert found == (None if role == "broker" else role)


def test_keys_readable_by_others_are_a_problem(keys: Path) -> None:
    (keys / "trainer.key").chmod(0o644)
    assert is_problem(check_keys(keys)[0], "0644")


def test_damaged_keys_are_a_problem(keys: Path) -> None:
    (keys / "federation.json").write_text(json.dumps({"id": "x"}))
    assert is_problem(check_keys(keys)[0], "federation.json")


def test_folder_without_keys_is_a_problem(keys: Path, tmp_path: Path) -> None:
    assert is_problem(check_keys(tmp_path)[0], "federation.json")
    (keys / "trainer.key").unlink()
    assert is_problem(check_keys(keys)[0], str(keys))


def test_valid_rows_are_counted() -> None:
    result = check_data("xor:1/2")
    assert (result.state, "2 rows, 2 inputs" in result.found) == ("ok", True)


def test_invalid_rows_are_a_problem(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b,c\n1,2,0\n1,2\n")
    assert is_problem(check_data(str(tmp_path / "rows.csv")), "line 3: expected 3 cells")
    assert is_problem(check_data(str(tmp_path / "none.csv")), "none.csv")
