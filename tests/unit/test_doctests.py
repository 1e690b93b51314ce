"""The examples in docstrings are true, and those of pages about Python run."""

import doctest
import re
from importlib import import_module
from pathlib import Path

import pytest

import fedmq

FOLDER = Path(fedmq.__file__).parent
DOCS = FOLDER.parent / "docs"
EXAMPLES = [path for path in sorted(FOLDER.rglob("*.py")) if ">>> " in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_examples_of_a_module_give_what_they_show(path: Path) -> None:
    found = ".".join(path.relative_to(FOLDER.parent).with_suffix("").parts).removesuffix(".__init__")
    results = doctest.testmod(import_module(found), optionflags=doctest.ELLIPSIS)
    assert results.attempted
    assert not results.failed


@pytest.mark.parametrize("page", ["how-to/simulate.md", "reference/python.md"])
def test_examples_of_a_page_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    alone = [block for block in blocks if "broker=" not in block]  # the others need services
    names = {"fedmq": fedmq}
    assert alone
    for block in alone:
        exec(block, names)  # noqa: S102  it is a page of this project
    assert list(tmp_path.glob("*.html")), "a chart that was saved"
