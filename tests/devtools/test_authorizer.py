"""The stub authorization server: docs/protocol.md, "Authorization server"."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest
from twisted.internet.task import Clock

from telemeter.devtools.authorizer import StubAuthorizer
from telemeter.web.site.routing import make_site
from telemeter.web.site.site import Site
from tests.fakes import Answer, ask

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def site(clock: Clock) -> Site:
    return make_site([StubAuthorizer(["a", "b"]).route()], clock)


def question(cluster: object = "test", token: object = "a", **more: object) -> bytes:
    return json.dumps({"cluster_id": cluster, "authorization_token": token, **more}).encode()


def assert_error(answer: Answer, status: int, name: str) -> None:
    assert answer.status == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json.keys() == {"name", "reason"}
    assert answer.json["name"] == name
    assert answer.json["reason"]


@pytest.mark.parametrize("target", ["/", "/tb", "/any/where?x=y", "/authorize", "//x"])
def test_a_known_token_is_new_and_then_known(site: Site, target: str) -> None:
    for status in (201, 200, 200):
        answer = ask(site, "POST", target, JSON, question())
        assert answer.status == status
        assert answer.headers["content-type"] == "application/json"
        assert answer.json == {
            "cluster_id": "test",
            "authorization_token": "a",
            "account_id": "fjpn6tscnoap5",
        }
        # The FNV-1a of "test", as other libraries have it.
        assert int(answer.json["account_id"], 32) == 0xF9E6E6EF197C2B25


def test_every_pair_of_cluster_and_token_is_new_once(site: Site) -> None:
    pairs = [("x", "a"), ("x", "b"), ("y", "a"), ("x", "a")]
    statuses = [
        ask(site, "POST", "/", JSON, question(cluster, token)).status for cluster, token in pairs
    ]
    assert statuses == [201, 201, 201, 200]


def test_what_the_original_server_asks_is_understood(site: Site) -> None:
    assert ask(site, "POST", "/", JSON, question(account_id="")).status == 201


@pytest.mark.parametrize("token", ["c", "", "A", "a ", "\u00fc"])
def test_an_unknown_token_is_401(site: Site, token: str) -> None:
    assert_error(ask(site, "POST", "/", JSON, question(token=token)), 401, "NotAuthorized")


def test_no_token_is_401(site: Site) -> None:
    assert_error(ask(site, "POST", "/", JSON, b'{"cluster_id": "x"}'), 401, "NotAuthorized")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_another_method_is_405(site: Site, method: str) -> None:
    assert_error(ask(site, method, "/", JSON, question()), 405, "MethodNotAllowed")


@pytest.mark.parametrize("headers", [{}, {"Content-Type": "text/plain"}, {"Content-Type": ""}])
def test_another_content_type_is_400(site: Site, headers: Mapping[str, str]) -> None:
    assert_error(ask(site, "POST", "/", headers, question()), 400, "InvalidContentType")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"nonsense",
        b"\xff",
        b"[]",
        b'"text"',
        b"null",
        b"7",
        b"[" * 20_000,
        question(cluster=7),
        question(cluster=None),
        question(cluster="\ud800"),
        question(token="\ud800"),
        question(token=["a"]),
        question(token={"a": "b"}),
    ],
)
def test_a_wrong_body_is_400(site: Site, body: bytes) -> None:
    answer = ask(site, "POST", "/", JSON, body)
    assert_error(answer, 400, "InvalidBody")
    assert "object has no attribute" not in answer.text


@pytest.mark.parametrize("body", [b"{}", question(cluster=""), b'{"authorization_token": "a"}'])
def test_no_cluster_is_400(site: Site, body: bytes) -> None:
    assert_error(ask(site, "POST", "/", JSON, body), 400, "BadRequest")


def test_a_huge_question_is_refused(site: Site) -> None:
    answer = ask(site, "POST", "/", JSON, question("x" * 40_000))
    assert answer.status == 413
    assert "bytes (fixed), this has 4" in answer.text


def test_no_body_at_all_is_400(site: Site) -> None:
    assert_error(ask(site, "POST", "/", JSON), 400, "InvalidBody")
