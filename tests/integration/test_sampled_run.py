"""A sampled run of processes: an aggregator that is killed invites the same trainers again, to the same model."""

import hashlib
from pathlib import Path

from services import Services, closed, report_of, until

from fedmq.algorithms.registry import find_algorithm
from fedmq.protocol.run_config import Limits
from fedmq.simulation import Federation
from fedmq.tasks.task_file import find_task, task_rows

TRAINERS, ROUNDS = ("alice", "bob", "carol"), 60
RUN = (
    *("aggregator", "--task", "parity4", "--algorithm", "evolution", "--param", "population=20", "--seed", "5"),
    *("--sample", "2", "--select", "site=eu", "--min-trainers", "3", "--rounds", str(ROUNDS), "--quiet"),
    *("--deadline-s", "60"),  # each round has all its results, however slow the machine is
)


def test_killed_aggregator_of_a_sampled_run_gives_the_same_model(tmp_path: Path) -> None:
    with Services(tmp_path) as services:
        services.start_broker()
        services.start_trainer("dave", "parity4:1/3", "--labels", "site=us")
        for part, name in enumerate(TRAINERS, 1):
            services.start_trainer(name, f"parity4:{part}/3", "--labels", "site=eu")
        services.start("killed", *RUN, "--out", "run")
        until(lambda: closed(tmp_path / "run") >= 10, "ten rounds")
        services.kill("killed")
        services.start("again", *RUN, "--out", "run")
        assert services.wait("again") == 0, services.err("again")
        until(lambda: "takes no part in run" in services.err("dave"), "the reason at dave")
    report = report_of(tmp_path / "run")
    turns = {one["name"]: one["results"] for one in report["trainers"] if one["results"]}
    assert turns == dict.fromkeys(TRAINERS, 40)
    task, strategy = find_task("parity4"), find_algorithm("evolution", parameters={"population": 20})
    rows = {name: task_rows("parity4", part, 3) for part, name in enumerate(TRAINERS, 1)}
    limits = Limits(rounds_max=ROUNDS, min_trainers=3, sample=2)
    model = Federation(task, strategy, rows, seed=5, limits=limits).train()
    assert model is not None
    assert report["model_sha256"] == hashlib.sha256(model.to_bytes()).hexdigest(), "that of an undisturbed run"
