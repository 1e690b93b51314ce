"""Algorithms and learners by name: the built-in ones, installed ones, and an algorithm in a Python file.

An installed package offers an algorithm as an entry point of the group `fedmq.algorithms`, and the learner of a query
of its own, by the query's kind, as one of `fedmq.learners`. Only the one that is asked for is loaded.
"""

import importlib.util
import sys
from collections.abc import Mapping
from functools import cache, lru_cache
from hashlib import sha256
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import msgspec

from fedmq.algorithms.additive import Additive
from fedmq.algorithms.base import Learner, NoParameters, Query, Strategy
from fedmq.algorithms.parameters import resolve_parameters
from fedmq.algorithms.private.strategy import Private, PrivateAlgorithm
from fedmq.algorithms.staged import staged
from fedmq.errors import BadConfiguration, QueryRefused, named, one_line
from fedmq.protocol.run_config import Privacy
from fedmq.runtime.python_file import importable
from fedmq.tasks.task import Task

GROUP, LEARNERS_GROUP = "fedmq.algorithms", "fedmq.learners"
DEFAULT_ALGORITHM = "evolution"
QUERIES_KEPT = 64  # each a part of a header of 4 KiB
BUILTIN = {
    "evolution": "fedmq.algorithms.evolution.choice:EvolutionChoice",
    "averaging": "fedmq.algorithms.averaging.strategy:Averaging",
    "statistics": "fedmq.algorithms.statistics.strategy:StatisticsAlgorithm",
    "ridge": "fedmq.algorithms.ridge.strategy:Ridge",
    "newton": "fedmq.algorithms.newton.strategy:Newton",
    "boosting": "fedmq.algorithms.boosting.strategy:Boosting",
    "es": "fedmq.algorithms.es.strategy:EvolutionStrategy",
}
PRIVATE = {  # algorithms that have a form for private runs
    "ridge": "fedmq.algorithms.ridge.private_strategy:PrivateRidge",
    "newton": "fedmq.algorithms.newton.private_strategy:PrivateNewton",
    "boosting": "fedmq.algorithms.boosting.private_strategy:PrivateBoosting",
    "es": "fedmq.algorithms.es.private_strategy:PrivateEvolutionStrategy",
}
BUILTIN_LEARNERS = {
    "evolve": "fedmq.algorithms.evolution.learner:LEARNER",
    "score-pool": "fedmq.algorithms.evolution.learner:SCORES",
    "generation": "fedmq.algorithms.evolution.learner:GENERATION",
    "train": "fedmq.algorithms.averaging.learner:LEARNER",
    "descend": "fedmq.algorithms.averaging.learner:DESCENT",
    "gradient": "fedmq.algorithms.averaging.learner:GRADIENT",
    "evaluate": "fedmq.algorithms.evaluation.learner:LEARNER",
    "score-rows": "fedmq.algorithms.evaluation.learner:ROWS_LEARNER",
    "held-out": "fedmq.algorithms.evaluation.held_out_learner:LEARNER",
    "fitted": "fedmq.algorithms.evaluation.held_out_learner:FITTED_LEARNER",
    "spread": "fedmq.algorithms.statistics.learner:SPREAD",
    "moments": "fedmq.algorithms.statistics.learner:MOMENTS",
    "histograms": "fedmq.algorithms.statistics.learner:HISTOGRAMS",
    "products": "fedmq.algorithms.statistics.learner:PRODUCTS",
    "gram": "fedmq.algorithms.ridge.learner:LEARNER",
    "curvature": "fedmq.algorithms.newton.learner:LEARNER",
    "tree-histograms": "fedmq.algorithms.boosting.learner:LEARNER",
    "slopes": "fedmq.algorithms.es.learner:LEARNER",
    "clipped-products": "fedmq.algorithms.ridge.private_learner:LEARNER",
    "clipped-curvature": "fedmq.algorithms.newton.private_learner:LEARNER",
    "leaf-sums": "fedmq.algorithms.boosting.private_learner:LEARNER",
    "clipped-slopes": "fedmq.algorithms.es.private_learner:LEARNER",
    "private-figures": "fedmq.algorithms.evaluation.private_learner:LEARNER",
    "private-fitted": "fedmq.algorithms.evaluation.private_learner:FITTED_LEARNER",
}


class _Kind(msgspec.Struct):
    """The kind of a query; its other fields are not looked at."""

    kind: str


def algorithm_names() -> tuple[str, ...]:
    """Return the names of all algorithms: built in, then installed."""
    return (*BUILTIN, *sorted(_installed(GROUP).keys() - BUILTIN.keys()))


def find_algorithm(
    name: str = DEFAULT_ALGORITHM,
    task: Task | None = None,
    parameters: Mapping[str, Any] | None = None,
    privacy: Privacy | None = None,
) -> Strategy[Any]:
    """Return the strategy of this algorithm with its parameters: defaults, then the task's, then `parameters`.

    With `privacy` it is its form for private runs.

    `name` is one of `algorithm_names()`, or FILE.py:NAME for an additive algorithm in a file, which is executed. A
    class whose parameters decide between two strategies has a class method `for_parameters`.

    Raises:
        BadConfiguration: no such algorithm, or one that cannot be loaded; parameters out of bounds.
    """
    if privacy is not None:
        private, chosen = private_algorithm(name, task, parameters)
        return Private(private, chosen, privacy)
    name = absolute_name(name)
    kind = _algorithm_class(name)
    of_task = {} if task is None else task.parameters.get(getattr(kind, "name", name), {})
    chosen = resolve_parameters(getattr(kind, "Parameters", NoParameters), of_task, parameters or {})
    try:
        algorithm = getattr(kind, "for_parameters", kind)(chosen) if hasattr(kind, "Parameters") else kind()
    except Exception as error:
        raise BadConfiguration(
            f"algorithm {name}: expected an instance, got {named(error)}: correct __init__"
        ) from error
    strategy: Strategy[Any] = algorithm
    if getattr(algorithm, "additive", True):
        strategy = getattr(algorithm, "summed_by", Additive)(algorithm, name, chosen)
    elif is_file(name):
        raise BadConfiguration(
            f"algorithm {name}: expected additive = True in a file, got False: install it as a package"
        )
    return staged(strategy, task)


def private_algorithm(
    name: str, task: Task | None = None, parameters: Mapping[str, Any] | None = None
) -> tuple[PrivateAlgorithm[Any], Any]:
    """Return the form of an algorithm for private runs, and its parameters.

    Raises:
        BadConfiguration: it has none, or parameters out of bounds.
    """
    if name not in PRIVATE:
        raise BadConfiguration(f"--epsilon: expected one of the algorithms {', '.join(PRIVATE)}, got {name!r:.80}")
    kind = EntryPoint(name, PRIVATE[name], GROUP).load()
    of_task = {} if task is None else task.parameters.get(name, {})
    chosen = resolve_parameters(kind.Parameters, of_task, parameters or {})
    return kind(chosen), chosen


def algorithm_of_query(kind: str) -> str:
    """Return the name of the algorithm that asks queries of this kind; of an installed learner, the kind itself."""
    learner = BUILTIN_LEARNERS.get(kind)
    return kind if learner is None else learner.split(".")[2]


@cache
def find_learner(kind: str) -> Learner:
    """Return the learner for queries of this kind.

    Raises:
        QueryRefused: there is none here.
    """
    entry = _entry_point(kind, BUILTIN_LEARNERS, LEARNERS_GROUP)
    if entry is None:
        raise QueryRefused(
            f"expected one of {', '.join(sorted({*BUILTIN_LEARNERS, *_installed(LEARNERS_GROUP)}))}, got {kind!r:.80}: "
            "install the package that has it"
        )
    try:
        learner = entry.load()
    except (Exception, SystemExit) as error:
        raise QueryRefused(f"the learner of {kind!r:.80} cannot be loaded: {named(error)}") from error
    if not isinstance(learner, Learner):
        raise QueryRefused(f"the learner of {kind!r:.80}: expected a Learner, got {type(learner).__name__}")
    return learner


def decode_query(raw: msgspec.Raw | bytes) -> tuple[Query, Learner]:
    """Return the query that a Round carries, and its learner.

    Most rounds of a run carry the same bytes: they are decoded once. A query is frozen, so rounds may share it.

    Raises:
        QueryRefused: an unknown kind, or fields that are wrong for it.
    """
    return _decoded(bytes(raw))


@lru_cache(maxsize=QUERIES_KEPT)
def _decoded(raw: bytes) -> tuple[Query, Learner]:
    try:
        kind = msgspec.msgpack.decode(raw, type=_Kind).kind
    except Exception as error:  # not only msgspec's: text that is not UTF-8, nesting that is too deep
        raise QueryRefused(f"expected a query with a kind, got {one_line(error)[:200]}") from error
    learner = find_learner(kind)
    try:
        return msgspec.msgpack.decode(raw, type=learner.query), learner
    except Exception as error:
        raise QueryRefused(f"{kind}: {one_line(error)[:200]}") from error


def _algorithm_class(name: str) -> Any:
    if is_file(name):
        path, _, attribute = name.rpartition(":")
        found = getattr(_module_of(Path(path)), attribute, None)
        if not isinstance(found, type):
            raise BadConfiguration(f"{path}: expected a class {attribute}, got {type(found).__name__}: define it there")
        return found
    entry = _entry_point(name, BUILTIN, GROUP)
    if entry is None:
        raise BadConfiguration(
            f"algorithm: expected one of {', '.join(algorithm_names())}, or FILE.py:NAME, got {name!r:.80}"
        )
    try:
        return entry.load()
    except Exception as error:
        raise BadConfiguration(f"algorithm {name}: cannot be loaded ({named(error)}): reinstall its package") from error


def is_file(name: str) -> bool:
    """Return whether a name is FILE.py:NAME."""
    return name.rpartition(":")[0].endswith(".py")


def absolute_name(name: str) -> str:
    """Return the name with an absolute path where it is FILE.py:NAME, as a run keeps it."""
    path, _, attribute = name.rpartition(":")
    return f"{Path(path).resolve()}:{attribute}" if is_file(name) else name


@cache
def _module_of(path: Path) -> Any:
    """Return the file as a module of its own, so that its annotations can be resolved."""
    if not path.is_file():
        raise BadConfiguration(f"{path}: expected a Python file with an algorithm, got no such file: check the path")
    module_name = f"fedmq_algorithm_{sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        with importable(path.parent):
            spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise BadConfiguration(f"{path}: expected a file that runs, got {named(error)}") from error
    return module


@cache
def _installed(group: str) -> Mapping[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}


def _entry_point(name: str, builtin: Mapping[str, str], group: str) -> EntryPoint | None:
    return EntryPoint(name, builtin[name], group) if name in builtin else _installed(group).get(name)
