"""The examples in docstrings are true."""

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import fedmq

FOLDER = Path(fedmq.__file__).parent
EXAMPLES = [path for path in sorted(FOLDER.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_examples_of_a_module_give_what_they_show(path: Path) -> None:
    found = ".".join(path.relative_to(FOLDER.parent).with_suffix("").parts).removesuffix(".__init__")
    results = doctest.testmod(import_module(found), optionflags=doctest.ELLIPSIS)
    assert results.attempted
    assert not results.failed
