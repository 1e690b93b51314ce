"""The order of the module search path: a user's file never replaces a module of the standard library."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from fedmq.runtime.python_file import importable
from fedmq.runtime.search_path import move_user_folders_last, user_first

STANDARD = str(Path(os.__file__).parent)


@pytest.fixture
def search_path(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    path = ["/own", "/more", STANDARD, "/site-packages", "/checkout"]
    monkeypatch.setattr(sys, "path", path)
    monkeypatch.setenv("PYTHONPATH", "/more")
    return path


def test_folders_of_the_user_are_moved_behind_all_others(search_path: list[str]) -> None:
    move_user_folders_last()
    assert search_path == [STANDARD, "/site-packages", "/checkout", "/own", "/more"]


def test_relative_pythonpath_is_moved(search_path: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", ".:/more")
    search_path[0:0] = ["/script", str(tmp_path)]
    move_user_folders_last()
    assert search_path[-3:] == ["/script", str(tmp_path), "/more"]


def test_user_code_finds_its_folder_after_the_standard_library_only(search_path: list[str]) -> None:
    assert user_first("/data") == [STANDARD, "/data", "/more", "/own", "/site-packages", "/checkout"]


def test_search_path_is_restored_after_user_code(search_path: list[str], tmp_path: Path) -> None:
    before = list(search_path)
    with importable(tmp_path):
        assert search_path[1] == str(tmp_path)
        search_path.insert(0, "/added-by-the-code")
    assert search_path == ["/added-by-the-code", *before]
