"""The versions that computed a run: recorded for each life, and named when a replay gives other bits."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

import fedmq.runs.maintenance
import fedmq.runs.store
from fedmq import __version__
from fedmq.errors import BadConfiguration
from fedmq.runs.maintenance import check_model, recover, replay_run
from fedmq.runs.report import make_report, read_report, write_report
from fedmq.runs.software import Software, differing_software, software_here
from fedmq.runs.store import Store
from fedmq.runtime.run_folder import MODEL, STORE
from fedmq.testing import run_config

CONFIG = run_config("run", rounds_max=3)
EARLIER = msgspec.structs.replace(software_here(), numpy="1.0.0", blas="atlas 3.10")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a run that has begun here."""
    with Store(tmp_path / STORE) as store:
        store.begin(CONFIG)
        store.next_term(0.0)
    return tmp_path


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Software:
    """The versions of this process, from now on."""
    for module in (fedmq.runs.store, fedmq.runs.maintenance):
        monkeypatch.setattr(module, "software_here", lambda: EARLIER)
    return EARLIER


def test_versions_of_this_process_are_known() -> None:
    here = software_here()
    assert (here.fedmq, here.numpy) == (__version__, np.__version__)
    assert all("unknown" not in one and one.strip() == one for one in msgspec.structs.astuple(here))


def test_each_life_of_a_run_records_its_versions_once(folder: Path, elsewhere: Software) -> None:
    with Store(folder / STORE) as store:
        for _ in range(2):
            store.next_term(0.0)
        assert store.software == [software_here(), elsewhere]
    recover(folder, None)
    with Store(folder / STORE) as store:
        assert store.software == [software_here(), elsewhere]
        report, model = make_report(
            CONFIG,
            [],
            None,
            [],
            why="rounds",
            failure="",
            rejections={},
            bytes_up=0,
            bytes_down=0,
            ended=2e9,
            software=store.software,
        )
    write_report(folder, report, model, [])
    assert read_report(folder) == report


def test_replay_with_other_versions_names_what_differs(folder: Path, elsewhere: Software) -> None:
    (folder / MODEL).write_bytes(b"a last bit")
    with pytest.raises(BadConfiguration) as error:
        check_model(folder, replay_run(folder))
    here = software_here()
    assert f"numpy {here.numpy} (here 1.0.0), blas {here.blas} (here atlas 3.10)" in str(error.value)
    assert "changed" not in str(error.value)


def test_replay_with_the_same_versions_reports_a_changed_model(folder: Path) -> None:
    (folder / MODEL).write_bytes(b"a last bit")
    with pytest.raises(BadConfiguration, match="it was changed, or is of fewer rounds"):
        check_model(folder, replay_run(folder))


def test_nothing_differs_from_a_run_without_a_life() -> None:
    assert differing_software([], software_here()) == []
