"""Three freshly started trainers meet runs that they cannot work for: all stay, and the next run trains."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from keyed import Keyed
from services import report_of, run_fedmq, until

from fedmq.algorithms.averaging.query import EvolutionLearner, Train
from fedmq.algorithms.base import encode_query
from fedmq.models.networks import MLP
from fedmq.protocol.codec import encode
from fedmq.protocol.messages import Round
from fedmq.security.signing import TrainerSigning
from fedmq.tasks.task import Task
from fedmq.transport.link import LinkUp
from fedmq.transport.zeromq import AggregatorSockets

NAMES = ("alice", "bob", "carol")
RUNS = {  # arguments of the aggregator, and a part of the line that it ends with
    "wrong-task": (("--task", "parity4"), "expected 4 input columns for task parity4, got 2 (rows, 3 trainers)"),
    "diverging": (
        ("--task", "linear", "--algorithm", "averaging", "--param", "learning_rate=1000", "--param", "method=fedavg"),
        "learning rate 1000 diverged after 1 rounds: try 100",
    ),
    "raising": (("--task", "raising.py"), "KeyError: 'of the code'"),
    "hanging": (("--task", "hanging.py"), "round 1 took longer than --work-seconds-max 4 (limit, 3 trainers)"),
}
BOMB = ("--task", "wide.py", "--algorithm", "averaging", "--param", "learner=evolution", "--param", "population=4000")
WIDE = """
from fedmq import MLP, Task

task = Task(name="wide", model=MLP((2, 65536, 2)), loss="cross-entropy", metric="accuracy", target=1.0)
"""
CODE = """
from fedmq import Code, Task

task = Task(name="{name}", model=Code(3, inputs=2), loss="own", metric="loss", target=0.0, trainers=3, rounds=5)


def score(population, inputs, targets):
    {body}
"""


def send_bomb(keyed: Keyed) -> None:
    """Publish a round of 2.5 MB that needs gigabytes, with the aggregator's key; no aggregator would."""
    task = Task(name="bomb", model=MLP((2, 65536, 2)), loss="cross-entropy", metric="accuracy", target=1.0)
    query = encode_query(Train(EvolutionLearner(population=4000)))
    message = Round(run="bomb", term=1, round=1, seed=1, deadline_s=9.0, task=task, query=query)
    credentials = keyed.of["aggregator"]
    model = {"model": np.zeros(task.model.num_parameters)}
    frames = encode("round/bomb", message, model, sign=TrainerSigning(credentials).sign)
    link = AggregatorSockets(keyed.services.address, "bomb", credentials)
    try:
        up = False
        while not up:
            link.wait(5.0)
            up = any(isinstance(event, LinkUp) for event in link.receive())
        link.send(frames)
        for name in NAMES:
            until(lambda name=name: "takes no part in run bomb" in keyed.services.err(name), f"{name} to decline")  # type: ignore[misc]
    finally:
        link.close()


def test_fleet_declines_what_it_cannot_work_for_and_trains_the_next_run(tmp_path: Path) -> None:
    keyed = Keyed(tmp_path, *NAMES)
    services = keyed.services
    for name, body in (("raising", "raise KeyError('of the code')"), ("hanging", "while True: pass")):
        (tmp_path / f"{name}.py").write_text(CODE.format(name=name, body=body))
    (tmp_path / "wide.py").write_text(WIDE)
    with keyed.running_broker():
        for name in NAMES:
            more = ("--min-rows", "1", "--allow-code", "--work-seconds-max", "4")
            services.start(name, "trainer", "--keys", name, "--data", "xor:1/1", *more)
        for name, (arguments, _) in RUNS.items():
            out = ("--out", name, "--min-trainers", "3", "--quiet")
            services.start(name, "aggregator", "--keys", "keys", *out, *arguments)
        send_bomb(keyed)
        for name, (_, words) in RUNS.items():
            assert services.wait(name) == 70, services.err(name)
            assert words in services.err(name).splitlines()[-1]
        done = run_fedmq("aggregator", "--keys", "keys", "--out", "bomb", *BOMB, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (78, 1), done.stderr
        assert "lower the population" in done.stderr

        services.start("good", "aggregator", "--keys", "keys", "--task", "xor", "--min-trainers", "3", "--out", "good")
        assert services.wait("good") == 0, services.err("good")
        for name in NAMES:
            assert services.running[name].poll() is None, services.err(name)
        results = {one["name"]: one["results"] for one in report_of(tmp_path / "good")["trainers"]}
        assert results.keys() == set(NAMES)
        assert min(results.values()) > 0
