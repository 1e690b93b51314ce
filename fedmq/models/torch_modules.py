"""Modules of PyTorch: the factories that this process allows, and what is computed with the modules that they make.

The only module that imports PyTorch, when it is first needed. On the CPU it computes on one thread, so that the same
round gives the same bits on any number of cores.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from fedmq.errors import BadConfiguration, CodeRefused, WorkCancelled, named
from fedmq.models.arrays import Floating, Floats
from fedmq.models.losses import ROW_SQUARED_ERROR_MAX, Scores
from fedmq.models.torch_model import TENSORS_MAX, TensorInfo, Torch
from fedmq.runtime.rng import derive_rng

MODULES_KEPT = 4
ROWS_AT_ONCE = 256  # of an evaluation
FIRST_SEED = 0  # of the random numbers of a factory, for tensors that are not trained

Factory = Callable[[], Any]  # returns an nn.Module
Optimizer = Literal["sgd", "adam", "adamw"]

# By name. A process-wide table, like that of imported modules: which code may run is a fact about the process.
_allowed: dict[str, Factory] = {}


class Descent(NamedTuple):
    """How a module is trained."""

    epochs: int
    batch_size: int  # 0: all rows at once
    learning_rate: float
    optimizer: Optimizer = "sgd"
    momentum: float = 0.0  # of sgd
    weight_decay: float = 0.0
    device: Literal["auto", "cpu", "cuda"] = "auto"
    mixed_precision: bool = False  # bfloat16 where PyTorch's autocast uses it


@cache
def _torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise BadConfiguration(
            f"expected PyTorch for this model, got {named(error)}: install fedmq[torch], or torch for your machine"
        ) from error
    torch.set_num_threads(1)
    torch.set_deterministic_debug_mode("warn")  # use_deterministic_algorithms imports the compiler
    return torch


def torch_model(
    factory: Factory,
    *,
    inputs: int,
    outputs: int = 1,
    output: Literal["softmax", "identity"] = "softmax",
    train: str | Sequence[str] = "*",
    freeze: str | Sequence[str] = (),
    name: str | None = None,
) -> Torch:
    """Return the model of a factory, a function without arguments that returns an `nn.Module`, and allow it here.

    The module gets (rows, inputs) float32 and returns (rows, outputs): logits of classes for `softmax`, a value for
    `identity`. A module with a method `losses(inputs, targets)` has its own loss, `Task(loss="own")`: it returns the
    loss of each row, and whether the row is correct. Tensors of floats in the state dict, parameters and buffers, are
    trained if their name matches one of the patterns `train` and none of `freeze`. The others stay as the factory makes
    them. The factory's name is that of its file or module and its own, or `name`.

    Raises:
        BadConfiguration: PyTorch is not installed, the factory fails, or no tensor is trained.
    """
    chosen = name or _name_of(factory)
    patterns, without = _patterns(train), _patterns(freeze)
    module = _made(chosen, factory, FIRST_SEED)
    state = {key: value for key, value in module.state_dict().items() if value.is_floating_point()}
    trained = sorted(
        key
        for key in state
        if any(fnmatchcase(key, one) for one in patterns) and not any(fnmatchcase(key, one) for one in without)
    )
    if not 1 <= len(trained) <= TENSORS_MAX:
        raise BadConfiguration(
            f"{chosen}: expected 1 to {TENSORS_MAX} tensors to train, got {len(trained)}: the module has "
            f"{', '.join(list(state)[:8]) or 'none of floats'}"
        )
    model = Torch(
        factory=chosen,
        inputs=inputs,
        outputs=outputs,
        tensors=tuple(TensorInfo(key, tuple(state[key].shape)) for key in trained),
        widest=_widest(chosen, module, inputs),
        output=output,
        own_loss=hasattr(module, "losses"),
        frozen=_digest(module, trained),
    )
    _allowed[chosen] = factory
    return model


def _patterns(patterns: str | Sequence[str]) -> tuple[str, ...]:
    return (patterns,) if isinstance(patterns, str) else tuple(patterns)


def initial_module_parameters(model: Torch, seed: int, start: int = 0) -> Floats:
    """Return the parameters of a new module, with random numbers of the run's seed, (num_parameters,) float64."""
    draw = int(derive_rng(seed, "torch", start).integers(2**62))
    return _vector(model, _made(model.factory, _factory(model.factory), draw))


def torch_module(model: Torch, parameters: Floats) -> Any:
    """Return a new `nn.Module` with these parameters (num_parameters,), in evaluation mode; errors as `module_of`."""
    module = _Module(model)
    module.load(parameters)
    return module.module.eval()


@lru_cache(maxsize=MODULES_KEPT)
def module_of(model: Torch) -> _Module:
    """Return the module of a model, the same again: one copy in memory.

    Raises:
        CodeRefused: this process has not allowed the factory.
        BadConfiguration: the factory fails, or makes another model than the run's.
    """
    return _Module(model)


class _Module:
    """A module whose parameters are replaced in place."""

    def __init__(self, model: Torch) -> None:
        self.torch, self.model = _torch(), model
        self.module = _made(model.factory, _factory(model.factory), FIRST_SEED)
        state = self.module.state_dict()
        names = [one.name for one in model.tensors]
        for one in model.tensors:
            found = tuple(state[one.name].shape) if one.name in state else None
            if found != one.shape:
                raise BadConfiguration(
                    f"{model.factory}: expected {one.name} of shape {one.shape} as in the run, got {found}: "
                    "install the same version at all sites"
                )
        if _digest(self.module, names) != model.frozen:
            raise BadConfiguration(
                f"{model.factory}: expected the same frozen numbers as in the run, got others: "
                "load the same checkpoint at all sites, with the same version of PyTorch"
            )
        for key, parameter in self.module.named_parameters():
            parameter.requires_grad_(key in names)
        self._tensors = [state[name] for name in names]  # share their memory with the module
        self._others = {key: value.clone() for key, value in state.items() if key not in names}

    def load(self, parameters: Floating) -> None:
        """Set all tensors: the trained ones to these parameters, the others to what they were at first."""
        torch, values = self.torch, np.asarray(parameters, np.float32)
        with torch.no_grad():
            for tensor, (one, part) in zip(self._tensors, self.model.parts(), strict=True):
                tensor.copy_(torch.from_numpy(values[part].reshape(one.shape).copy()))
            state = self.module.state_dict()
            for key, value in self._others.items():
                state[key].copy_(value)

    def vector(self) -> Floats:
        """Return the parameters (num_parameters,) float64."""
        return _vector(self.model, self.module)

    def outputs(self, parameters: Floating, inputs: Floating) -> Floating:
        """Return the outputs (rows, outputs) float32 of these parameters."""
        torch = self.torch
        self._evaluate(parameters)
        found = np.empty((len(inputs), self.model.outputs), np.float32)
        with torch.no_grad():
            for start in range(0, len(inputs), ROWS_AT_ONCE):
                block = torch.from_numpy(np.asarray(inputs[start : start + ROWS_AT_ONCE], np.float32))
                outputs = self.module(block).reshape(len(block), -1)
                if outputs.shape[1] != self.model.outputs:
                    raise BadConfiguration(
                        f"{self.model.factory}: expected {self.model.outputs} outputs, got {outputs.shape[1]}"
                    )
                found[start : start + ROWS_AT_ONCE] = outputs.numpy()
        return found

    def scores(
        self, population: Floating, inputs: Floating, targets: Any, cancelled: Callable[[], bool] | None = None
    ) -> Scores:
        """Return summed losses and correct rows of each candidate, by the module's own `losses`."""
        torch, losses = self.torch, np.zeros(len(population))
        correct = np.zeros(len(population), np.int64)
        for place, parameters in enumerate(population):
            self._evaluate(parameters)
            with torch.no_grad():
                for start in range(0, len(inputs), ROWS_AT_ONCE):
                    if cancelled is not None and cancelled():
                        raise WorkCancelled("the scores are needless: the work was cancelled")
                    block = slice(start, start + ROWS_AT_ONCE)
                    of_rows, right = self.module.losses(*self._tensors_of(inputs[block], targets[block]))
                    losses[place] += np.fmin(of_rows.double().numpy(), ROW_SQUARED_ERROR_MAX).sum()
                    correct[place] += int(right.sum())
        return Scores(losses, correct)

    def train(
        self,
        parameters: Floats,
        inputs: Floats,
        targets: Any,
        descent: Descent,
        generator: np.random.Generator,
        cancelled: Callable[[], bool],
    ) -> Floats:
        """Return the parameters after `descent`; the draws decide the order of rows and dropout."""
        torch, size = self.torch, descent.batch_size or len(inputs)
        device = "cuda" if descent.device != "cpu" and torch.cuda.is_available() else "cpu"
        if descent.device == "cuda" and device == "cpu":
            raise BadConfiguration("device: expected a GPU, got none that PyTorch finds: use device=auto")
        self.load(parameters)
        module = self.module.train().to(device)
        optimizer = self._optimizer(descent)
        rows, wanted = (one.to(device) for one in self._tensors_of(inputs, targets))
        draws = np.random.Generator(np.random.PCG64(generator.integers(2**62)))
        with torch.random.fork_rng(enabled=True):
            torch.manual_seed(int(generator.integers(2**62)))
            for _ in range(descent.epochs):
                order = torch.from_numpy(draws.permutation(len(inputs))).to(device)
                for start in range(0, len(inputs), size):
                    if cancelled():
                        raise WorkCancelled("training was cancelled: a newer round makes it needless")
                    batch = order[start : start + size]
                    optimizer.zero_grad()
                    with torch.autocast(device, dtype=torch.bfloat16, enabled=descent.mixed_precision):
                        loss = self._loss(module, rows[batch], wanted[batch])
                    loss.float().backward()
                    optimizer.step()
        module.to("cpu")
        return self.vector()

    def _evaluate(self, parameters: Floating) -> None:
        self.load(parameters)
        self.module.eval()

    def _tensors_of(self, inputs: Floating, targets: Any) -> tuple[Any, Any]:
        classes = targets.dtype.kind == "i"
        wanted = np.asarray(targets, np.int64 if classes else np.float32)
        return self.torch.from_numpy(np.asarray(inputs, np.float32)), self.torch.from_numpy(wanted.copy())

    def _loss(self, module: Any, rows: Any, wanted: Any) -> Any:
        """Return the mean loss of a batch."""
        functional = self.torch.nn.functional
        if self.model.own_loss:
            return module.losses(rows, wanted)[0].mean()
        outputs = module(rows)
        if self.model.output == "softmax":
            return functional.cross_entropy(outputs, wanted)
        return functional.mse_loss(outputs.reshape(len(rows), -1)[:, 0], wanted)

    def _optimizer(self, descent: Descent) -> _Optimizer:
        trained = [one for one in self.module.parameters() if one.requires_grad]
        if not trained:
            raise BadConfiguration(f"{self.model.factory}: expected parameters to train, got buffers only")
        return _Optimizer(self.torch, trained, descent)


class _Optimizer:
    """SGD, Adam or AdamW, by the functions that step the optimizers of `torch.optim`: the same bits.

    Its classes import PyTorch's compiler, which takes as long as PyTorch itself.
    """

    def __init__(self, torch: Any, parameters: Sequence[Any], descent: Descent) -> None:
        from torch.optim.adam import adam
        from torch.optim.adamw import adamw
        from torch.optim.sgd import sgd

        self.parameters, self.descent, self._no_grad = parameters, descent, torch.no_grad
        self._sgd, self._adam = sgd, adamw if descent.optimizer == "adamw" else adam
        if descent.optimizer == "sgd":
            self._moments: list[list[Any]] = [[None] for _ in parameters]
        else:
            self._moments = [
                [torch.zeros_like(one), torch.zeros_like(one), torch.zeros((), device="cpu")] for one in parameters
            ]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        for one in self.parameters:
            one.grad = None

    def step(self) -> None:
        """Move each parameter that has a gradient."""
        with self._no_grad():
            for one, moments in zip(self.parameters, self._moments, strict=True):
                if one.grad is not None:
                    self._move(one, moments)

    def _move(self, one: Any, moments: list[Any]) -> None:
        chosen = self.descent
        settings = {"lr": chosen.learning_rate, "weight_decay": chosen.weight_decay, "maximize": False}
        if chosen.optimizer == "sgd":
            momentum = {"momentum": chosen.momentum, "dampening": 0.0, "nesterov": False}
            self._sgd([one], [one.grad], moments, **momentum, **settings)  # replaces the moment in the list
            return
        mean, square, steps = moments
        betas = {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "amsgrad": False}
        self._adam([one], [one.grad], [mean], [square], [], [steps], **betas, **settings)


def _factory(name: str) -> Factory:
    factory = _allowed.get(name)
    if factory is None:
        raise CodeRefused(
            f"the model is PyTorch's {name!r:.80}: expected a factory that this process allows, got none of that name: "
            "give a trainer its own copy of the task with --score FILE, and predict the task's file with --task, or "
            "import it in Python"
        )
    return factory


def _made(name: str, factory: Factory, seed: int) -> Any:
    """Return a new module of float32 on the CPU; its random numbers are of this seed."""
    torch = _torch()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = factory()
    except (Exception, SystemExit) as error:
        raise BadConfiguration(f"{name}: expected a factory that makes a module, got {named(error)}") from error
    if not isinstance(module, torch.nn.Module):
        raise BadConfiguration(f"{name}: expected a factory that returns an nn.Module, got {type(module).__name__}")
    return module.float().cpu()


def _vector(model: Torch, module: Any) -> Floats:
    state: Mapping[str, Any] = module.state_dict()
    return np.concatenate([state[one.name].detach().cpu().double().numpy().ravel() for one in model.tensors])


def _digest(module: Any, trained: Sequence[str]) -> bytes:
    """Return the SHA-256 of the parameters and buffers that are not trained, with their names; empty for none.

    Counters are left out: batch norm counts batches, and nothing is computed from that.
    """
    others = {
        key: value
        for key, value in module.state_dict().items()
        if key not in trained and value.is_floating_point() and value.numel()
    }
    if not others:
        return b""
    digest = sha256()
    for key in sorted(others):
        digest.update(key.encode() + b"\0" + others[key].detach().contiguous().numpy().tobytes())
    return digest.digest()


def _widest(name: str, module: Any, inputs: int) -> int:
    """Return the most numbers that one layer computes for a row, by computing one."""
    torch, sizes = _torch(), [1]
    hooks = [
        one.register_forward_hook(lambda _module, _inputs, output: sizes.append(_size(output)))
        for one in module.modules()
    ]
    module.eval()
    try:
        with torch.no_grad():
            row = torch.zeros(1, inputs)
            if hasattr(module, "losses"):
                module.losses(row, torch.zeros(1))
            else:
                module(row)
    except Exception as error:
        raise BadConfiguration(f"{name}: expected a module that takes (rows, {inputs}), got {named(error)}") from error
    finally:
        for hook in hooks:
            hook.remove()
    return max(sizes)


def _size(output: Any) -> int:
    return int(output.numel()) if hasattr(output, "numel") else 1


def _name_of(factory: Factory) -> str:
    """Return `module:name`; for a file that was run, its name without suffix."""
    own = getattr(factory, "__qualname__", "")
    module = getattr(factory, "__module__", "")
    if module in sys.modules and module not in ("__main__", "<run_path>"):  # runpy's name of a file that runs now
        return f"{module}:{own}"
    code = getattr(inspect.unwrap(factory), "__code__", None) or getattr(
        getattr(factory, "__init__", None), "__code__", None
    )
    if not own or code is None:
        raise BadConfiguration("torch_model: expected a function or a class as factory, or its name=..., got neither")
    return f"{Path(code.co_filename).stem}:{own}"
