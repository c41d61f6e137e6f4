"""/debug/..."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from telemeter.web.debug import debug_routes
from telemeter.web.site.routing import make_site
from telemeter.web.site.site import Site
from tests.fakes import Wire, ask, request_of


@pytest.fixture
def site(clock: Clock) -> Site:
    return make_site(debug_routes(clock), clock)


def test_the_index_names_the_pages(site: Site) -> None:
    answer = ask(site, "GET", "/debug/")
    assert answer.status == 200
    for line in answer.text.splitlines():
        assert line.startswith("/debug/")


def test_stacks_show_this_function(site: Site) -> None:
    answer = ask(site, "GET", "/debug/stacks")
    assert "MainThread" in answer.text
    assert "test_stacks_show_this_function" in answer.text


def test_a_profile_takes_the_time_that_was_asked_for(site: Site, clock: Clock) -> None:
    wire = Wire(site)
    wire.send(request_of("GET", "/debug/profile?seconds=2.5"))
    clock.advance(2.4)
    assert wire.written == b""
    clock.advance(0.1)
    assert wire.answer.status == 200
    assert "cumtime" in wire.answer.text


def test_a_profile_takes_5_seconds_if_nobody_says(site: Site, clock: Clock) -> None:
    wire = Wire(site)
    wire.send(request_of("GET", "/debug/profile"))
    clock.advance(4.9)
    assert wire.written == b""
    clock.advance(0.1)
    assert wire.answer.status == 200


def test_one_profile_at_a_time(site: Site, clock: Clock) -> None:
    wire = Wire(site)
    wire.send(request_of("GET", "/debug/profile"))
    assert ask(site, "GET", "/debug/profile").status == 409
    clock.advance(5)
    assert wire.answer.status == 200
    wire.send(request_of("GET", "/debug/profile"))
    clock.advance(5)
    assert [answer.status for answer in wire.answers] == [200, 200]


def test_a_profile_ends_when_nobody_waits_for_it(site: Site, clock: Clock) -> None:
    wire = Wire(site)
    wire.send(request_of("GET", "/debug/profile"))
    wire.vanish()
    again = Wire(site)
    again.send(request_of("GET", "/debug/profile"))
    clock.advance(5)
    assert again.answer.status == 200


@pytest.mark.parametrize("seconds", ["0", "-1", "61", "nan", "inf", "x", "1s"])
def test_a_profile_needs_a_time(site: Site, seconds: str) -> None:
    answer = ask(site, "GET", f"/debug/profile?seconds={seconds}")
    assert answer.status == 400
    assert "60" in answer.text


@pytest.mark.parametrize("target", ["/debug", "/debug/pprof/", "/debug/stacks/"])
def test_nothing_else_is_there(site: Site, target: str) -> None:
    assert ask(site, "GET", target).status == 404


@pytest.mark.parametrize("target", ["/debug/", "/debug/stacks", "/debug/profile"])
def test_it_is_for_reading(site: Site, target: str) -> None:
    assert ask(site, "POST", target).status == 405
