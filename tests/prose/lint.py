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
SUFFIXES = {".md", ".py", ".css", ".html", ".js", ".service", ".sh", ".target", ".toml", ".yaml", ".yml", ""}
SKIPPED = re.compile(r"\.min\.|(^|/)LICENSE$|words\.toml$")

CODE = re.compile(r"```.*?```|``[^`]+``|`[^`\n]+`|\{[^{}\n]*\}|<!--.*?-->", flags=re.DOTALL)
TARGET = re.compile(r"\]\([^)]*\)|https?://\S+")  # of a link
STARTS = re.compile(r" *(?:[-*] |\d+\. |[|#>])")  # an item, a row, a heading, a quotation
ENDS = re.compile(r"(?<=[.!?:;])[)*\"]*(?: |$)")  # a sentence
COMMENT = r"(?:(?<![\w:\"'])(?:#|//)|^ *\*|/\*|<!--)\s.*"
TEXT = r"\"[^\"]* [^\"]*\"|`[^`]* [^`]*`|>[^<>]* [^<>]*<"  # a string or an element with a space
NOTES = re.compile(f"{COMMENT}|{TEXT}")
STRINGS = {tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}  # since 3.12 f-strings have parts
Line = tuple[int, str]


def blank(text: str) -> str:
    """Return the text without its code, with every line in its place."""
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
    """Yield the comments and texts of scripts, pages of a browser, settings and units."""
    for line, content in enumerate(text.splitlines(), start=1):
        yield line, " ".join(note.group() for note in NOTES.finditer(content))


def lines_of(path: Path, text: str) -> list[Line]:
    match path.suffix:
        case ".md":
            return list(lines_of_page(text))
        case ".py":
            return list(lines_of_python(text, "tests" in path.parts))
        case _:
            return list(lines_of_other(text))


def sentences(page: str) -> Iterator[Line]:
    """Yield each sentence of a page with its line. A colon or semicolon ends one; tables and headings have none."""
    sentence, start = "", 1
    for line, content in [*lines_of_page(page), (0, "")]:
        if not content.strip() or content.startswith("    ") or STARTS.match(content):  # four spaces begin code
            yield start, sentence
            sentence = ""
        if content.startswith("    ") or (STARTS.match(content) and content.lstrip()[0] in "|#>"):
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
    lines = lines_of(path, text)
    for level in ("error", "warning") if warn else ("error",):
        for kind, table in RULES[level].items():
            for words, use in table.items():
                pattern = re.compile(rf"\b(?:{words})\b", re.IGNORECASE)
                for line, content in lines:
                    for found in pattern.finditer(content):
                        yield f"{shown}:{line}: {kind}: {found[0]!r}: use {use}"
    for line, sentence in sentences(text) if path.suffix == ".md" else ():
        count = len(re.findall(r"[^\W_][\w'’-]*", sentence))
        if count > SENTENCE_WORDS_MAX:
            yield f"{shown}:{line}: long-sentence: {count} words: use at most {SENTENCE_WORDS_MAX}"
    for line, content in lines if path.suffix == ".py" else ():
        if content.startswith("test ") and len(content) > NAME_CHARACTERS_MAX:
            yield f"{shown}:{line}: long-name: {len(content)} characters: use at most {NAME_CHARACTERS_MAX}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("paths", nargs="*", type=Path, help="files or folders; without any, all that git knows")
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
