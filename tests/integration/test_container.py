"""The files for containers: as hadolint and Docker Compose read them, and their commands as processes.

`docker_stand_in` replaces a container engine.
"""

from __future__ import annotations

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from docker_stand_in import COMPOSE, config
from services import clean_environment, report_of
from test_docs import BLOCK, ROOT, run_script

from fedmq.deploy.processes import free_port

FOLDER = ROOT / "deploy" / "container"
CONTAINERFILE = (FOLDER / "Containerfile").read_text()
PAGE = ROOT / "docs" / "how-to" / "containers.md"
HADOLINT = Path(sys.executable).with_name("hadolint")
STAND_IN = Path(__file__).with_name("docker_stand_in.py")
SERVICES = ["aggregator", "alice", "bob", "broker", "fedmq"]


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """Return compose.yaml as Docker Compose resolves it."""
    return config(FOLDER)


def lint(text: str) -> str:
    """Return the findings of hadolint."""
    command = [str(HADOLINT), "--no-color", "--failure-threshold", "style", "-"]
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode != 0) == bool(done.stdout), done.stderr
    return done.stdout


def parse(text: str, folder: Path) -> str:
    """Return the errors of Docker Compose."""
    (folder / "compose.yaml").write_text(text)
    command = [str(COMPOSE), "--profile", "by-hand", "config", "--quiet"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=30)
    assert (done.returncode != 0) == bool(done.stderr), done.stdout
    return done.stderr


def test_hadolint_accepts_the_containerfile() -> None:
    assert lint(CONTAINERFILE) == ""


@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [("USER 1000:1000", "USER root", "DL3002"), ('["fedmq"]', "fedmq", "DL3025"), ("COPY deploy", "CPY deploy", "")],
)
def test_error_in_the_containerfile_is_found(right: str, wrong: str, rule: str) -> None:
    assert right in CONTAINERFILE
    assert rule in lint(CONTAINERFILE.replace(right, wrong))
    assert lint(CONTAINERFILE.replace(right, wrong)) != ""


def test_docker_compose_accepts_the_file(tmp_path: Path) -> None:
    assert parse((FOLDER / "compose.yaml").read_text(), tmp_path) == ""


@pytest.mark.parametrize(("right", "wrong"), [("read_only:", "readonly:"), ("source: bob", "source: carol")])
def test_error_in_the_compose_file_is_found(right: str, wrong: str, tmp_path: Path) -> None:
    text = (FOLDER / "compose.yaml").read_text()
    assert right in text
    assert parse(text.replace(right, wrong), tmp_path) != ""


def test_image_has_every_package_and_file_of_setup_cfg() -> None:
    sources = [
        word for line in re.findall(r"^COPY (?!--)(.*)$", CONTAINERFILE, re.MULTILINE) for word in line.split()[:-1]
    ]
    assert [source for source in sources if not (ROOT / source).exists()] == []
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    packages = settings["options.packages.find"]["include"].replace("*", "").split()
    linked = [
        os.path.normpath(link.parent.name / link.readlink()) for link in (ROOT / "fedmq").iterdir() if link.is_symlink()
    ]
    metadata = settings["metadata"]
    needed = {
        "setup.cfg",
        "pyproject.toml",
        metadata["long_description"].removeprefix("file: "),
        metadata["license_files"],
    }
    assert {*packages, *linked, *needed} <= set(sources)


def test_image_is_built_from_what_has_a_digest() -> None:
    froms = re.findall(r"^FROM (\S+)", CONTAINERFILE, re.MULTILINE)
    assert froms == ["${BASE}", "${BASE}"]
    assert re.search(r"^ARG BASE=python:[0-9.]+-slim-bookworm@sha256:[0-9a-f]{64}$", CONTAINERFILE, re.MULTILINE)
    installs = re.findall(r"python -m pip [^&\n]*", CONTAINERFILE)
    assert len(installs) == 4
    for command in installs:  # each downloads packages with hashes, or none
        assert ("--require-hashes" in command) != ("--no-deps" in command)
        assert (" wheel " in command) == ("--no-build-isolation" in command)


def test_image_runs_as_a_plain_user_without_build_tools() -> None:
    build, final = CONTAINERFILE.split("\nFROM ")[1:]
    assert build.splitlines()[0] == "${BASE} AS build"
    assert "\nUSER 1000:1000\n" in final
    assert re.findall(r"^(?:COPY|ADD|RUN) .*$", final, re.MULTILINE) == ["COPY --from=build /opt/fedmq /opt/fedmq"]


@pytest.mark.parametrize("name", SERVICES)
def test_container_has_no_privileges(name: str, project: dict[str, Any]) -> None:
    assert sorted(project["services"]) == SERVICES
    service = project["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["tmpfs"] == ["/tmp"]  # noqa: S108 - in memory, inside the container
    assert service["user"] == "1000:1000"
    assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & set(service)


def test_container_sees_only_its_own_secret_key(project: dict[str, Any]) -> None:
    services = project["services"]
    for name, other in (("broker", "aggregator"), ("aggregator", "broker")):
        covered = {one["target"] for one in services[name]["volumes"] if one["source"] == "/dev/null"}
        assert covered == {f"/keys/{other}.key"}
    for name in ("alice", "bob"):
        secrets = {one["target"]: project["secrets"][one["source"]]["file"] for one in services[name]["secrets"]}
        assert secrets["trainer.key"] == str(FOLDER / name / "trainer.key")
        assert secrets["federation.json"] == str(FOLDER / "keys" / "federation.json")
        assert [one["target"] for one in services[name]["volumes"]] == ["/state"]


def test_published_ports_are_those_of_the_broker(project: dict[str, Any]) -> None:
    broker = project["services"]["broker"]
    first = int(broker["command"][broker["command"].index("--port") + 1])
    assert [int(one["published"]) for one in broker["ports"]] == list(range(first, first + 5))
    assert all(one["target"] == int(one["published"]) for one in broker["ports"])


def test_commands_of_the_page_create_keys_and_a_model(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "deploy" / "container")
    docker = tmp_path / "bin" / "docker"
    docker.parent.mkdir()
    docker.write_text(f'#!/bin/sh\nexec {shlex.join([sys.executable, str(STAND_IN)])} "$@"\n')
    docker.chmod(0o755)
    script = "".join(BLOCK.findall(PAGE.read_text()))
    environment = clean_environment(
        PATH=f"{docker.parent}{os.pathsep}{os.environ['PATH']}",
        PYTHONPATH=os.pathsep.join([str(ROOT), str(STAND_IN.parent)]),
        STAND_IN_PORT=str(free_port()),
    )
    run_script(script, tmp_path, environment)
    report = report_of(tmp_path / "deploy" / "container" / "runs" / "xor")
    assert report["solved"] is True
    assert sorted(one["name"] for one in report["trainers"]) == ["alice", "bob"]
