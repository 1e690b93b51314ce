"""An endless federation of real processes, with dashboards."""

from __future__ import annotations

import re
from pathlib import Path

from services import Services, closed, until

from fedmq.deploy.processes import free_port

TRAINERS = ("alice", "bob", "carol")
RUN = "coins"
# Random targets cannot be learned: the best model keeps changing, and the target is never reached.
COINS = f"""
import numpy as np
from fedmq import MLP, Rows, Task
task = Task(
    name="coins", model=MLP([2, 8, 2], hidden="tanh"), loss="cross-entropy", metric="accuracy", target=1.0,
    trainers={len(TRAINERS)}, rounds=100000, parameters={{"evolution": {{"population": 60, "generations": 2}}}},
)
def rows(part, parts):
    generator = np.random.default_rng(part)
    return Rows(generator.uniform(-1, 1, (600, 2)), generator.integers(0, 2, 600).astype(float))
"""


class Scene(Services):
    """A broker, an aggregator, three trainers, and any number of dashboards."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.run = folder / "runs" / RUN

    def begin(self) -> None:
        """Start all processes, and wait for the first rounds."""
        (self.folder / "coins.py").write_text(COINS)
        self.start_broker()
        self.start(
            "aggregator", "aggregator", "--task", "coins.py", "--seed", "1", "--run", RUN, "--out", f"runs/{RUN}"
        )
        for part, name in enumerate(TRAINERS, 1):
            self.start_trainer(name, f"coins.py:{part}/{len(TRAINERS)}")
        until(lambda: closed(self.run) >= 3, "three rounds")

    def start_dashboard(self, name: str = "dashboard", *options: str) -> str:
        """Start a dashboard; return the address that it prints."""
        self.start(name, "dashboard", "--port", str(free_port()), *options)
        address = re.compile(r"http://127\.0\.0\.1:\d+/\S*")
        until(lambda: address.search(self.out(name)) is not None, "the dashboard to print its address")
        found = address.search(self.out(name))
        assert found is not None
        return found[0]
