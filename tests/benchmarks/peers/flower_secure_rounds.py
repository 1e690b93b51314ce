"""Rounds of Flower's SecAgg+ or plain rounds; `secure_rounds.py` runs this in an environment with Flower.

It takes `plain` or `secure`, the numbers of clients, of floats of an answer, of shares that a client deals, and of
rounds; it prints JSON. Clients do no work. SecAgg+ runs by Flower's legacy workflow, the only one that has it.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from typing import Any

import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.client.mod import secaggplus_mod
from flwr.common import Context, ndarrays_to_parameters
from flwr.server import LegacyContext, ServerApp, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.server.workflow import DefaultWorkflow, SecAggPlusWorkflow
from flwr.simulation import run_simulation

SECURE = sys.argv[1] == "secure"
CLIENTS, LENGTH, SHARES, ROUNDS = (int(one) for one in sys.argv[2:6])


class Client(NumPyClient):
    """A client that returns numbers of its own."""

    def __init__(self, place: int) -> None:
        self.values = np.random.default_rng(place).uniform(-1.0, 1.0, LENGTH)

    def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
        return [self.values], 1, {}


def client(context: Context) -> Any:
    """Return the client of a virtual node."""
    return Client(int(context.node_config["partition-id"])).to_client()


def main() -> None:
    """Run all rounds; print the seconds of each, and the largest error of the mean."""
    ended: list[float] = []
    last: list[Any] = []

    def evaluate(_number: int, parameters: list[Any], _config: dict[str, Any]) -> None:
        ended.append(time.monotonic())
        last[:] = parameters

    strategy = FedAvg(
        fraction_evaluate=0.0,
        min_fit_clients=CLIENTS,
        min_available_clients=CLIENTS,
        initial_parameters=ndarrays_to_parameters([np.zeros(LENGTH)]),
        evaluate_fn=evaluate,
    )
    secure = SecAggPlusWorkflow(
        num_shares=SHARES, reconstruction_threshold=SHARES - SHARES // 3, max_weight=1.0, clipping_range=1.0
    )
    server = ServerApp()

    @server.main()
    def run(grid: Any, context: Context) -> None:
        legacy = LegacyContext(context=context, config=ServerConfig(num_rounds=ROUNDS), strategy=strategy)
        DefaultWorkflow(fit_workflow=secure if SECURE else None)(grid, legacy)

    run_simulation(
        server_app=server,
        client_app=ClientApp(client_fn=client, mods=[secaggplus_mod] if SECURE else []),
        num_supernodes=CLIENTS,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    mean = np.mean([Client(place).values for place in range(CLIENTS)], axis=0)
    rounds = [after - before for before, after in pairwise(ended[1:])]  # the first one starts ray
    print(json.dumps({"rounds_s": rounds, "error": float(np.abs(last[0] - mean).max())}))


if __name__ == "__main__":
    main()
