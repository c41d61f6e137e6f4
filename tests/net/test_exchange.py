"""Requests over real connections to servers that are no good, and what becomes of them."""

from __future__ import annotations

import gzip
import socket
import ssl
import time
from typing import Any

import pytest
from twisted.internet import threads
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.web.http_headers import Headers

from telemeter.loop.timeouts import Timeouts
from telemeter.net.client import make_pool
from telemeter.net.connection import HEAD_LIMIT, LINES_LIMIT
from telemeter.net.errors import explain
from telemeter.net.exchange import Answer, exchange
from telemeter.net.treq_agent import TreqAgent
from tests.net.scripted import (
    End,
    Script,
    Server,
    agent,
    authority,
    head,
    reactor,
    response,
    serving,
)
from tests.reactor import in_reactor

LIMIT = 100_000
BODY = b"".join(b"m%d 1\n" % number for number in range(1000))
PACKED = gzip.compress(BODY)


@pytest.fixture(autouse=True, params=["directly", "with treq"])
def _way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ask as the server does, and as the agent does."""
    monkeypatch.setitem(_WAY, "wrap", TreqAgent if request.param == "with treq" else _as_it_is)


def _as_it_is(one: Any) -> Any:
    return one


_WAY: dict[str, Any] = {"wrap": _as_it_is}


async def ask(server: Server | str, **others: Any) -> Answer:
    url = server if isinstance(server, str) else f"{server.url}/path?query"
    options = {"method": "GET", "headers": Headers(), "timeout": 20.0, "limit": LIMIT, **others}
    via = _WAY["wrap"](options.pop("via", None) or agent())
    method, headers = options.pop("method"), options.pop("headers")
    body = options.pop("body", None)
    return await exchange(via, reactor, method, url, headers, body, **options)


async def failure_of(server: Server | str, **others: Any) -> str:
    """Why there is no answer."""
    with pytest.raises(Exception) as caught:
        await ask(server, **others)
    return explain(caught.value)


async def flaw_of(server: Server, status: int = 200, **others: Any) -> str:
    """Why an answer is not whole."""
    answer = await ask(server, **others)
    assert answer.status == status
    assert answer.flaw is not None
    with pytest.raises(type(answer.flaw)):
        answer.body  # noqa: B018 - it is a property that raises
    return explain(answer.flaw)


# --- Framing --------------------------------------------------------------------------------------


def chunked(*chunks: bytes, last: bytes = b"0\r\n\r\n") -> bytes:
    body = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks)
    return head("Transfer-Encoding: chunked") + body + last


WHOLE: dict[str, Script | bytes] = {
    "length": response(BODY),
    "length, more than once": head(f"Content-Length: {len(BODY)}, {len(BODY)}") + BODY,
    "length, stays open": Script(response(BODY), End.STAY),
    "length, empty lines behind it": response(BODY) + b"\r\n\r\n",
    "chunks": chunked(BODY[:100], BODY[100:]),
    "chunks with extensions": head("Transfer-Encoding: Chunked")
    + b'a;x="y"\r\n' + BODY[:10] + b"\r\n" + b"%x\r\n" % (len(BODY) - 10) + BODY[10:]
    + b"\r\n0\r\nTrailer: x\r\n\r\n",
    "until close": head() + BODY,
    "HTTP/1.0": head(version="1.0") + BODY,
    "no reason": b"HTTP/1.1 200\r\n\r\n" + BODY,
    "lines without CR": b"HTTP/1.1 200 OK\nA: b\n\n" + BODY,
    "folded header": head("A: b\r\n c") + BODY,
    "after interim answers": head(status="100 Continue") + head(status="103 Hints") + head() + BODY,
}  # fmt: skip


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("kind", WHOLE)
@in_reactor
async def test_a_whole_body(kind: str, secure: bool) -> None:
    async with serving(WHOLE[kind], secure=secure) as server:
        answer = await ask(server)
        assert (answer.status, answer.flaw) == (200, None)
        assert answer.body == BODY
        assert answer.is_open_ended is (kind in OPEN)


OPEN = {
    "until close",
    "HTTP/1.0",
    "no reason",
    "lines without CR",
    "folded header",
    "after interim answers",
}
CUT: dict[str, Script | bytes] = {
    "length": response(BODY[:-1], length=len(BODY)),
    "length, no body": response(length=len(BODY)),
    "chunk": chunked(last=b"ff\r\nabc"),
    "no last chunk": chunked(BODY, last=b""),
    "no end of the last chunk": chunked(BODY, last=b"0\r\n"),
    "half a trailer": chunked(BODY, last=b"0\r\nA: b"),
    "length, reset": Script(response(BODY[:-1], length=len(BODY)), End.RESET),
    "until close, reset": Script(head() + BODY, End.RESET),
    "chunks, reset": Script(chunked(BODY, last=b""), End.RESET),
}


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("kind", CUT)
@in_reactor
async def test_a_body_that_is_cut_off(kind: str, secure: bool) -> None:
    async with serving(CUT[kind], secure=secure) as server:
        flaw = await flaw_of(server)
    assert flaw in (
        "no complete answer: the connection was closed before its end",
        "no complete answer: the connection was lost",
    )


@in_reactor
async def test_over_tls_a_body_without_length_ends_with_the_closing_alert() -> None:
    async with serving(Script(head() + BODY, End.CUT), secure=True) as server:
        assert await flaw_of(server) == "no complete answer: the connection was lost"
    # With a length, nothing is missing.
    async with serving(Script(response(BODY), End.CUT), secure=True) as server:
        assert (await ask(server)).body == BODY


MALFORMED: dict[str, Script | bytes] = {
    "wrong size of a chunk": chunked(last=b"xyz\r\nabc\r\n0\r\n\r\n"),
    "negative size of a chunk": chunked(last=b"-1\r\nabc\r\n0\r\n\r\n"),
    "no end of a chunk": chunked(last=b"3\r\nabcd\r\n0\r\n\r\n"),
    "long line of a chunk": chunked(last=b"3;" + b"x" * 2000 + b"\r\nabc\r\n0\r\n\r\n"),
    "long trailer": chunked(last=b"0\r\n" + b"A: b\r\n" * 20_000 + b"\r\n"),
    "endless trailer": Script(chunked(last=b"0\r\n"), endless=b"A: b\r\n" * 1000),
}


@pytest.mark.parametrize("kind", MALFORMED)
@in_reactor
async def test_malformed_chunks(kind: str) -> None:
    async with serving(MALFORMED[kind]) as server:
        flaw = await flaw_of(server)
    assert flaw.startswith("no complete answer: malformed chunks: ")


@in_reactor
async def test_a_body_that_goes_on_after_its_length() -> None:
    async with serving(response(BODY, length=100)) as server:
        assert await flaw_of(server) == "the body goes on after its Content-Length"


NO_ANSWER = {
    "nothing": (b"", "no complete answer: the connection was closed before its end"),
    "half a head": (b"HTTP/1.1 200 OK\r\nA: b\r\n", "closed before its end"),
    "no HTTP": (b"SSH-2.0-OpenSSH_9.2\r\n\r\n", "such as HTTP/1.1 200 OK, saw 'SSH-2.0-OpenSSH"),
    "HTTP/2": (b"HTTP/2 200\r\n\r\n", "saw 'HTTP/2 200'"),
    "odd status": (b"HTTP/1.1 2_0 OK\r\n\r\n", "saw 'HTTP/1.1 2_0 OK'"),
    "signed status": (b"HTTP/1.1 +200 OK\r\n\r\n", "saw 'HTTP/1.1 +200 OK'"),
    "short status": (b"HTTP/1.1 20 OK\r\n\r\n", "saw 'HTTP/1.1 20 OK'"),
    "long status": (b"HTTP/1.1 2000 OK\r\n\r\n", "saw 'HTTP/1.1 2000 OK'"),
    "no status": (b"HTTP/1.1 OK\r\n\r\n", "saw 'HTTP/1.1 OK'"),
    "another protocol": (head(status="101 Switching Protocols"), "status 101"),
    "no colon": (head("Nonsense"), "a header without a colon: 'Nonsense'"),
    "folded nothing": (b"HTTP/1.1 200 OK\r\n  x: y\r\n\r\n", "the first header is malformed"),
    "space before a colon": (head("Content-Length : 3") + b"abc", "a space before the colon"),
    "lengths that differ": (head("Content-Length: 3", "Content-Length: 4"), "saw '3, 4'"),
    "no length": (head("Content-Length: -3"), "expected one number as Content-Length, saw '-3'"),
    "empty length": (head("Content-Length: "), "expected one number as Content-Length, saw ''"),
    "no number": (head("Content-Length: \xb3"), "expected one number as Content-Length"),
    "endless length": (head("Content-Length: " + "9" * 5000), "as Content-Length, saw '999"),
    "another framing": (
        head("Transfer-Encoding: gzip, chunked"),
        "expected Transfer-Encoding chunked, saw 'gzip, chunked'",
    ),
    "two framings": (
        head("Transfer-Encoding: chunked", "Transfer-Encoding: identity"),
        "saw 'chunked, identity'",
    ),
}


@pytest.mark.parametrize("kind", NO_ANSWER)
@in_reactor
async def test_what_is_no_answer(kind: str) -> None:
    data, words = NO_ANSWER[kind]
    async with serving(data) as server:
        assert words in await failure_of(server)


# --- Headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "Set-Cookie: name=J\xfcrgen; Path=/",
        "Set-Cookie: \x00\x01\xff",
        "Set-Cookie: ",
        "Server: \xff\xfe",
        "X-\xfc: y",
        "(comment): y",
        "X-Long: " + "x" * 100_000,
    ],
)
@in_reactor
async def test_headers_that_say_nothing_to_us(line: str) -> None:
    async with serving(response(BODY, line)) as server:
        assert (await ask(server)).body == BODY


@in_reactor
async def test_no_cookie_is_kept() -> None:
    async with serving(response(BODY, "Set-Cookie: a=b; Path=/")) as server:
        via = agent()
        for _ in range(2):
            await ask(server, via=via)
        assert not [line for lines in server.heads for line in lines if "ookie" in line]


@in_reactor
async def test_a_content_type_that_is_not_ascii() -> None:
    async with serving(response(BODY, "Content-Type: text/pl\xe4in")) as server:
        assert (await ask(server)).header(b"Content-Type") == "text/pl\xe4in"


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@in_reactor
async def test_headers_without_an_end(secure: bool) -> None:
    line = b"X-Some: " + b"y" * 1000 + b"\r\n"
    script = Script(b"HTTP/1.1 200 OK\r\n", endless=line * 10)
    async with serving(script, secure=secure) as server:
        told = await failure_of(server)
        await server.all_closed()
    assert f"the headers of the answer are over the limit of {HEAD_LIMIT} bytes" in told
    assert "1009 of them in one header" in told


@in_reactor
async def test_one_header_without_an_end() -> None:
    script = Script(b"HTTP/1.1 200 OK\r\nX: ", endless=b"y" * 10_000)
    async with serving(script) as server:
        told = await failure_of(server)
        await server.all_closed()
    assert f"over the limit of {HEAD_LIMIT} bytes" in told


@in_reactor
async def test_interim_answers_without_an_end() -> None:
    script = Script(b"", endless=head(status="100 Continue") * 100)
    async with serving(script) as server:
        told = await failure_of(server)
        await server.all_closed()
    assert told == f"the headers of the answer are over {LINES_LIMIT} lines"


@in_reactor
async def test_a_limit_for_the_number_of_headers() -> None:
    lines = [f"X{number}: y" for number in range(LINES_LIMIT)]
    async with serving(response(BODY, *lines[:-3]), response(BODY, *lines)) as server:
        assert (await ask(server)).body == BODY
        assert f"over {LINES_LIMIT} lines" in await failure_of(server)


# --- Codings --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gzip", "GZIP", "x-gzip", "X-GZip"])
@in_reactor
async def test_gzip(name: str) -> None:
    async with serving(response(PACKED, f"Content-Encoding: {name}")) as server:
        assert (await ask(server)).body == BODY
        (lines,) = server.heads
        assert "Accept-Encoding: gzip" in lines


@in_reactor
async def test_gzip_that_is_cut_off_in_good_order() -> None:
    for size in (0, 10, 1000, len(PACKED) - 1):
        data = head("Content-Encoding: gzip", version="1.0") + PACKED[:size]
        async with serving(data) as server:
            assert "cut off" in await flaw_of(server)


@in_reactor
async def test_another_coding() -> None:
    async with serving(response(b"\x0b\x02", "Content-Encoding: br")) as server:
        assert await flaw_of(server) == "expected Content-Encoding gzip or none; saw 'br'"


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@in_reactor
async def test_a_body_without_an_end(secure: bool) -> None:
    script = Script(head(), endless=b"x" * 50_000)
    async with serving(script, secure=secure) as server:
        assert await flaw_of(server) == f"the answer is over the limit of {LIMIT} bytes"
        await server.all_closed()


# --- Status ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [204, 304])
@in_reactor
async def test_a_status_without_a_body(status: int) -> None:
    async with serving(head(status=f"{status} x") + b"stray") as server:
        answer = await ask(server)
        assert (answer.status, answer.body) == (status, b"")


@pytest.mark.parametrize("status", [200, 206, 299, 300, 305, 400, 404, 500, 599, 600, 999])
@in_reactor
async def test_a_status_counts_whatever_becomes_of_its_body(status: int) -> None:
    cut = response(b"what came", "Content-Encoding: nonsense", status=f"{status} x", length=20)
    async with serving(cut) as server:
        answer = await ask(server)
        assert answer.status == status
        assert answer.flaw is not None


# --- Time -----------------------------------------------------------------------------------------


@in_reactor
async def test_no_answer_in_time() -> None:
    async with serving(Script(b"", End.STAY)) as server:
        assert await failure_of(server, timeout=0.2) == "no answer in time"
        await server.all_closed()


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@in_reactor
async def test_a_body_that_is_late(secure: bool) -> None:
    script = Script(response(b"some", length=1000), End.STAY)
    async with serving(script, secure=secure) as server:
        answer = await ask(server, timeout=0.5)
        await server.all_closed()
    assert (answer.status, answer.start) == (200, b"some")
    assert explain(answer.flaw or Exception()) == "no answer in time"


@in_reactor
async def test_the_deadline_is_for_all_redirects() -> None:
    async with serving(Script(b"", End.STAY)) as last:
        there = head(f"Location: {last.url}/", "Content-Length: 0", status="302 Found")
        async with serving(there) as server:
            began = time.monotonic()
            assert await failure_of(server, timeout=0.5) == "no answer in time"
            assert time.monotonic() - began < 5
        assert len(last.asked) == 1


@in_reactor
async def test_giving_up() -> None:
    script = Script(response(b"some", length=1000), End.STAY)
    async with serving(script) as server:
        asked = Deferred.fromCoroutine(ask(server))
        while not server.asked:
            waited: Deferred[None] = Deferred()
            reactor.callLater(0.01, waited.callback, None)
            await waited
        asked.cancel()
        with pytest.raises(Exception) as caught:
            await asked
        reasons = getattr(caught.value, "reasons", ())
        assert isinstance(caught.value, CancelledError) or any(
            reason.check(CancelledError) for reason in reasons
        )
        await server.all_closed()


# --- Connections that are used again --------------------------------------------------------------


async def connections_of(*scripts: Script | bytes) -> int:
    """How many connections two requests need."""
    pool = make_pool(reactor)
    async with serving(*scripts) as server:
        via = agent(pool=pool)
        for _ in range(2):
            await ask(server, via=via)
        made = server.made
        await pool.closeCachedConnections()
    return made


@in_reactor
async def test_a_connection_is_used_again() -> None:
    assert await connections_of(Script(response(BODY), End.STAY)) == 1
    assert await connections_of(Script(chunked(BODY), End.STAY)) == 1
    coded = response(PACKED, "Content-Encoding: gzip")
    assert await connections_of(Script(coded, End.STAY)) == 1


CLOSING: dict[str, Script | bytes] = {
    "says so": response(BODY, "Connection: close"),
    "says so aloud": response(BODY, "Connection: Close"),
    "says more": response(BODY, "Connection: TE, close"),
    "HTTP/1.0": response(BODY).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "two framings": chunked(BODY).replace(b"\r\n", b"\r\nContent-Length: 3\r\n", 1),
    "stray bytes after 204": head(status="204 x") + b"HTTP/1.1 200 OK\r\n\r\n",
    "stray bytes after chunks": chunked(BODY) + response(b"another"),
    "cut": Script(response(BODY, length=2 * len(BODY)), End.CLOSE),
}


@pytest.mark.parametrize("kind", CLOSING)
@in_reactor
async def test_a_connection_that_is_not_used_again(kind: str) -> None:
    script = CLOSING[kind]
    if isinstance(script, bytes):
        script = Script(script, End.STAY)
    assert await connections_of(script) == 2


@in_reactor
async def test_bytes_that_nobody_asked_for_end_an_idle_connection() -> None:
    pool = make_pool(reactor)
    forged = response(b"forged")
    async with serving(Script(response(BODY), End.STAY, late=forged), response(BODY)) as server:
        via = agent(pool=pool)
        assert (await ask(server, via=via)).body == BODY
        await server.all_closed()
        assert (await ask(server, via=via)).body == BODY
        assert server.made == 2
        await pool.closeCachedConnections()


@in_reactor
async def test_http_1_0_may_stay_open() -> None:
    kept = response(BODY, "Connection: Keep-Alive").replace(b"HTTP/1.1", b"HTTP/1.0")
    assert await connections_of(Script(kept, End.STAY)) == 1


# --- Repeating ------------------------------------------------------------------------------------


@in_reactor
async def test_a_request_that_may_be_repeated() -> None:
    lost = Script(b"", End.CLOSE)
    async with serving(lost, response(BODY)) as server:
        answer = await ask(server, method="POST", body=b"sent", may_repeat=True)
        assert answer.body == BODY
        assert [each.endswith(b"\r\n\r\nsent") for each in server.asked] == [True, True]
    async with serving(lost, response(BODY)) as server:
        assert "closed" in await failure_of(server, method="POST", body=b"sent")
        assert len(server.asked) == 1
    async with serving(lost) as server:
        assert "closed" in await failure_of(server, may_repeat=True)
        assert len(server.asked) == 2


KEPT = Script(response(BODY), End.STAY)
RESET = Script(b"", End.RESET)


@pytest.mark.parametrize("may_repeat", [False, True])
@pytest.mark.parametrize("end", [End.CLOSE, End.RESET])
@in_reactor
async def test_a_kept_connection_that_is_closed_meanwhile(end: End, may_repeat: bool) -> None:
    """What it was used for is asked once more, over a new one."""
    pool = make_pool(reactor)
    async with serving(KEPT, Script(b"", end), response(BODY)) as server:
        via = agent(pool=pool)
        await ask(server, via=via)
        answer = await ask(server, via=via, method="POST", body=b"sent", may_repeat=may_repeat)
        assert answer.body == BODY
        assert (len(server.asked), server.made) == (3, 2)
        await pool.closeCachedConnections()


@pytest.mark.parametrize("may_repeat", [False, True])
@in_reactor
async def test_a_request_is_sent_twice_at_most(may_repeat: bool) -> None:
    """Also where all connections have been kept, and are all closed by now."""
    pool = make_pool(reactor)
    kept = 4
    async with serving(*[KEPT] * kept, RESET) as server:
        via = agent(pool=pool)
        await gatherResults([Deferred.fromCoroutine(ask(server, via=via)) for _ in range(kept)])
        assert server.made == kept
        failure = await failure_of(server, via=via, may_repeat=may_repeat)
        assert failure == "no complete answer: the connection was lost"
        assert (len(server.asked), server.made) == (kept + 2, kept + 1)


@in_reactor
async def test_a_kept_connection_that_answers_in_part() -> None:
    """Its server has taken the request: it is not asked again."""
    pool = make_pool(reactor)
    async with serving(KEPT, b"HTTP/1.1 200 OK\r\nA: b", response(BODY)) as server:
        via = agent(pool=pool)
        await ask(server, via=via)
        assert "no complete answer" in await failure_of(server, via=via)
        assert len(server.asked) == 2


@in_reactor
async def test_what_is_late_is_not_asked_again() -> None:
    pool = make_pool(reactor)
    async with serving(KEPT, Script(b"", End.STAY), response(BODY)) as server:
        via = agent(pool=pool)
        await ask(server, via=via)
        assert await failure_of(server, via=via, timeout=0.1) == "no answer in time"
        assert len(server.asked) == 2


# --- Redirects ------------------------------------------------------------------------------------


def moved(location: str, status: int = 307) -> bytes:
    return response(b"moved", f"Location: {location}", status=f"{status} Moved")


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@in_reactor
async def test_a_get_is_redirected(status: int) -> None:
    async with serving(moved("/there?x", status), response(BODY)) as server:
        answer = await ask(server, headers=Headers({"Authorization": ["Bearer t"]}))
        assert answer.body == BODY
        assert answer.url == f"{server.url}/there?x"
        first, second = server.heads
        assert (first[0], second[0]) == ("GET /path?query HTTP/1.1", "GET /there?x HTTP/1.1")
        assert first[1:] == second[1:]
        assert "Authorization: Bearer t" in second


@pytest.mark.parametrize("status", [307, 308])
@in_reactor
async def test_a_post_is_redirected_with_its_body(status: int) -> None:
    async with serving(moved("/there", status), response(BODY)) as server:
        await ask(server, method="POST", body=b"sent")
        first, second = server.asked
        assert second == first.replace(b"/path?query", b"/there")
        assert second.endswith(b"\r\n\r\nsent")


@in_reactor
async def test_without_a_token_a_get_may_go_elsewhere() -> None:
    async with serving(response(BODY), host="::1") as other, serving(moved(other.url)) as server:
        assert (await ask(server)).body == BODY
        assert f"Host: [::1]:{other.port}" in other.heads[0]


@pytest.mark.parametrize(
    ("method", "token", "body"), [("GET", "t", None), ("POST", "", b"secret"), ("POST", "t", None)]
)
@in_reactor
async def test_what_is_confidential_goes_nowhere_else(
    method: str, token: str, body: bytes | None
) -> None:
    headers = Headers({"Authorization": [f"Bearer {token}"]} if token else {})
    async with (
        serving(response(BODY)) as other,
        serving(moved(f"{other.url}/x?secret")) as server,
    ):
        told = await failure_of(server, method=method, headers=headers, body=body)
        assert f"status 307, which points to {other.url}/x and is not followed" in told
        assert not other.asked


@in_reactor
async def test_five_redirects_are_followed() -> None:
    hops = [moved(f"/{number}") for number in range(6)]
    async with serving(*hops[:5], response(BODY)) as server:
        assert (await ask(server)).body == BODY
    async with serving(*hops, response(BODY)) as server:
        told = await failure_of(server)
        assert f"points to {server.url}/5 and is not followed: there were 5 before it" in told
        assert len(server.asked) == 6


@in_reactor
async def test_a_redirect_without_a_location_is_an_answer() -> None:
    async with serving(response(BODY, status="302 Found")) as server:
        answer = await ask(server)
        assert (answer.status, answer.body) == (302, BODY)


# --- IPv6 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("secure", [False, True], ids=["tcp", "tls"])
@in_reactor
async def test_an_ipv6_address(secure: bool) -> None:
    async with serving(response(BODY), host="::1", secure=secure) as server:
        assert (await ask(server)).body == BODY
        assert f"Host: [::1]:{server.port}" in server.heads[0]
        spelled = server.url.replace("[::1]", "[0:0:0:0:0:0:0:1]")
        assert (await ask(spelled)).body == BODY


@in_reactor
async def test_a_certificate_for_another_ipv6_address() -> None:
    async with serving(response(BODY), host="127.0.0.1", secure=True) as server:
        mapped = server.url.replace("127.0.0.1", "[::ffff:127.0.0.1]")
        told = await failure_of(mapped)
        assert "wanted ::ffff:127.0.0.1, the certificate is for 127.0.0.1" in told


# --- The end of connections -----------------------------------------------------------------------


class SilentServer:
    """A server over TLS that answers once, and then neither reads nor closes its connection."""

    def __init__(self) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority().issue_cert("127.0.0.1").configure_cert(self._context)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listening.getsockname()[1]}"

    def serve(self) -> bytes:
        """Answer, and return what came after the request, encrypted, until the connection ended."""
        with self._listening, self._listening.accept()[0] as connection:
            connection.settimeout(20)
            with self._context.wrap_socket(connection, server_side=True) as secured:
                secured.recv(4096)
                secured.sendall(response(BODY))
                raw = socket.socket(fileno=secured.detach())
            rest = b""
            with raw:
                raw.settimeout(20)
                try:
                    while data := raw.recv(4096):
                        rest += data
                except ConnectionResetError:
                    pass
            return rest


@in_reactor
async def test_a_tls_connection_ends_although_the_other_side_does_not_close() -> None:
    via = agent(timeouts=Timeouts(tls_close=0.2))
    server = SilentServer()
    serving = threads.deferToThread(server.serve)
    assert (await ask(server.url, via=via)).body == BODY
    assert await serving  # the closing alert came, and then the end
