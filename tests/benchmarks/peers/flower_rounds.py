"""The rounds of `simulated_rounds.py` in Flower's simulation; that script runs this one in an environment with Flower.

It takes a file of rows (clients, 60, 785) float32, the target last, one of test rows (rows, 785), and the number of
rounds; it prints JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np
from flwr.client import ClientApp, NumPyClient
from flwr.common import Context, ndarrays_to_parameters
from flwr.server import ServerApp, ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.simulation import run_simulation

SAMPLE, BATCH, RATE, FEATURES, CLASSES = 10, 10, 0.05, 784, 10
PATH, TEST_PATH, ROUNDS = sys.argv[1], sys.argv[2], int(sys.argv[3])


class Client(NumPyClient):
    """A client with its 60 rows: one local epoch of softmax regression in numpy, as fedmq's learner does it."""

    def __init__(self, place: int) -> None:
        rows = np.load(PATH, mmap_mode="r")[place].astype(np.float64)
        self.inputs, self.targets = rows[:, :-1], rows[:, -1].astype(int)

    def fit(self, parameters: list[Any], config: dict[str, Any]) -> tuple[list[Any], int, dict[str, Any]]:
        weights, bias = (one.copy() for one in parameters)
        for chosen in np.array_split(np.random.default_rng(0).permutation(len(self.inputs)), len(self.inputs) // BATCH):
            inputs = self.inputs[chosen]
            outputs = inputs @ weights + bias
            outputs = np.exp(outputs - outputs.max(axis=1, keepdims=True))
            outputs /= outputs.sum(axis=1, keepdims=True)
            outputs[np.arange(len(chosen)), self.targets[chosen]] -= 1.0
            weights -= RATE * inputs.T @ outputs / len(chosen)
            bias -= RATE * outputs.mean(axis=0)
        return [weights, bias], len(self.inputs), {}


def client(context: Context) -> Any:
    """Return the client of a virtual node."""
    return Client(int(context.node_config["partition-id"])).to_client()


def main() -> None:
    """Run all rounds; print how long they took, and the accuracy on the test rows."""
    clients = len(np.load(PATH, mmap_mode="r"))
    ended: list[float] = []
    last: list[Any] = []

    def evaluate(_number: int, parameters: list[Any], _config: dict[str, Any]) -> None:
        ended.append(time.monotonic())
        last[:] = parameters

    def server(_context: Context) -> ServerAppComponents:
        first = [np.zeros((FEATURES, CLASSES)), np.zeros(CLASSES)]
        strategy = FedAvg(
            fraction_fit=SAMPLE / clients,
            min_fit_clients=SAMPLE,
            fraction_evaluate=0.0,
            initial_parameters=ndarrays_to_parameters(first),
            evaluate_fn=evaluate,
        )
        return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=ROUNDS))

    began = time.monotonic()
    run_simulation(
        server_app=ServerApp(server_fn=server),
        client_app=ClientApp(client_fn=client),
        num_supernodes=clients,
        backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
    )
    seconds, rounds = time.monotonic() - began, len(ended) - 1
    test = np.load(TEST_PATH)
    right = (test[:, :-1] @ last[0] + last[1]).argmax(axis=1) == test[:, -1]
    found = {"seconds": seconds, "round_s": (ended[-1] - ended[0]) / max(1, rounds), "accuracy": float(right.mean())}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
