"""PyTorch models: as data, scored, trained, and never imported by a name from the network."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fedmq.algorithms.base import Assignment
from fedmq.algorithms.es.learner import sum_slopes
from fedmq.algorithms.es.query import Slopes
from fedmq.algorithms.registry import find_algorithm
from fedmq.errors import BadConfiguration, CodeRefused
from fedmq.exact.directions import directions
from fedmq.models import torch_modules
from fedmq.models.exports.open_files import arrays_of, to_safetensors
from fedmq.models.networks import Linear, Model
from fedmq.models.torch_model import TENSORS_MAX, TensorInfo, Torch
from fedmq.models.torch_modules import Descent, initial_module_parameters, module_of, torch_model, torch_module
from fedmq.models.trained_model import load_model
from fedmq.observe import events
from fedmq.simulation.federation import Federation
from fedmq.tasks.task import Rows, Task
from fedmq.tasks.task_file import find_task, task_rows
from fedmq.trainer.decline import decline_of
from fedmq.trainer.own_learner import OwnLearner
from fedmq.trainer.round_handler import on_rows

if os.environ.get("CI") == "true" and sys.version_info < (3, 14) and not sys.prefix.endswith("-lowest"):
    torch = import_module("torch")  # `make test` has installed it, which `make lowest` does not
else:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install 'fedmq[torch]'")
nn = torch.nn


def network() -> Any:
    return nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 2))


def with_norm() -> Any:
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5), nn.Linear(4, 2))


class Counting(nn.Module):  # type: ignore[misc,name-defined]
    """A model with a loss of its own: the distance of a sum from its target."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))

    def losses(self, inputs: Any, targets: Any) -> tuple[Any, Any]:
        wrong = (inputs @ self.weight - targets).abs()
        return wrong, wrong < 0.5


ROWS = Rows(np.array([[0.0, 1.0], [0.0, 0.0], [1.0, 0.0], [1.0, 1.0]] * 8), np.array([1, 0, 1, 0] * 8))
ANY = (lambda: False,)


@pytest.fixture(autouse=True)
def _own_table(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(torch_modules, "_allowed", {})
    module_of.cache_clear()
    yield
    module_of.cache_clear()


def trained(model: Torch, descent: Descent, seed: int = 1) -> Any:
    start = initial_module_parameters(model, seed)
    return module_of(model).train(start, ROWS.inputs, ROWS.targets, descent, np.random.default_rng(seed), lambda: False)


def test_parameters_are_the_tensors_of_the_state_dict_in_the_order_of_their_names() -> None:
    model = torch_model(network, inputs=2, outputs=2)
    assert model.factory == "test_torch:network"
    assert [one.name for one in model.tensors] == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert (model.num_parameters, model.widest, model.frozen) == (42, 8, b"")
    parameters = np.arange(42.0)
    state = torch_module(model, parameters).state_dict()
    assert state["0.weight"].numpy().ravel().tolist() == list(range(8, 24))


def test_outputs_and_scores_are_those_of_the_module() -> None:
    model = torch_model(network, inputs=2, outputs=2)
    task = Task(name="xor", model=model, loss="cross-entropy", metric="accuracy")
    population = np.stack([initial_module_parameters(model, seed) for seed in (1, 2)])
    found = model.forward(population, ROWS.inputs)
    for parameters, outputs in zip(population, found, strict=True):
        with torch.no_grad():
            expected = torch_module(model, parameters)(torch.tensor(ROWS.inputs, dtype=torch.float32))
        np.testing.assert_array_equal(outputs, expected.numpy())
    losses = task.score(population, task.fit(ROWS)).losses
    assert losses[0] == pytest.approx(
        float(nn.functional.cross_entropy(torch.tensor(found[0]), torch.tensor(ROWS.targets), reduction="sum"))
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_training_gives_the_same_bits_for_the_same_draws(optimizer: Any) -> None:
    model = torch_model(with_norm, inputs=2, outputs=2)
    descent = Descent(3, 8, 0.05, optimizer, momentum=0.5, weight_decay=0.01)
    first = trained(model, descent)
    assert trained(model, descent).tobytes() == first.tobytes()
    assert not np.array_equal(first, trained(model, descent, seed=2))


def test_bfloat16_trains_too() -> None:
    model = torch_model(network, inputs=2, outputs=2)
    assert np.isfinite(trained(model, Descent(1, 0, 0.1, mixed_precision=True))).all()


def test_frozen_tensors_are_no_parameters_and_stay_the_same() -> None:
    model = torch_model(with_norm, inputs=2, outputs=2, freeze=["0.*", "*running*"])
    assert [one.name for one in model.tensors] == ["1.bias", "1.weight", "4.bias", "4.weight"]
    assert len(model.frozen) == 32
    module = module_of(model)
    before = {key: value.clone() for key, value in module.module.state_dict().items()}
    module.load(trained(model, Descent(2, 8, 0.1)))
    after = module.module.state_dict()
    assert torch.equal(after["0.weight"], before["0.weight"])
    assert torch.equal(after["1.running_mean"], before["1.running_mean"])
    assert not torch.equal(after["4.weight"], before["4.weight"])


@pytest.mark.parametrize("name", ["os:system", "subprocess:Popen", "builtins:eval", "test_torch:network"])
def test_factory_from_the_network_is_never_imported(name: str) -> None:
    known = torch_model(network, inputs=2, outputs=2, name="site:cnn")
    received = msgspec.msgpack.decode(
        msgspec.msgpack.encode({**msgspec.to_builtins(known), "factory": name}), type=Torch
    )
    with pytest.raises(CodeRefused, match="expected a factory that this process allows") as caught:
        received.forward(np.zeros((1, 42)), ROWS.inputs)
    assert decline_of(caught.value).reason == "code"


def test_another_module_under_the_same_name_is_refused() -> None:
    model = torch_model(network, inputs=2, outputs=2, name="site:cnn")
    torch_model(with_norm, inputs=2, outputs=2, name="site:cnn")
    with pytest.raises(BadConfiguration, match=r"expected 0.bias of shape \(8,\) as in the run, got \(4,\)"):
        module_of(model)


def test_other_frozen_numbers_are_refused() -> None:
    model = torch_model(with_norm, inputs=2, outputs=2, freeze="0.*")
    with pytest.raises(BadConfiguration, match="expected the same frozen numbers as in the run"):
        module_of(msgspec.structs.replace(model, frozen=bytes(32)))


@pytest.mark.parametrize(
    "tensors",
    [
        [["b", [2]], ["a", [2]]],
        [["a", [2]], ["a", [2]]],
        [["a", [1 << 24]]],
        [["a", [-1]]],
        [["a", [1] * 9]],
        [],
        [[f"{place:05}", [1]] for place in range(TENSORS_MAX + 1)],
    ],
)
def test_tensors_beyond_the_limits_are_refused_before_any_work(tensors: Any) -> None:
    fields = {"type": "torch", "factory": "f:f", "inputs": 2, "outputs": 2, "tensors": tensors}
    with pytest.raises((msgspec.ValidationError, BadConfiguration)):
        msgspec.msgpack.decode(msgspec.msgpack.encode(fields), type=Model)


@pytest.mark.parametrize(
    ("factory", "text"),
    [
        (lambda: 1 / 0, "expected a factory that makes a module, got ZeroDivisionError"),
        (lambda: 3, "expected a factory that returns an nn.Module, got int"),
        (lambda: nn.Linear(3, 2), r"expected a module that takes \(rows, 2\), got RuntimeError"),
        (lambda: nn.Tanh(), "expected 1 to 4096 tensors to train, got 0"),
    ],
)
def test_factory_that_fails_is_one_line(factory: Any, text: str) -> None:
    with pytest.raises(BadConfiguration, match=text):
        torch_model(factory, inputs=2, name="a:b")


def test_federation_averages_a_module_and_writes_safetensors(tmp_path: Path) -> None:
    task = Task(
        name="xor", model=torch_model(network, inputs=2, outputs=2), loss="cross-entropy", metric="accuracy", rounds=12
    )
    strategy = find_algorithm("averaging", task, {"learner": "torch", "epochs": 4, "optimizer": "adam"})
    federation = Federation(task, strategy, {"a": ROWS, "b": ROWS}, seed=3)
    model = federation.train()
    assert model is not None
    assert model.predict(ROWS.inputs).tolist() == ROWS.targets.tolist()
    (tmp_path / "model.npz").write_bytes(model.to_bytes())
    again = load_model(tmp_path / "model.npz")
    assert again.parameters.tobytes() == model.parameters.tobytes()
    module = network()
    module.load_state_dict({name: torch.tensor(array) for name, array in arrays_of(to_safetensors(again)).items()})
    np.testing.assert_array_equal(
        module(torch.tensor(ROWS.inputs, dtype=torch.float32)).detach().numpy(),
        task.model.forward(model.parameters[None], ROWS.inputs)[0],
    )


def test_trainer_without_the_factory_declines_the_run() -> None:
    task = Task(name="xor", model=torch_model(network, inputs=2, outputs=2), loss="cross-entropy", metric="accuracy")
    strategy = find_algorithm("averaging", task, {"learner": "torch"})
    state = strategy.init(task, 1)
    assert strategy.ask(state).arrays["model"].dtype == np.float32

    class Started(Federation):
        """The factory is forgotten once the first round is open."""

    federation = Started(task, strategy, {"a": ROWS})
    federation.start()
    federation.simulation.run(lambda: any(isinstance(one, events.RoundPublished) for one in federation.events), 60.0)
    torch_modules._allowed.clear()
    module_of.cache_clear()
    federation.simulation.run(lambda: federation.finished, 60.0)
    (left,) = [one for one in federation.events if isinstance(one, events.TrainerLeft) and one.goodbye]
    assert left.reason == "code"
    assert "--score FILE" in left.detail


def test_module_may_have_a_loss_of_its_own() -> None:
    model = torch_model(Counting, inputs=2)
    task = Task(name="own", model=model, loss="own", metric="loss")
    scores = task.score(np.array([[1.0, 1.0], [0.0, 0.0]]), task.fit(ROWS))
    assert scores.losses.tolist() == [16.0, 16.0]
    assert scores.correct.tolist() == [24, 16]
    with pytest.raises(BadConfiguration, match="expected own, for a module with a method losses"):
        Task(name="own", model=model, loss="squared-error", metric="loss")


def test_task_file_names_a_factory_beside_it(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("from torch import nn\ndef make():\n    return nn.Linear(2, 2)\n")
    (tmp_path / "task.toml").write_text(
        'name = "t"\nalgorithm = "averaging"\n[target]\nname = "y"\nkind = "class"\nclasses = ["a", "b"]\n'
        '[columns]\nu = { kind = "number" }\nv = { kind = "number" }\n'
        '[model]\nkind = "torch"\nfactory = "net.py:make"\nfreeze = ["bias"]\n'
    )
    model = find_task(str(tmp_path / "task.toml")).model
    assert isinstance(model, Torch)
    assert model.factory == "net:make"
    assert model.tensors == (TensorInfo("weight", (2, 2)),)
    text = (tmp_path / "task.toml").read_text()
    for wrong, message in (("net.py:other", r"expected a function other\(\)"), ("no.such:make", "a module to import")):
        (tmp_path / "task.toml").write_text(text.replace("net.py:make", wrong))
        with pytest.raises(BadConfiguration, match=message):
            find_task(str(tmp_path / "task.toml"))


def test_es_measures_a_module_one_candidate_at_a_time_as_it_scores_many() -> None:
    task = Task(
        name="xor", model=torch_model(network, inputs=2, outputs=2), loss="cross-entropy", metric="accuracy", rounds=4
    )
    strategy = find_algorithm("es", task, {"pairs": 4, "sigma": 0.25, "starts": 1})
    federation = Federation(task, strategy, {"a": ROWS, "b": ROWS}, seed=3)
    model = federation.train()
    assert model is not None
    closed = [one.best for one in federation.events if isinstance(one, events.RoundClosed) and one.best is not None]
    assert closed
    again = task.score(model.parameters[None], task.fit(ROWS))
    assert closed[-1].value == pytest.approx(again.correct[0] / len(ROWS.inputs))


def test_slopes_of_a_module_are_the_differences_of_its_scores() -> None:
    task = Task(name="xor", model=torch_model(network, inputs=2, outputs=2), loss="cross-entropy", metric="accuracy")
    weights, drawn = initial_module_parameters(task.model, 1).astype(np.float32), directions(4, 42, 7, 1)
    query = Slopes(seed=7, number=1, pairs=4, sigma=0.25, fraction_bits=20, unit=0, pair_bits=30)
    score = partial(task.score, rows=task.fit(ROWS))
    arrays = {"weights": np.stack([weights, weights]), "standard": np.array([[0.0] * 3, [1.0] * 3])}
    work = Assignment(task, arrays, task.fit(ROWS), score, np.random.default_rng(0))
    moves = 0.25 * drawn.block()
    expected = score((weights + moves).astype(np.float32)).losses - score((weights - moves).astype(np.float32)).losses
    answer = sum_slopes(query, work)
    np.testing.assert_allclose(answer["slopes"][0] * 2.0**-20, expected, atol=1e-5)
    assert answer["correct"].tolist() == score(weights[None]).correct.tolist()


@pytest.mark.parametrize(
    ("example", "algorithm", "parameters"),
    [("digits_cnn.py", "averaging", {"epochs": 1}), ("tiny_transformer.py", "es", {"pairs": 2})],
)
def test_example_trains_in_one_process(example: str, algorithm: str, parameters: dict[str, Any]) -> None:
    file = str(Path(__file__).parents[2] / "examples" / example)
    task = msgspec.structs.replace(find_task(file), rounds=4)
    assert isinstance(task.model, Torch)
    assert task.model.factory.startswith(f"{Path(example).stem}:")
    sites = {f"site-{part}": task_rows(file, part, 8) for part in (1, 2)}
    federation = Federation(task, find_algorithm(algorithm, task, parameters), sites)
    assert federation.train() is not None
    assert not [one for one in federation.events if isinstance(one, events.TrainerLeft)]


OWN = """
import torch

def fit(parameters, data, config, rng):
    module = torch.nn.Linear(1, 1)
    torch.nn.utils.vector_to_parameters(torch.tensor(parameters, dtype=torch.float32), module.parameters())
    inputs, targets = (torch.tensor(one, dtype=torch.float32) for one in (data.inputs, data.targets))
    for _ in range(100):
        module.zero_grad()
        loss = torch.nn.functional.mse_loss(module(inputs)[:, 0], targets)
        loss.backward()
        with torch.no_grad():
            for one in module.parameters():
                one -= config["rate"] * one.grad
    trained = torch.nn.utils.parameters_to_vector(module.parameters()).detach().numpy()
    return trained, len(targets), {"loss": loss.item()}
"""


def test_own_fit_of_a_site_may_train_with_pytorch(tmp_path: Path) -> None:
    (tmp_path / "site.py").write_text(OWN)
    own = OwnLearner(f"{tmp_path}/site.py:fit", 600.0)
    task = Task(name="line", model=Linear(1), loss="squared-error", metric="loss", rounds=2)
    strategy = find_algorithm("averaging", task, {"learner": "own", "config": {"rate": 0.3}})
    rows = Rows(np.array([[0.0], [1.0], [2.0]]), np.array([1.0, 3.0, 5.0]))
    federation = Federation(task, strategy, {"a": rows}, learn=lambda rows, name: on_rows(rows, name, own=own))
    model = federation.train()
    assert model is not None
    assert model.parameters == pytest.approx([2.0, 1.0], abs=1e-4)
    closed = [one for one in federation.events if isinstance(one, events.RoundClosed)]
    assert (closed[-1].metrics or {})["loss"] == pytest.approx(0.0, abs=1e-6)
