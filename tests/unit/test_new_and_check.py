"""`fedmq new` and `fedmq check` on the forms in which people have tables: read unedited, or refused with advice."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import NamedTuple

import click
import pytest
from click.testing import CliRunner

from fedmq import find_task
from fedmq.cli.main import fedmq
from fedmq.errors import BadConfiguration, FedmqError
from fedmq.tables.schema import Schema

EXAMPLES = Path(__file__).parents[2] / "examples"
PLAIN = "height,width,y\n1.5,2,0\n3,4.5,1\n"


class Done(NamedTuple):
    code: int
    text: str


def run(*arguments: str) -> Done:
    """Run a command in this process; an error has the exit code and the line that `fedmq` would print."""
    try:
        result = CliRunner().invoke(fedmq, list(arguments), standalone_mode=False, catch_exceptions=False)
    except FedmqError as error:
        return Done(error.exit_code, str(error))
    except click.ClickException as error:
        return Done(error.exit_code, error.format_message())
    return Done(result.exit_code, result.output)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(name: str, content: str | bytes) -> str:
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    return name


def schema() -> Schema:
    found = find_task("t.toml").schema
    assert found is not None
    return found


READ = {
    "names are numbers, as of an array": ("rows.csv", "0,1,2\n0.5,0.25,0\n0.75,0.5,1\n0.5,1.5,0\n", 2),
    "index without a name": ("rows.csv", ",p,q,y\n0,0.5,0.2,0\n1,0.25,0.4,1\n", 2),
    "semicolons and quotes": ("rows.csv", '"pine cones";"oak leaves";"y"\n7.5;0.75;5\n8;0.5;6\n', 2),
    "decimal comma": ("rows.csv", "p;q;y\n1,5;2,75;0\n3,0;4,25;1\n", 2),
    "tabs": ("rows.tsv", "p\tq\ty\n1\t2\t0\n3\t4\t1\n", 2),
    "tabs and no header": ("rows.csv", "1\t2\t0\n3\t4\t1\n", 2),
    "a line for Excel": ("rows.csv", "sep=;\np;q;y\n1;2;0\n3;4;1\n", 2),
    "byte order mark and CRLF": ("rows.csv", b"\xef\xbb\xbfp,q,y\r\n1,2,0\r\n3,4,1\r\n", 2),
    "Latin-1": ("rows.csv", "höhe,q,y\n1,2,0\n3,4,1\n".encode("latin-1"), 2),
    "a comma at the end": ("rows.csv", "p,q,y,\n1,2,0,\n3,4,1,\n", 2),
    "empty lines": ("rows.csv", "p,q,y\n1,2,0\n3,4,1\n\n,,\n   \n", 2),
    "classes True and False": ("rows.csv", "p,q,y\n1,2,True\n3,4,False\n", 2),
    "classes of text": ("rows.csv", "p,q,y\n1,2,ill\n3,4,well\n", 2),
    "classes 1.0 and 0.0": ("rows.csv", "p,q,y\n1,2,1.0\n3,4,0.0\n", 2),
    "classes from 1": ("rows.csv", "p,q,y\n1,2,1\n3,4,2\n", 2),
    "one class at this site": ("rows.csv", "p,q,y\n1,2,0\n3,4,0\n", 2),
    "question marks": ("rows.csv", "p,q,y\n1,2,0\n?,4,1\n", 2),
    "empty cells and NA": ("rows.csv", "p,q,y\n1,,0\nNA,4,1\n", 2),
    "row without a target": ("rows.csv", "p,q,y\n1,2,0\n3,4,\n5,6,1\n", 2),
    "names that are years": ("rows.csv", "2019,2020,2021,y\n1,2,3,0\n3,4,5,1\n", 3),
    "names nan and inf": ("rows.csv", "nan,inf,y\n1,2,0\n3,4,1\n", 2),
    "blanks after commas": ("rows.csv", "p, q, y\n1, 2, 0\n3, 4, 1\n", 2),
    "blanks between cells": ("rows.csv", "1 2 0\n3 4 1\n", 2),
    "no-break space after a number": ("rows.csv", "p,q,y\n1\u00a0,2,0\n3,4,1\n", 2),
    "the header again": ("rows.csv", "p,q,y\n1,2,0\np,q,y\n3,4,1\n", 2),
    "apostrophes": ("rows.csv", "1,2,'-1'\n3,4,'1'\n", 2),
    "CR only": ("rows.csv", "p,q,y\r1,2,0\r3,4,1\r", 2),
    "comma in a name": ("rows.csv", '"Height, cm",q,y\n1,2,0\n3,4,1\n', 2),
    "line break in a name": ("rows.csv", '"p\nmm",q,y\n1,2,0\n3,4,1\n', 2),
    "dates": ("rows.csv", "day,q,y\n2021-03-01,2,0\n2021-03-02,4,1\n", 1),
    "gzip": ("rows.csv.gz", gzip.compress(PLAIN.encode()), 2),
    "suffix in capitals": ("ROWS.CSV", PLAIN, 2),
    "suffix data": ("rows.data", "1,2,0\n3,4,1\n", 2),
    "suffix txt": ("rows.txt", "1 2 0\n3 4 1\n", 2),
    "exponents": ("rows.csv", "p,q,y\n1e3,2,0\n3,4E-1,1\n", 2),
    "identifiers": ("rows.csv", "id,q,y\n2000047,5,0\n2005949,5,1\n", 1),
    "large integers": ("rows.csv", "p,q,y\n98765432109876543210,2,0\n3,4,1\n", 2),
    "records of JSON": ("rows.json", '[{"p": 1, "y": 0}, {"p": 2, "y": 1}]', 1),
}


@pytest.mark.parametrize("form", READ)
def test_form_is_read_and_trains_after_new_unedited(form: str) -> None:
    name, content, inputs = READ[form]
    data = write(name, content)
    assert run("new", "t", "--from", data).code == 0
    assert len(schema().columns) == inputs
    done = run("check", "t.toml", "--data", data, "--json")
    assert (done.code, json.loads(done.text)["trains"]) == (0, True)


REFUSED = {
    "percent": ("p,q,y\n12%,2,0\n3,4,1\n", "column p: expected numbers, got '12%' at line 2"),
    "currency": ("p,q,y\n1,$5,0\n3,4,1\n", 'set strip = "$"'),
    "underscore": ("p,q,y\n1_000,2,0\n3,4,1\n", "got '1_000' at line 2"),
    "infinity": ("p,q,y\n1,inf,0\n3,4,1\n", "got 'inf' at line 2"),
    "hexadecimal": ("p,q,y\n1e3,0x10,0\n3,4,1\n", "got '0x10' at line 2"),
    "digits of other scripts": ("p,q,y\n١,2,0\n3,4,1\n", "column p: expected numbers, got '١' at line 2"),
    "ragged line": ("p,q,y\n1,2,0\n3,4\n", "line 3: expected 3 cells, got 2"),
    "NUL": ("p,q,y\n1,2,0\n3,4\0,1\n", "at line 3"),
    "quote that does not close": ('p,q,y\n1,2,0\n"3,4,1\n5,6,0\n', "line 3"),
    "nothing": ("", "expected at least one row"),
}


@pytest.mark.parametrize("form", REFUSED)
def test_form_is_refused_with_the_line_and_advice(form: str) -> None:
    content, said = REFUSED[form]
    done = run("new", "t", "--from", write("rows.csv", content))
    assert done.code == BadConfiguration.exit_code
    assert said in done.text


def test_column_with_a_sign_is_read_when_the_task_says_so() -> None:
    data = write("rows.csv", "p,q,y\n12%,2,0\n3,4,1\n")
    assert run("new", "t", "--from", data).code == BadConfiguration.exit_code
    text = Path("t.toml").read_text()
    write("t.toml", text.replace('p = { kind = "number",', 'p = { kind = "number", strip = "%",'))
    assert run("check", "t.toml", "--data", data).code == 0


def test_file_is_not_overwritten_without_force() -> None:
    data = write("rows.csv", PLAIN)
    write("t.toml", "mine")
    done = run("new", "t", "--from", data)
    assert done.code == BadConfiguration.exit_code
    assert Path("t.toml").read_text() == "mine"
    assert run("new", "t", "--from", data, "--force").code == 0
    assert schema().target.name == "y"


def test_three_clinics_fit_one_task_whatever_their_order_and_dialect() -> None:
    tables = {site: str(EXAMPLES / "tumor" / f"{site}.csv") for site in ("north", "south", "west")}
    assert run("new", "t", "--from", tables["north"], "--target", "diagnosis").code == 0
    for site, path in tables.items():
        done = run("check", "t.toml", "--data", path, "--json")
        found = json.loads(done.text)
        assert (done.code, found["rows_kept"], found["features"]) == (0, 189 if site == "west" else 190, 8)
        assert {one["kind"] for one in found["sent"]} >= {"spread", "moments", "histograms", "tree-histograms"}
    assert any("'ward'" in note for note in found["notes"])


def test_table_that_does_not_fit_has_one_line_for_each_fault() -> None:
    assert run("new", "t", "--from", write("north.csv", "bmi,sex,y\n21.5,f,ill\n30,m,well\n28,f,ill\n")).code == 0
    data = write("south.csv", "BMI,sex,y\n21.5,f,sick\nx,d,well\n")
    done = run("check", "t.toml", "--data", data)
    assert done.code == BadConfiguration.exit_code
    assert done.text.splitlines()[1:] == [
        "  expected column bmi, found 'BMI': rename it in the table, or in the task for all sites",
        "  target y: expected one of the classes ill, well, got 'sick' at line 2 (1 of 2 cells): correct the cells, "
        "or add the class to the task for all sites",
    ]
    faults = json.loads(run("check", "t.toml", "--data", data, "--json").text)
    assert (faults["trains"], len(faults["faults"])) == (False, 2)


def test_check_counts_what_is_missing_left_out_and_not_listed() -> None:
    assert run("new", "t", "--from", write("north.csv", "a,color,y\n1.5,red,0\n2,blue,1\n4,red,1\n")).code == 0
    found = json.loads(
        run("check", "t.toml", "--data", write("s.csv", "y,color,a\n0,red,\n1,pink,2\n,,3\n"), "--json").text
    )
    assert (found["rows"], found["rows_kept"], found["left_out"]) == (3, 2, {"without y": 1})
    by_name = {one["name"]: one for one in found["columns"]}
    assert (by_name["a"]["missing"], by_name["color"]["unlisted"]) == (1, 1)
    assert by_name["color"]["counts"] == {"blue": 0, "red": 1}
    assert found["target"] == {"0": 1, "1": 1}


def test_check_needs_a_task_with_a_schema() -> None:
    done = run("check", "xor", "--data", write("rows.csv", PLAIN))
    assert done.code == BadConfiguration.exit_code
    assert "fedmq new" in done.text


def test_new_takes_numbers_whose_squares_overflow() -> None:
    rows = "".join(f"{place},{place}e200\n" for place in range(1, 60))
    assert run("new", "t", "--from", write("huge.csv", f"a,y\n{rows}"), "--target", "y").code == 0
    assert "scale" not in Path("t.toml").read_text().partition("[columns]")[0]


def test_check_names_columns_with_values_that_are_clipped() -> None:
    source = write("huge.csv", "a,b,y\n" + "".join(f"{place}e20,{place},{place % 2}\n" for place in range(-9, 9)))
    assert run("new", "t", "--from", source, "--target", "y").code == 0
    clipped = [line for line in run("check", "t.toml", "--data", source).text.splitlines() if "2^64" in line]
    assert len(clipped) == 1
    assert "17 beyond 2^64" in clipped[0]


def test_check_of_an_unknown_algorithm_is_refused() -> None:
    source = str(EXAMPLES / "tumor" / "north.csv")
    assert run("new", "tumor", "--from", source, "--target", "diagnosis").code == 0
    done = run("check", "tumor.toml", "--data", source, "--algorithm", "newtn")
    assert done.code == 78
    assert "got 'newtn'" in done.text


def test_check_alone_trains_on_these_rows_and_shows_held_out_figures() -> None:
    source = str(EXAMPLES / "tumor" / "north.csv")
    assert run("new", "tumor", "--from", source, "--target", "diagnosis").code == 0
    found = run("check", "tumor.toml", "--data", source, "--algorithm", "newton", "--alone")
    assert found.code == 0
    assert "alone     on held-out rows: accuracy " in found.text
    assert "AUC " in found.text
    text = Path("tumor.toml").read_text().replace("holdout = 0.2", "holdout = 0.0")
    write("none.toml", text)
    assert run("check", "none.toml", "--data", source, "--alone").code == 78
