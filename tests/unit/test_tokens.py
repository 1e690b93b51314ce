"""Tokens: the line contains everything that a new machine needs, and damage to it is detected."""

from __future__ import annotations

import string
from pathlib import Path

import pytest

from fedmq.errors import BadConfiguration
from fedmq.security.keys import transport_public
from fedmq.security.membership import issue_token, make_federation
from fedmq.security.tokens import (
    LINE_CHARACTERS_MAX,
    IssuedTokens,
    decode_token,
    issued_token_path,
    read_issued_tokens,
)

NOW = 1_000_000.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make_federation(tmp_path / "keys", "tcp://192.0.2.1:5550")
    return tmp_path / "keys"


@pytest.fixture
def line(folder: Path) -> str:
    return issue_token(folder, int(NOW) + 60, "alice", NOW)


def test_token_contains_the_federation_and_the_expiry(tmp_path: Path) -> None:
    federation = make_federation(tmp_path, "tcp://192.0.2.1:5550")

    token = decode_token(issue_token(tmp_path, int(NOW) + 60, None, NOW))

    assert token.federation == federation
    assert (token.expires, token.name) == (int(NOW) + 60, None)


def test_token_is_one_word_of_less_than_300_characters(line: str) -> None:
    assert set(line) <= set(string.ascii_letters + string.digits + "-_")
    assert len(line) < 300


def refused(damaged: str) -> None:
    with pytest.raises(BadConfiguration, match="fedmq1-") as caught:
        decode_token(damaged)
    assert "\n" not in str(caught.value)


def test_each_changed_character_of_a_token_is_detected(line: str) -> None:
    for place, letter in enumerate(line):
        for other in {"A", "_", chr(ord(letter) ^ 1)} - {letter}:
            refused(line[:place] + other + line[place + 1 :])


def test_each_incomplete_token_is_detected(line: str) -> None:
    for place in range(len(line)):
        refused(line[:place])
        refused(line[place + 1 :])
        refused(line[:place] + line[place + 1 :])


@pytest.mark.parametrize(
    "damaged",
    ["", "-", "fedmq1-", "fedmq1-====", "fedmq1-AAAAAAAA", "é", "fedmq1-" + "A" * LINE_CHARACTERS_MAX],
)
def test_line_that_is_not_a_token_is_refused(damaged: str) -> None:
    refused(damaged)


def test_white_space_around_a_token_is_ignored(line: str) -> None:
    assert decode_token(f" {line}\n") == decode_token(line)


def test_folder_of_keys_does_not_contain_the_secret_of_a_token(folder: Path, line: str) -> None:
    token = decode_token(line)
    kept = b"".join(path.read_bytes() + path.name.encode() for path in (folder / "tokens").iterdir())

    assert token.secret.hex().encode() not in kept
    assert line.encode() not in kept
    assert list(read_issued_tokens(folder)) == [transport_public(token.secret)]
    assert token.secret.hex() not in repr(token)
    assert repr(token.secret) not in repr(token)


def test_tokens_are_refreshed_after_the_refresh_interval(folder: Path) -> None:
    tokens = IssuedTokens(folder)
    key = transport_public(decode_token(issue_token(folder, int(NOW) + 60, None, NOW)).secret)
    assert key not in tokens.by_key

    assert tokens.refresh(0.25) == set()
    assert tokens.by_key[key].expires == int(NOW) + 60
    issued_token_path(folder, key).unlink()
    assert tokens.refresh(0.3) == set()
    assert tokens.refresh(0.5) == {key}
    assert key not in tokens.by_key


def test_files_that_are_not_token_records_are_ignored(folder: Path) -> None:
    (folder / "tokens" / "zz.json").write_text("{}")
    (folder / "tokens" / f"{bytes(32).hex()}.json").write_text('{"expires": "soon"}')

    tokens = IssuedTokens(folder)

    assert not tokens.by_key
    assert read_issued_tokens(folder) == {}
