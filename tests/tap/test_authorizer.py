"""telemeter-authorizer: its flags and its listener."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from telemeter.tap.authorizer import Options, makeService
from tests.fakes import Log, ask, has_fired
from tests.tap.world import FakeReactor, started

JSON = {"Content-Type": "application/json"}
GOOD = b'[{"token": "a"}, {"token": "b", "more": 1}]'


def options_of(*flags: str) -> Options:
    options = Options()
    options.parseOptions(list(flags))
    return options


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.json"
    path.write_bytes(GOOD)
    return path


def test_the_flags(tokens: Path) -> None:
    for flags in (["--tokens", str(tokens)], [str(tokens)]):
        options = options_of(*flags)
        assert options.config.tokens == ("a", "b")
        assert options["listen"] == "localhost:9001"
    options = options_of("localhost:8083", str(tokens))
    assert (options.config.tokens, options.config.listen) == (("a", "b"), "localhost:8083")


def test_it_answers(tokens: Path) -> None:
    reactor = FakeReactor()
    daemon = started(makeService(options_of("--listen", "127.0.0.1:7", str(tokens)), reactor))
    site = reactor.site(7)
    for token, status in (("a", 201), ("a", 200), ("c", 401)):
        body = json.dumps({"cluster_id": "x", "authorization_token": token}).encode()
        assert ask(site, "POST", "/", JSON, body).status == status
    assert ask(site, "GET", "/").status == 405
    assert has_fired(daemon.stopService())


def test_no_token_is_logged(tokens: Path, log: Log) -> None:
    tokens.write_text('[{"token": "secret"}]')
    reactor = FakeReactor()
    started(makeService(options_of(str(tokens)), reactor))
    body = b'{"cluster_id": "x", "authorization_token": "secret"}'
    assert ask(reactor.site(9001), "POST", "/", JSON, body).status == 201
    (event,) = log.of("starting telemeter-authorizer")
    assert event["tokens"] == 1
    assert "secret" not in "".join(log.lines)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"nonsense",
        b"\xff",
        b"{}7",
        b"{}",
        b'""',
        b'{"token": "a"}',
        b'["a"]',
        b'[{"Token": "a"}]',
        b'[{"token": ""}]',
        b'[{"token": 7}]',
        b'[{"token": null}]',
        b"7",
        b"null",
        b"[" * 100_000,
    ],
    ids=lambda content: repr(content)[:20],
)
def test_a_file_without_tokens(tokens: Path, content: bytes) -> None:
    tokens.write_bytes(content)
    with pytest.raises(SystemExit) as caught:
        options_of("--tokens", str(tokens))
    message = str(caught.value)
    assert message.startswith(f"telemeter-authorizer: --tokens {str(tokens)!r}: expected JSON")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        ([], "--tokens is required"),
        (["--tokens", ""], "--tokens is required"),
        (["missing"], "--tokens 'missing': expected a readable file"),
        (["one", "two"], "--listen 'one': expected HOST:PORT"),
        (["one", "two", "three"], "expected HOST:PORT and one FILE with tokens, saw one two three"),
        (["--listen", "nowhere", "x"], "--listen 'nowhere': expected HOST:PORT"),
        (["--log-level", "loud", "x"], "--log-level 'loud'"),
    ],
)
def test_a_bad_configuration_is_refused_in_one_line(flags: list[str], word: str) -> None:
    with pytest.raises(SystemExit) as caught:
        options_of(*flags)
    assert str(caught.value).startswith("telemeter-authorizer: ")
    assert word in str(caught.value)


def test_an_empty_list_of_tokens_knows_nobody(tokens: Path) -> None:
    tokens.write_bytes(b"[]")
    assert options_of(str(tokens)).config.tokens == ()
