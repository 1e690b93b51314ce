"""List public classes and functions that two modules define under one name: one name has one meaning.

Run it to see the list: `.venv/bin/python tests/unit/names.py`. Methods do not count: implementations of one protocol
share their names. Commands do not count either: they are the methods of their groups, and named as the user types them.
`test_names.py` fails on other names that are not in `SHARED_NAMES`.
"""

import ast
import os
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PRODUCT = Path(__file__).parents[2] / "fedmq"

SHARED_NAMES = {
    "main": "the entry point of a process",
    "Output": "the outputs of a step, of every machine",
    "Metrics": "the field's word for the figures of a model, and for those of a service",
}


def modules(root: Path = PRODUCT) -> Iterator[Path]:
    """Yield each module of the product; the services are reached by links."""
    for folder, _, files in os.walk(root, followlinks=True):
        yield from (Path(folder, name) for name in files if name.endswith(".py"))


def is_command(node: ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether a function is a command or a group of click."""
    called = (one.func if isinstance(one, ast.Call) else one for one in node.decorator_list)
    return any(isinstance(one, ast.Attribute) and one.attr in {"command", "group"} for one in called)


def public_definitions(module: Path) -> Iterator[str]:
    """Yield the public classes and functions at the top level of a module, those under `if` and `try` included."""
    pending = list(ast.parse(module.read_text()).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if not node.name.startswith("_") and not is_command(node):
                yield node.name
        else:
            pending.extend(child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt))


def repeated_names(root: Path = PRODUCT) -> dict[str, list[str]]:
    """Return each public name that more than one module defines, with these modules."""
    found = defaultdict(set)
    for module in modules(root):
        for name in public_definitions(module):
            found[name].add(module.relative_to(root).as_posix())
    return {name: sorted(places) for name, places in sorted(found.items()) if len(places) > 1}


def main() -> int:
    """Print the repeated names that are not justified; exit with 1 if there are any."""
    repeated = {name: places for name, places in repeated_names().items() if name not in SHARED_NAMES}
    for name, places in repeated.items():
        print(f"{name:24} {'  '.join(places)}")
    return bool(repeated)


if __name__ == "__main__":
    sys.exit(main())
