"""One seed, one model: over services that a script drives, in a simulation, in two of its processes, and on Dask."""

from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster
from services import Services

import fedmq
from fedmq.errors import BadConfiguration

NAMES, ROUNDS, SEED = ("alice", "bob", "carol", "dave"), 3, 3


def test_one_seed_gives_one_model_wherever_it_is_trained(tmp_path: Path) -> None:
    local = LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None)
    with local as cluster, Services(tmp_path) as services:
        services.start_broker()
        for part, name in enumerate(NAMES, 1):
            services.start_trainer(name, f"parity4:{part}/{len(NAMES)}")
        for algorithm in ("evolution", "es", "averaging"):
            chosen = {"algorithm": algorithm, "rounds": ROUNDS, "seed": SEED}
            run = fedmq.train("parity4", broker=services.address, out=tmp_path / algorithm, wait_s=60, **chosen)
            where = ({}, {"processes": 2}, {"scheduler": cluster.scheduler_address})
            virtual = [fedmq.simulate("parity4", work_s="uniform:1:2", **chosen, **one) for one in where]
            assert [one.model_sha256 for one in virtual] == [run.model_sha256] * len(where), algorithm
            assert run.folder is not None
            assert (run.folder / "model.npz").exists()
            assert list(run.history["results"]) == [len(NAMES)] * ROUNDS
            assert run.model is not None
            assert run.model.predict(np.zeros((2, 4))).shape == (2,)
            assert "<svg" in run.plot().html
            with pytest.raises(BadConfiguration, match="simulated"):
                run.plot_split()


def test_unknown_limit_of_a_driven_run_names_those_there_are() -> None:
    with pytest.raises(BadConfiguration, match="quorum"):
        fedmq.train("xor", quorm=0.5)
