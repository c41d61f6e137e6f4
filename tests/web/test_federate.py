"""GET /federate of the embedded store."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from urllib.parse import quote

import pytest
from twisted.internet.task import Clock

from telemeter.samples.family import decode_families
from telemeter.store.store import Store
from telemeter.web.federate import federate_route
from telemeter.web.site.routing import Route, make_site
from telemeter.web.site.site import Site
from telemeter.web.site.stream import Stream
from tests.fakes import NOW_MS, Answer, Log, Wire, ask, parse_answers, request_of
from tests.store.stored import labels_of, lines, settle, written

PROTOBUF = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily"
DELIMITED = f"{PROTOBUF};encoding=delimited"
PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)
MANY = 20_000
TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@pytest.fixture
def store(clock: Clock) -> Store:
    return Store(clock, 600, 4 * MANY)  # of which one cluster may have a quarter


@pytest.fixture
def site(store: Store, clock: Clock) -> Site:
    return make_site([federate_route(store, clock)], clock)


def fill(store: Store, clock: Clock, number: int = 1) -> None:
    samples = {labels_of("up", _id="c", n=f"{at:06}"): (1.0, NOW_MS) for at in range(number)}
    settle(store.forward("c", written(samples), number), clock)


def federate(site: Site, *match: str, accept: str = "", method: str = "GET") -> Answer:
    query = "&".join(f"match[]={quote(text)}" for text in match)
    return ask(site, method, f"/federate?{query}", {"Accept": accept} if accept else {})


LINE = f'up{{_id="c",n="000000",instance=""}} 1 {NOW_MS}'


def test_what_is_there(store: Store, clock: Clock, site: Site) -> None:
    fill(store, clock)
    answer = federate(site, "up", '{__name__="up"}')
    assert answer.status == 200
    assert answer.headers["content-type"] == TEXT_TYPE
    assert answer.headers["vary"] == "Accept, Accept-Encoding"
    assert answer.text == f"# TYPE up untyped\n{LINE}\n"


def test_nothing_asked_for_is_nothing(store: Store, clock: Clock, site: Site) -> None:
    fill(store, clock)
    for answer in (federate(site), federate(site, "down"), ask(site, "GET", "/federate?match=up")):
        assert (answer.status, answer.text) == (200, "")


@pytest.mark.parametrize("match", ["", "{", "up[1m]", "rate(up[1m])", '{a=~"("}', "up offset 1m"])
def test_what_is_no_selector_is_refused(match: str, site: Site) -> None:
    answer = federate(site, "up", match)
    assert answer.status == 400
    assert answer.text.startswith("match[]: ")


def test_a_selector_that_is_not_utf8(site: Site) -> None:
    answer = ask(site, "GET", "/federate?match[]=%ff")
    assert (answer.status, answer.text) == (400, "match[]: expected UTF-8\n")


def test_other_methods(store: Store, clock: Clock, site: Site) -> None:
    fill(store, clock)
    assert federate(site, "up", method="POST").status == 405
    answer = federate(site, "up", method="HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.headers["content-type"] == TEXT_TYPE
    assert "content-length" not in answer.headers


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", TEXT_TYPE),
        ("*/*", TEXT_TYPE),
        ("text/html", TEXT_TYPE),
        ("text/plain;version=0.0.4", TEXT_TYPE),
        ("text/plain;version=1.0.0", TEXT_TYPE),
        (DELIMITED, f"{DELIMITED}".replace(";", "; ")),
        (f"{DELIMITED};escaping=allow-utf-8",
         f"{DELIMITED};escaping=allow-utf-8".replace(";", "; ")),
        *((f"{DELIMITED};escaping={name}", f"{DELIMITED};escaping={name}".replace(";", "; "))
          for name in ("underscores", "dots", "values")),
        (f"{DELIMITED};escaping=none", f"{DELIMITED}".replace(";", "; ")),
        ("text/plain;version=0.0.4;escaping=dots", f"{TEXT_TYPE}; escaping=dots"),
        ("text/plain;escaping=allow-utf-8", f"{TEXT_TYPE}; escaping=allow-utf-8"),
        ("text/plain;version=1.0.0;escaping=values",
         "text/plain; version=1.0.0; charset=utf-8; escaping=values"),
        (f"{DELIMITED};q=0", TEXT_TYPE),
        (f"{DELIMITED};q=much", TEXT_TYPE),
        (f"{DELIMITED};q=0.1,text/plain", TEXT_TYPE),
        (f"text/plain;q=0.5,{DELIMITED};q=0.7", f"{DELIMITED}".replace(";", "; ")),
        (f"{PROTOBUF};encoding=text", TEXT_TYPE),
        (PROMETHEUS_2, "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        (PROMETHEUS_3, "text/plain; version=1.0.0; charset=utf-8; escaping=allow-utf-8"),
        ("application/openmetrics-text",
         "application/openmetrics-text; version=0.0.1; charset=utf-8"),
        ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8",
         "application/openmetrics-text; version=1.0.0; charset=utf-8; escaping=allow-utf-8"),
        ("application/openmetrics-text;version=7", TEXT_TYPE),
    ],
)  # fmt: skip
def test_the_format_is_the_readers_choice(
    accept: str, content_type: str, store: Store, clock: Clock, site: Site
) -> None:
    fill(store, clock)
    answer = federate(site, "up", accept=accept)
    assert answer.headers["content-type"] == content_type
    assert answer.body.endswith(b"# EOF\n") == ("openmetrics" in content_type)
    if "protobuf" in content_type:
        (family,) = decode_families(answer.body)
        assert family.name == "up"
    else:
        assert len(lines(answer.body)) == 1


@pytest.mark.parametrize("coding", ["gzip", "deflate, GZIP;q=0.5"])
def test_gzip(coding: str, store: Store, clock: Clock, site: Site) -> None:
    fill(store, clock, MANY)
    plain = whole(site, clock, {})
    answer = whole(site, clock, {"Accept-Encoding": coding})
    assert answer.headers["content-encoding"] == "gzip"
    assert gzip.decompress(answer.body) == plain.body
    assert len(lines(plain.body)) == MANY


@pytest.mark.parametrize("coding", ["", "deflate", "gzip;q=0"])
def test_no_gzip(coding: str, store: Store, clock: Clock, site: Site) -> None:
    fill(store, clock)
    answer = ask(site, "GET", "/federate?match[]=up", {"Accept-Encoding": coding})
    assert "content-encoding" not in answer.headers
    assert lines(answer.body) == [LINE]


# --- A piece at a time ----------------------------------------------------------------------------


def asked(site: Site, headers: dict[str, str | bytes] | None = None) -> Wire:
    wire = Wire(site)
    wire.deliver(request_of("GET", "/federate?match[]=up", headers))
    return wire


def whole(site: Site, clock: Clock, headers: dict[str, str | bytes]) -> Answer:
    wire = asked(site, headers)
    clock.advance(0)
    (answer,) = parse_answers(wire.written)
    wire.close()
    return answer


def gone(wire: Wire) -> bool:
    """Whether the connection was closed."""
    return bool(wire.transport.disconnected)


def test_others_get_their_turn(store: Store, clock: Clock, site: Site) -> None:
    fill(store, clock, MANY)
    wire = asked(site)
    assert 60_000 < len(wire.written) < 140_000
    clock.advance(0)
    assert len(wire.written) > 1_000_000
    assert wire.answer.status == 200
    wire.close()
    assert not clock.getDelayedCalls()


def test_a_slow_reader_is_waited_for(store: Store, clock: Clock, site: Site) -> None:
    fill(store, clock, MANY)
    wire = asked(site)
    producer = wire.transport.producer
    assert producer is not None
    for _ in range(3):
        producer.pauseProducing()
        before = len(wire.written)
        clock.advance(50)
        assert len(wire.written) == before
        producer.resumeProducing()
    clock.advance(0)
    assert len(lines(wire.answer.body)) == MANY
    wire.close()
    assert not clock.getDelayedCalls()


def test_a_reader_that_takes_nothing_is_hung_up_on(
    store: Store, clock: Clock, site: Site, log: Log
) -> None:
    fill(store, clock, MANY)
    wire = asked(site)
    assert wire.transport.producer is not None
    wire.transport.producer.pauseProducing()
    clock.advance(59.9)
    assert not gone(wire)
    clock.advance(0.1)
    assert gone(wire)
    assert log.of("a reader took nothing and was hung up on")


def test_a_reader_that_goes_away_ends_the_work(store: Store, clock: Clock, site: Site) -> None:
    fill(store, clock, MANY)
    wire = asked(site)
    assert clock.getDelayedCalls()
    before = len(wire.written)
    wire.vanish()
    clock.advance(0)
    assert len(wire.written) == before
    assert not clock.getDelayedCalls()


def test_a_body_that_breaks_is_not_taken_for_a_whole_one(clock: Clock, log: Log) -> None:
    def pieces() -> Iterator[bytes]:
        yield bytes(100_000)
        raise ZeroDivisionError

    async def broken(request: object) -> None:
        await Stream(request, pieces(), clock, compress=False).done

    log.errors_are_fine = True
    site = make_site([Route("/federate", broken)], clock)
    wire = asked(site)
    clock.advance(0)
    assert wire.transport.disconnected
    assert not wire.written.endswith(b"0\r\n\r\n")
    assert log.of("an answer could not be completed")
