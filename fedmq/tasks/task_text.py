"""The text of a proposed task file: TOML with comments for the person who edits it."""

import json
import re
from collections.abc import Sequence

from fedmq.runtime.printable import printable
from fedmq.tasks.proposal import Proposal
from fedmq.tasks.table_task import DEFAULT_ALGORITHM, HOLDOUT, FileColumn

_HEADER = """\
# What to learn from which columns, proposed by fedmq new from {sources}.
# Read it, edit it, and give the same file to all sites. Names, labels and categories below are in your tables; no other
# cell is. Then, at each site: fedmq check {name}.toml --data FILE

name = "{name}"
algorithm = "{algorithm}"  # trees; newton: coefficients with standard errors; or ridge, averaging, evolution
holdout = {holdout}  # the share of each site's rows that measure the model and never train it
# missing_cells = ["", "NA", "?"]  # cells without a value, in any column; by default these and a few more

[target]
"""
_KINDS = """
# Sites find columns by name, in any order. kind = "number", "category", "ordinal" (categories from low to high),
# "boolean", "date", "weight" (of the row), "offset" or "ignored". A missing number becomes the median of all sites; or
# missing = "mean", or "drop" for the row. A missing or other category is a feature of its own. unit is a note.
[columns]
"""
_MODEL = """
# The algorithm decides the model. To choose another:
# [model]
# kind = "network"  # or linear, random-features, trees
# hidden = [16]
"""


def text_of(proposal: Proposal, name: str, sources: Sequence[str]) -> str:
    """Return the text of the file NAME.toml for a proposal from these tables."""
    target = proposal.target
    header = _HEADER.format(
        sources=printable(", ".join(sources)), name=name, algorithm=DEFAULT_ALGORITHM, holdout=HOLDOUT
    )
    lines = [f"name = {_string(target.name)}", f'kind = "{target.kind}"  # class, number or count{_why(proposal)}']
    if target.kind == "class":
        lines.append(f"classes = {_list(target.classes)}")
    if target.scale != 1.0:
        lines.append(f"scale = {target.scale:g}  # errors are counted in this unit")
    if target.kind != "class":
        lines.append('unit = ""')
    lines.append('missing = "drop"  # rows without a target; or "refuse" them')
    columns = [f"{_key(one.name)} = {_inline(one.column)}{_comment(one.why)}" for one in proposal.columns]
    return header + "\n".join(lines) + "\n" + _KINDS + "\n".join(columns) + "\n" + _MODEL


def _why(proposal: Proposal) -> str:
    return f"; {printable(proposal.target_why)}" if proposal.target_why else ""


def _inline(column: FileColumn) -> str:
    fields = [f'kind = "{column.kind}"']
    if column.categories:
        fields.append(f"categories = {_list(column.categories)}")
    if column.kind in ("number", "date", "boolean"):
        fields.append(f'missing = "{column.missing}"')
    if column.missing_cells:
        fields.append(f"missing_cells = {_list(column.missing_cells)}")
    if column.kind == "date":
        fields.append(f'form = "{column.form}"')
    if column.strip:
        fields.append(f"strip = {_string(column.strip)}")
    if column.kind == "number":
        fields.append('unit = ""')
    return f"{{ {', '.join(fields)} }}"


def _comment(why: str) -> str:
    return f"  # {printable(why)}" if why else ""


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _string(name)


def _list(labels: Sequence[str]) -> str:
    return f"[{', '.join(map(_string, labels))}]"


def _string(text: str) -> str:
    """Return a basic string of TOML, whose escapes are those of JSON but for one character."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
