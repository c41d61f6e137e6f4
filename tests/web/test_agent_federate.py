"""What the agent's own listener adds: /federate."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from telemeter.samples.family import Family
from telemeter.web.agent_federate import federate_route
from telemeter.web.site.routing import make_site
from telemeter.web.site.site import Site
from tests.fakes import NOW_MS, ask, parse_samples, untyped


@pytest.fixture
def last() -> list[Family]:
    return []


@pytest.fixture
def site(clock: Clock, last: list[Family]) -> Site:
    return make_site([federate_route(lambda: last)], clock)


def test_federate_shows_what_was_sent_last_as_text(site: Site, last: list[Family]) -> None:
    last += [untyped("up", ({"_id": "c", "job": 'a"b'}, 1.5)), untyped("down", ({}, 2))]
    answer = ask(site, "GET", "/federate")
    assert answer.status == 200
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert parse_samples(answer.text) == {
        ("up", frozenset({("_id", "c"), ("job", 'a"b')})): 1.5,
        ("down", frozenset()): 2.0,
    }
    assert str(NOW_MS) in answer.text


def test_federate_escapes_names_that_the_text_format_has_not(
    site: Site, last: list[Family]
) -> None:
    last += [
        untyped("a.b", ({"l.x": "1"}, 1), ({"l_x": "2"}, 2), ({"l.x": "1", "l_x": "1"}, 3)),
        untyped("a_b", ({"l_x": "2"}, 4)),
        untyped("été", ({"1": "é"}, 5)),
    ]
    assert parse_samples(ask(site, "GET", "/federate").text) == {
        ("a_b", frozenset({("l_x", "1")})): 1,
        ("a_b", frozenset({("l_x", "2")})): 4,
        ("_t_", frozenset({("_", "é")})): 5,
    }


def test_federate_is_empty_at_first(site: Site) -> None:
    answer = ask(site, "GET", "/federate")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_federate_takes_get_only(site: Site, method: str) -> None:
    answer = ask(site, method, "/federate")
    assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")
