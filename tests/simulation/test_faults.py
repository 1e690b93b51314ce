"""A federation under thousands of seeds of faults, and bugs planted on purpose, which must not pass."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from judge import federation, judge_range, transcript
from mutants import plant
from mutations import MUTATIONS, SEEDS, Mutation

from fedmq.broker.service import Broker

SEEDS_JUDGED = 2_000
SEEDS_PLANTED = 400  # a planted bug must show itself in one of so many
PLANTED = [mutation for mutation in MUTATIONS if SEEDS in mutation.tests]
FOUND = 3  # the exit code; 1 is that of a program that does not even run
FIND = f"""
import logging, sys, judge
logging.disable(logging.CRITICAL)
sys.exit({FOUND} if any(map(judge.failure, range({SEEDS_PLANTED}))) else 0)
"""


@pytest.mark.timeout(300)
def test_faults_lose_or_repeat_no_accepted_result_and_the_run_ends() -> None:
    found = judge_range(0, SEEDS_JUDGED).violations
    assert not found, "\n".join(found[:10])


def test_same_seed_gives_the_same_transcript() -> None:
    assert [transcript(seed) for seed in range(200)] == [transcript(seed) for seed in range(200)]


def test_frozen_broker_learns_later_that_a_trainer_came_and_went() -> None:
    simulation = federation(0).simulation
    simulation.start(simulation.broker_name)
    simulation.freeze(simulation.broker_name)
    for act in (simulation.start, simulation.stop):
        act("alice")
        simulation.run(lambda: False, 10.0)
    simulation.thaw(simulation.broker_name)
    broker = simulation.node(simulation.broker_name)
    assert isinstance(broker, Broker)
    assert not broker.routing.inboxes


@pytest.mark.parametrize("mutation", PLANTED, ids=lambda mutation: mutation.what)
def test_planted_bug_is_detected(mutation: Mutation, tmp_path: Path) -> None:
    plant(mutation, tmp_path)
    paths = os.pathsep.join([str(tmp_path), str(tmp_path / "tests" / "simulation")])
    environment = {**os.environ, "PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", FIND], cwd=tmp_path, env=environment, check=False).returncode
    assert found == FOUND, f"{SEEDS_PLANTED} seeds passed although {mutation.what}"


def test_seeds_cover_the_faults_they_were_made_for() -> None:
    assert len(PLANTED) >= 5
