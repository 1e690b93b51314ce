"""What an installation contains: every package of fedmq, and nothing else at the top level."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE_ONLY = {"fedmq.deploy.packaging"}  # builds the package, and is not part of it
FIND = "import setuptools, sys; print(*setuptools.find_packages(sys.argv[1], include=sys.argv[2:]))"


def test_installation_has_all_packages_and_no_other_at_the_top() -> None:
    pytest.importorskip("setuptools", exc_type=ImportError)
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    include = settings["options.packages.find"]["include"].split()
    found = subprocess.run(
        [sys.executable, "-c", FIND, str(ROOT), *include], capture_output=True, text=True, check=True, timeout=60
    ).stdout.split()
    folders = {
        os.path.relpath(folder, ROOT).replace("/", ".")
        for folder, _, files in os.walk(ROOT / "fedmq", followlinks=True)
        if any(name.endswith(".py") for name in files)
    }
    assert set(found) == folders - SOURCE_ONLY
    assert {name.partition(".")[0] for name in found} == {"fedmq"}
