"""The page of the examples names each file, and examples that print a table print one of real runs."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def printed(name: str, rounds: int, capsys: pytest.CaptureFixture[str]) -> list[list[str]]:
    """Return the words of each line that an example prints after so many rounds."""
    runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"](rounds)
    return [line.split() for line in capsys.readouterr().out.splitlines()]


def test_page_names_each_example_and_no_other() -> None:
    named = set(
        re.findall(r"examples/([\w/-]+\.(?:py|csv|toml))", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    )
    files = {
        str(path.relative_to(EXAMPLES)) for path in EXAMPLES.rglob("*.*") if path.suffix in (".py", ".csv", ".toml")
    }
    assert named == files


def test_diabetes_has_one_model_by_sums_and_another_by_averages(capsys: pytest.CaptureFixture[str]) -> None:
    _, averaging, scaffold, es, ridge = printed("diabetes_sorted", 12, capsys)
    assert [line[-1] for line in (averaging, scaffold, es, ridge)] == ["no", "no", "yes", "yes"]
    assert float(averaging[1]) < float(averaging[2]) - 0.1  # of four sites, and of one
    assert ridge[1:3] == ["0.41", "0.41"]


def test_breast_cancer_has_the_model_of_one_database(capsys: pytest.CaptureFixture[str]) -> None:
    _, newton, boosting, averaging = printed("breast_cancer", 40, capsys)
    assert newton[1:] == ["96.5%", "0.9954", "93.8%", "18", "yes"]
    assert (boosting[-1], averaging[-1]) == ("yes", "no")


def test_digits_have_one_model_of_es_for_any_split(capsys: pytest.CaptureFixture[str]) -> None:
    _, fedavg, scaffold, es = printed("digits_noniid", 12, capsys)
    assert [line[-1] for line in (fedavg, scaffold, es)] == ["3", "3", "1"]
    assert len(set(es[1:4])) == 1
