"""The lock files: exact versions, with the hashes of their files, of everything that an installation downloads."""

from __future__ import annotations

import configparser
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
BUILD, RUN, DEVELOP, LOWEST = (f"requirements{name}.lock" for name in ("-build", "", "-dev", "-lowest"))
COMPILED = ("cffi", "cryptography", "msgspec", "numpy", "pyzmq")  # a file for each Python and platform


def locked(name: str) -> dict[str, tuple[Requirement, list[str]]]:
    """Return the requirements of a lock file for this Python with their hashes, by canonical name."""
    text = (ROOT / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    found = {}
    for line in lines:
        text, *hashes = re.split(r"\s+--hash=", line.strip())
        requirement = Requirement(text)
        if requirement.marker is None or requirement.marker.evaluate():
            assert canonicalize_name(requirement.name) not in found
            found[canonicalize_name(requirement.name)] = requirement, hashes
    return found


def declared(*extras: str) -> list[Requirement]:
    """Return what setup.cfg requires, with these extras."""
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    texts = [settings["options"]["install_requires"], *(settings["options.extras_require"][one] for one in extras)]
    lines = [line.strip() for text in texts for line in text.splitlines()]
    return [Requirement(line) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("name", [BUILD, RUN, DEVELOP, LOWEST])
def test_every_locked_package_has_one_version_and_hashes_and_no_address(name: str) -> None:
    for requirement, hashes in locked(name).values():
        assert re.fullmatch(r"==[0-9a-z!.+]+", str(requirement.specifier)), requirement
        assert hashes, requirement
        assert requirement.url is None
        assert [one for one in hashes if not re.fullmatch(r"sha256:[0-9a-f]{64}", one)] == []
    assert "://" not in (ROOT / name).read_text()


def test_compiled_packages_have_the_hashes_of_all_pythons_and_platforms() -> None:
    found = locked(RUN)
    assert [name for name in COMPILED if len(found[name][1]) < 9] == []


@pytest.mark.parametrize(("name", "extras"), [(RUN, ["deploy", "dashboard", "metrics"]), (DEVELOP, ["dev"])])
def test_lock_has_every_declared_package_in_an_allowed_version(name: str, extras: list[str]) -> None:
    found = locked(name)
    for needed in declared(*extras):
        [version] = found[canonicalize_name(needed.name)][0].specifier
        assert needed.specifier.contains(version.version), needed


def test_build_system_is_locked() -> None:
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    found = locked(BUILD)
    assert found.keys() == {canonicalize_name(Requirement(one).name) for one in needed}
    for one in map(Requirement, needed):
        [version] = found[canonicalize_name(one.name)][0].specifier
        assert one.specifier.contains(version.version)


def test_versions_to_develop_are_those_to_run() -> None:
    to_run, to_develop = locked(RUN), locked(DEVELOP)
    assert {name: entry for name, entry in to_run.items() if to_develop.get(name) != entry} == {}


def test_lowest_versions_are_those_of_setup_cfg_and_ci_tests_them() -> None:
    found = locked(LOWEST)
    for needed in declared():
        [lowest], [version] = needed.specifier, found[canonicalize_name(needed.name)][0].specifier
        assert lowest.operator == ">="
        assert Version(version.version) == Version(lowest.version), needed
    assert "make lowest" in (ROOT / ".ci" / "run").read_text().splitlines()


@pytest.mark.parametrize("path", ["Makefile", "deploy/packaging/build.py", "deploy/container/Containerfile"])
def test_every_installation_of_packages_checks_hashes(path: str) -> None:
    commands = re.split(r"&&|(?<!\\)\n", (ROOT / path).read_text())
    installs = [one for one in commands if "--requirement" in one]
    assert installs
    assert [one for one in installs if "--require-hashes" not in one] == []
