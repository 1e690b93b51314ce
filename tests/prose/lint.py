"""Check the prose of this repository: pages, docstrings, comments, messages and the names of tests.

`python tests/prose/lint.py [PATH ...]` prints one line for each finding, `file:line: kind: words: use ...`, and exits
with 1 if there are any. `--warn` adds findings that need judgment. The rules are in `words.toml`; code is skipped.
"""

from __future__ import annotations

import argparse
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
RULES = tomllib.loads((Path(__file__).with_name("words.toml")).read_text(encoding="utf-8"))
SENTENCE_WORDS_MAX = 25
NAME_CHARACTERS_MAX = 80
CODE = re.compile(r"```.*?```|``[^`]+``|`[^`\n]+`|\{[^{}\n]*\}|<!--.*?-->", flags=re.DOTALL)
STARTS = re.compile(r" *(?:[-*] |\d+\. |[|#>])")  # an item, a row, a heading, a quotation
ENDS = re.compile(r"(?<=[.!?:;])[)*\"]*(?: |$)")
NOTES = re.compile(r"(?:(?<![\w:\"'])(?:#|//)|^ *\*|/\*|<!--)\s.*|\"[^\"]* [^\"]*\"|`[^`]* [^`]*`|>[^<>]* [^<>]*<")
SUFFIXES = {".md", ".py", ".css", ".html", ".js", ".service", ".sh", ".target", ".toml", ".yaml", ".yml", ""}
SKIPPED = re.compile(r"\.min\.|(^|/)LICENSE$|words\.toml$")
TARGET = re.compile(r"\]\([^)]*\)|https?://\S+")
STRINGS = {
    tokenize.STRING,
    getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING),
}  # from Python 3.12 on, f-strings have parts
Line = tuple[int, str]


def blank(text: str) -> str:
    """Return the text with its code spans emptied and every line kept in its place."""
    return CODE.sub(lambda span: "`_`" + "\n" * span[0].count("\n"), text)


def lines_of_page(text: str) -> Iterator[Line]:
    yield from enumerate(TARGET.sub("]", blank(text)).splitlines(), start=1)


def lines_of_python(text: str, is_test: bool) -> Iterator[Line]:
    """Yield docstrings, comments and the names of tests; of the product also every string of three words or more."""
    before = tokenize.NEWLINE
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_docstring = token.type == tokenize.STRING and before in {tokenize.NEWLINE, tokenize.INDENT}
        is_message = not is_test and token.type in STRINGS and token.string.count(" ") >= 2
        if token.type == tokenize.COMMENT or is_docstring or is_message:
            yield from enumerate(blank(token.string).splitlines(), start=token.start[0])
        if token.type == tokenize.NAME and token.string.startswith("test_"):
            yield token.start[0], token.string.replace("_", " ")
        if token.type not in {tokenize.NL, tokenize.COMMENT, tokenize.DEDENT}:
            before = token.type


def lines_of_other(text: str) -> Iterator[Line]:
    """Yield the comments of scripts, settings and units, and the strings of scripts that have a space."""
    for line, content in enumerate(text.splitlines(), start=1):
        yield line, " ".join(part.group() for part in NOTES.finditer(content))


def sentences(page: str) -> Iterator[Line]:
    """Yield each sentence of a page with its line. A colon or semicolon ends one; tables and headings have none."""
    sentence, start = "", 1
    for line, content in [*lines_of_page(page), (0, "")]:
        if not content.strip() or STARTS.match(content):
            yield start, sentence
            sentence = ""
        if STARTS.match(content) and content.lstrip()[0] in "|#>":
            continue
        *ended, rest = ENDS.split(content)
        for part in ended:
            yield (start if sentence else line), f"{sentence} {part}"
            sentence = ""
        start = start if sentence else line
        sentence = f"{sentence} {rest}".strip()


def findings_of(path: Path, warn: bool) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    is_page = path.suffix == ".md"
    if is_page:
        lines = list(lines_of_page(text))
    elif path.suffix == ".py":
        lines = list(lines_of_python(text, "tests" in path.parts))
    else:
        lines = list(lines_of_other(text))
    levels = ("error", "warning") if warn else ("error",)
    for kind, words, use in (
        (kind, re.compile(rf"\b(?:{words})\b", re.IGNORECASE), use)
        for level in levels
        for kind, table in RULES[level].items()
        for words, use in table.items()
    ):
        for line, content in lines:
            yield from (f"{shown}:{line}: {kind}: {found[0]!r}: use {use}" for found in words.finditer(content))
    if is_page:
        for line, sentence in sentences(text):
            count = len(re.findall(r"[^\W_][\w'’-]*", sentence))
            if count > SENTENCE_WORDS_MAX:
                yield f"{shown}:{line}: long-sentence: {count} words: use at most {SENTENCE_WORDS_MAX}"
    else:
        for line, content in lines:
            if content.startswith("test ") and len(content) > NAME_CHARACTERS_MAX:
                yield f"{shown}:{line}: long-name: {len(content)} characters: use at most {NAME_CHARACTERS_MAX}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help="files or folders; all that git knows, if there are none")
    parser.add_argument("--warn", action="store_true", help="also report what needs a person's judgment")
    options = parser.parse_args()
    command = ["git", "-C", ROOT, "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    wanted = [path.resolve() for path in options.paths] or [ROOT]
    known = [ROOT / name for name in listed if Path(name).suffix in SUFFIXES and not SKIPPED.search(name)]
    chosen = [path for path in known if path.is_file() and any(path.is_relative_to(one) for one in wanted)]
    found = [finding for path in chosen for finding in findings_of(path, options.warn)]
    print("\n".join([*found, f"{len(found)} findings in {len(chosen)} files"]))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
