"""What confined code may read, and what a trainer refuses to keep there."""

from __future__ import annotations

import os
import sysconfig
from pathlib import Path

import pytest
from click.testing import CliRunner

import fedmq
from fedmq.cli.main import fedmq as command
from fedmq.errors import BadConfiguration
from fedmq.trainer.confinement import exposed, readable_paths

CHECKOUT = Path(fedmq.__file__).parents[1]


def test_only_the_standard_library_and_installed_packages_are_readable(tmp_path: Path) -> None:
    for path in (os.__file__, fedmq.__file__, sysconfig.get_path("purelib")):
        assert exposed(Path(path)) is not None, path
    for private in (tmp_path, Path("/etc/passwd"), Path.home() / ".ssh", CHECKOUT / "keys", CHECKOUT / "runs"):
        assert exposed(private) is None, private
    assert all(path.is_absolute() and path.resolve() == path for path in readable_paths())


def test_link_into_a_readable_folder_is_exposed(tmp_path: Path) -> None:
    place = Path(sysconfig.get_path("purelib"))
    (tmp_path / "keys").symlink_to(place)
    assert exposed(tmp_path / "keys" / "trainer.key") == place.resolve().parents[1]


@pytest.mark.parametrize("option", ["--state", "--data"])
def test_trainer_with_private_files_among_packages_runs_no_code(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rows.csv").write_text("0,0,0\n" * 20)
    monkeypatch.setattr("fedmq.trainer.confinement._LIBRARIES", (str(tmp_path),))
    monkeypatch.chdir(tmp_path)
    words = ["--data", "rows.csv"] if option == "--data" else ["--data", "xor:1/2", "--state", "state"]
    done = CliRunner().invoke(command, ["trainer", "--name", "bob", *words, "--allow-code"])
    assert isinstance(done.exception, BadConfiguration)
    assert str(done.exception).startswith(f"{option} ")
    assert str(tmp_path) in str(done.exception)
