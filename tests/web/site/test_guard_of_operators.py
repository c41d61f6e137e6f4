"""The guard of a listener for operators."""

from __future__ import annotations

import pytest
from twisted.internet.task import Clock

from telemeter.web.health import Health, index_route, metrics_route
from telemeter.web.settings import OperatorSettings
from telemeter.web.site.guard import Guard, MachineNames
from telemeter.web.site.routing import Route, make_site
from telemeter.web.site.site import Site
from tests.fakes import Wire

OURS = [
    *("localhost", "LocalHost:9004", "localhost.", "127.0.0.1", "127.0.0.1:9004", "10.1.2.3:1"),
    *("[::1]", "[::1]:9004", "[fe80::1%eth0]:9004", "", "machine", "machine.example.com:9004"),
    *("given.example.com", "GIVEN.example.com:80"),
]
FOREIGN = [
    *("evil.test", "evil.test:9004", "localhost.evil.test", "127.0.0.1.evil.test", "x"),
    *("machine.evil.test", "1.2.3", "[evil]:1", "given.example.com.evil.test", "127.0.0.1@evil"),
    *("[::1]evil.test", "[::1]@evil.test", "[::1]:80@evil.test", "[]", "[]evil.test"),
]


def site_with(clock: Clock, token: str = "") -> Site:
    guard = Guard(
        OperatorSettings(frozenset({"given.example.com"}), token),
        lambda: ("machine", "machine.example.com"),
    )
    routes = [
        index_route([]),
        metrics_route(),
        *Health().routes(),
        Route("/-/reload", lambda _: b"done", ("POST",)),
    ]
    return make_site(routes, clock, guard=guard)


def ask(site: Site, method: str, path: str, host: str | None = "localhost", **more: str) -> int:
    lines = [f"{method} {path} HTTP/1.{0 if host is None else 1}"]
    if host is not None:
        lines.append(f"Host: {host}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
    wire = Wire(site)
    wire.send("\r\n".join([*lines, "", ""]).encode("latin-1"))
    answer = wire.answer
    wire.close()
    if answer.status == 403 and "Host" in answer.text:
        assert "--internal-host" in answer.text
    return answer.status


@pytest.mark.parametrize("host", OURS)
def test_its_own_names_are_answered(clock: Clock, host: str) -> None:
    site = site_with(clock)
    assert ask(site, "GET", "/", host) == 200
    assert ask(site, "POST", "/-/reload", host) == 200


@pytest.mark.parametrize("host", FOREIGN)
def test_other_names_are_not(clock: Clock, host: str) -> None:
    site = site_with(clock)
    assert ask(site, "GET", "/", host) == 403
    assert ask(site, "POST", "/-/reload", host) == 403


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/healthz/ready"])
def test_scrapes_and_probes_go_by_any_name(clock: Clock, path: str) -> None:
    assert ask(site_with(clock), "GET", path, "telemeter-server.monitoring.svc:9004") == 200


def test_an_old_probe_names_no_host(clock: Clock) -> None:
    assert ask(site_with(clock), "GET", "/", None) == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost:9004"}, 200),
        ({"Origin": "http://localhost:9004", "Sec_Fetch_Site": "same-origin"}, 200),
        ({"Sec_Fetch_Site": "none"}, 200),
        ({"Origin": "https://evil.test"}, 403),
        ({"Origin": "http://localhost:8080"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://[evil"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "Cross-Site"}, 403),
    ],
)
def test_no_other_site_changes_anything(clock: Clock, headers: dict[str, str], status: int) -> None:
    site = site_with(clock)
    assert ask(site, "POST", "/-/reload", "localhost:9004", **headers) == status
    assert ask(site, "GET", "/", "localhost:9004", **headers) == 200


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer s3cret", 200),
        ("bearer   s3cret", 200),
        ("Bearer s3cre", 401),
        ("Bearer s3cret2", 401),
        ("Basic s3cret", 401),
        ("Bearer", 401),
        ("", 401),
        ("Bearer \xfc", 401),
    ],
)
def test_a_token_may_be_asked_for(clock: Clock, authorization: str, status: int) -> None:
    site = site_with(clock, "s3cret")
    headers = {"Authorization": authorization} if authorization else {}
    for method, path in (("GET", "/"), ("GET", "/metrics"), ("POST", "/-/reload")):
        assert ask(site, method, path, **headers) == status
    for path in ("/healthz", "/healthz/ready"):
        assert ask(site, "GET", path, **headers) == 200


def test_the_machine_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.gethostname", lambda: "Machine")
    assert "machine" in MachineNames()()
