"""The PROXY protocol in front of connections: every legal form, and what is none."""

from __future__ import annotations

import struct
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import MemoryReactorClock
from twisted.python.failure import Failure

from telemeter.config.listen_address import endpoint_maker
from telemeter.loop.timeouts import TIMEOUTS
from telemeter.web.site.proxied import Header, MalformedHeaderError, parse_header
from telemeter.web.site.routing import Route, make_site
from tests.fakes import FakeTransport, Log, parse_answers, request_of, result_of, take_turns

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
REQUEST = request_of("GET", "/")
LOCAL, PROXY = 0x20, 0x21
IPV4 = bytes([192, 0, 2, 1, 192, 0, 2, 2]) + struct.pack("!HH", 56324, 443)
SIX = bytes.fromhex("20010db8000000000000000000000001")
IPV6 = SIX + SIX[:-1] + b"\2" + struct.pack("!HH", 56324, 443)
UNIX = b"/run/client".ljust(108, b"\0") + b"/run/server".ljust(108, b"\0")
#: What an AWS NLB adds, a large vector about TLS, and padding.
TLVS = b"\xea\0\x17\1vpce-0123456789abcdef" + b"\x20\2\0" + bytes(512) + b"\4\0\3pad"

CLIENT = IPv4Address("TCP", "192.0.2.1", 56324)
CLIENT_6 = IPv6Address("TCP", "2001:db8::1", 56324)
#: Where the balancer is: see `FakeTransport`.
REAL = IPv4Address("TCP", "192.0.2.7", 54321)
CLOSED = "connection without a PROXY protocol header closed"


def binary(command: int, family: int, block: bytes = b"") -> bytes:
    """A header of version 2."""
    return SIGNATURE + struct.pack("!BBH", command, family, len(block)) + block


#: Legal headers, and the client that they name; None: none.
LEGAL: dict[str, tuple[bytes, Any]] = {
    "1: IPv4": (b"PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", CLIENT),
    "1: longest IPv4": (
        b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
        IPv4Address("TCP", "255.255.255.255", 65535),
    ),
    "1: IPv6": (b"PROXY TCP6 2001:db8::1 2001:DB8::2 56324 443\r\n", CLIENT_6),
    "1: longest IPv6": (
        b"PROXY TCP6 %b %b 65535 0\r\n" % ((b"ffff:" * 8)[:-1], (b"ffff:" * 8)[:-1]),
        IPv6Address("TCP", ("ffff:" * 8)[:-1], 65535),
    ),
    "1: unknown": (b"PROXY UNKNOWN\r\n", None),
    "1: unknown with addresses": (b"PROXY UNKNOWN ::1 ::2 1 2\r\n", None),
    "1: unknown with anything": (b"PROXY UNKNOWN \xff\0 \n\r ?".ljust(105, b"x") + b"\r\n", None),
    "2: local": (binary(LOCAL, 0), None),
    "2: local with addresses": (binary(LOCAL, 0x11, IPV4), None),
    "2: local with too short addresses": (binary(LOCAL, 0x21, IPV4), None),
    "2: local with vectors": (binary(LOCAL, 0, TLVS), None),
    "2: unspecified": (binary(PROXY, 0), None),
    "2: unspecified with anything": (binary(PROXY, 0, b"anything"), None),
    "2: unspecified protocol": (binary(PROXY, 0x10, IPV4), None),
    "2: TCP over IPv4": (binary(PROXY, 0x11, IPV4), CLIENT),
    "2: UDP over IPv4": (binary(PROXY, 0x12, IPV4), CLIENT),
    "2: TCP over IPv6": (binary(PROXY, 0x21, IPV6), CLIENT_6),
    "2: UDP over IPv6": (binary(PROXY, 0x22, IPV6), CLIENT_6),
    "2: UNIX stream": (binary(PROXY, 0x31, UNIX), None),
    "2: UNIX datagram": (binary(PROXY, 0x32, UNIX), None),
    "2: IPv4 with vectors": (binary(PROXY, 0x11, IPV4 + TLVS), CLIENT),
    "2: IPv6 with vectors": (binary(PROXY, 0x21, IPV6 + TLVS), CLIENT_6),
    "2: unspecified family": (binary(PROXY, 0x01, IPV4), None),
    "2: local of a reserved family": (binary(LOCAL, 0x41, b"whatever"), None),
    "2: local with a reserved transport": (binary(LOCAL, 0x13, IPV4), None),
    "2: the longest": (binary(PROXY, 0x11, IPV4.ljust(65535, b"\0")), CLIENT),
}

ILLEGAL: dict[str, tuple[bytes, str]] = {
    "HTTP": (b"GET /upload HTTP/1.1\r\n\r\n", "version 1 or 2, saw 'GET /upload HTTP'..."),
    "TLS": (b"\x16\3\1\2\0\1\0\1\xfc\3\3", "saw '\\x16"),
    "1: small letters": (b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "version 1 or 2"),
    "1: a tab": (b"PROXY\tTCP4 1.2.3.4 1.2.3.4 1 2\r\n", "version 1 or 2"),
    "1: two spaces": (b"PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n", "two addresses"),
    "1: another family": (b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n", "TCP4 or TCP6"),
    "1: half a word": (b"PROXY UNKNOWNS\r\n", "UNKNOWN"),
    "1: no family": (b"PROXY \r\n", "saw 'PROXY '"),
    "1: one address": (b"PROXY TCP4 1.2.3.4 1 2\r\n", "two addresses"),
    "1: one port": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", "two ports"),
    "1: more": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n", "two ports"),
    "1: a space at the end": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n", "two ports"),
    "1: the other family": (b"PROXY TCP4 ::1 ::2 1 2\r\n", "two addresses"),
    "1: no address": (b"PROXY TCP4 a.test b.test 1 2\r\n", "two addresses"),
    "1: leading zeros": (b"PROXY TCP4 1.2.3.004 1.2.3.4 1 2\r\n", "two addresses"),
    "1: a zone": (b"PROXY TCP6 fe80::1%eth0 ::2 1 2\r\n", "two addresses"),
    "1: no port": (b"PROXY TCP4 1.2.3.4 1.2.3.4 x 2\r\n", "two ports"),
    "1: other digits": ("PROXY TCP4 1.2.3.4 1.2.3.4 1 \u0663\r\n".encode(), "two ports"),
    "1: a port with a zero": (b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n", "two ports"),
    "1: a port too high": (b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n", "two ports"),
    "1: a long port": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 %b\r\n" % (b"9" * 60), "two ports"),
    "1: not UTF-8": (b"PROXY TCP4 1.2.3.4 1.2.3.4 1 \xff\r\n", "two ports"),
    "1: no end": (b"PROXY UNKNOWN ".ljust(107, b"x"), "no end within 107 bytes"),
    "1: a late end": (b"PROXY UNKNOWN ".ljust(106, b"x") + b"\r\n", "no end within 107 bytes"),
    "2: version 1": (binary(0x11, 0x11, IPV4), "version 2 behind the signature, saw 1"),
    "2: version 3": (binary(0x31, 0x11, IPV4), "version 2 behind the signature, saw 3"),
    "2: another command": (binary(0x22, 0x11, IPV4), "saw 2"),
    "2: a reserved family": (binary(PROXY, 0x41, IPV4), "family up to 3 (UNIX), saw 4"),
    "2: the last reserved family": (binary(PROXY, 0xF0), "family up to 3 (UNIX), saw 15"),
    "2: a reserved transport": (binary(PROXY, 0x13, IPV4), "transport up to 2 (datagram), saw 3"),
    "2: reserved, UNIX": (binary(PROXY, 0x33, UNIX), "transport up to 2 (datagram), saw 3"),
    "2: reserved, unspecified": (binary(PROXY, 0x0F), "transport up to 2 (datagram), saw 15"),
    "2: short IPv4": (binary(PROXY, 0x11, IPV4[:-1]), "expected 12 bytes"),
    "2: short IPv6": (binary(PROXY, 0x21, IPV4), "expected 36 bytes"),
    "2: a broken signature": (SIGNATURE[:-1] + b"x" + bytes(4), "version 1 or 2"),
}


@pytest.mark.parametrize("name", LEGAL)
def test_every_legal_header(name: str) -> None:
    data, client = LEGAL[name]
    header = parse_header(data + b"rest")
    assert header is not None
    assert (header.size, header.source) == (len(data), client)
    assert parse_header(data) == header


@pytest.mark.parametrize("name", LEGAL)
def test_of_a_part_more_is_expected(name: str) -> None:
    data, _ = LEGAL[name]
    for length in range(min(len(data), 400)):
        assert parse_header(data[:length]) is None
    assert parse_header(bytearray(data[:-1])) is None


def test_both_ends_are_told() -> None:
    data, _ = LEGAL["2: IPv6 with vectors"]
    six = IPv6Address("TCP", "2001:db8::2", 443)
    assert parse_header(data) == Header(len(data), CLIENT_6, six)
    data, _ = LEGAL["1: IPv4"]
    four = IPv4Address("TCP", "192.0.2.2", 443)
    assert parse_header(data) == Header(len(data), CLIENT, four)


@pytest.mark.parametrize("name", ILLEGAL)
def test_what_is_no_header(name: str) -> None:
    data, reason = ILLEGAL[name]
    with pytest.raises(MalformedHeaderError) as caught:
        parse_header(data)
    assert reason in str(caught.value)
    assert len(str(caught.value)) < 400


# --- Connections ----------------------------------------------------------------------------------


class Balanced:
    """A connection to a site behind a load balancer.

    Attributes:
        clock: what time it is.
        transport: what the site writes to.
    """

    def __init__(self, description: str = "haproxy:tcp:9003") -> None:
        self.clock = reactor = MemoryReactorClock()
        site = make_site([Route("/", lambda _: b"index")], reactor)
        result_of(endpoint_maker(description)(reactor).listen(site))
        ((_, factory, _, _),) = reactor.tcpServers
        self.transport: Any = FakeTransport()
        protocol: Any = factory.buildProtocol(REAL)
        self.protocol = protocol
        self.protocol.makeConnection(self.transport)

    def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.protocol.dataReceived(piece)
            take_turns(self.clock)

    @property
    def statuses(self) -> list[int]:
        return [answer.status for answer in parse_answers(self.transport.value())]

    def close(self) -> None:
        """End, and leave nothing behind."""
        self.protocol.connectionLost(Failure(ConnectionDone()))
        assert self.clock.getDelayedCalls() == []


def pieces_of(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("name", [name for name in LEGAL if name != "2: the longest"])
@pytest.mark.parametrize("size", [1, 7, 15, 16, 100_000])
def test_requests_come_from_the_client(name: str, size: int, log: Log) -> None:
    header, client = LEGAL[name]
    wire = Balanced()
    wire.send(*pieces_of(header + REQUEST * 2, size))
    assert wire.statuses == [200, 200]
    peer = client or REAL
    assert [event["peer"] for event in log.requests()] == [peer.host] * 2
    assert wire.protocol.getPeer() == peer
    wire.close()


def test_the_request_may_come_later(log: Log) -> None:
    wire = Balanced()
    header, _ = LEGAL["2: IPv6 with vectors"]
    wire.send(header)
    wire.clock.advance(TIMEOUTS.proxy_header * 2)
    assert not wire.transport.disconnected
    wire.send(REQUEST)
    assert wire.statuses == [200]
    assert log.of(CLOSED) == []
    wire.close()


def test_a_long_header_in_small_pieces_takes_little_time() -> None:
    wire = Balanced()
    header, _ = LEGAL["2: the longest"]
    began = time.process_time()
    wire.send(*pieces_of(header + REQUEST, 1))
    assert time.process_time() - began < 5
    assert wire.statuses == [200]
    wire.close()


@pytest.mark.parametrize("name", ILLEGAL)
@pytest.mark.parametrize("size", [1, 100_000])
def test_anything_else_is_hung_up_on_and_leaves_a_line(name: str, size: int, log: Log) -> None:
    data, reason = ILLEGAL[name]
    wire = Balanced()
    wire.send(*pieces_of(data, size))
    assert wire.transport.disconnected
    assert wire.transport.value() == b""
    (event,) = log.of(CLOSED)
    assert event["peer"] == "192.0.2.7"
    if size > 1:
        assert reason in event["reason"]
    (line,) = log.lines
    assert line.isascii()
    assert "b'" not in line
    wire.send(REQUEST)  # it may have arrived already
    assert wire.transport.value() == b""
    wire.close()
    assert list(log.requests()) == []


@pytest.mark.parametrize("begun", [b"", b"PROXY TCP4 192.0", SIGNATURE])
def test_a_header_is_not_waited_for_long(begun: bytes, log: Log) -> None:
    wire = Balanced()
    if begun:
        wire.send(begun)
    wire.clock.advance(TIMEOUTS.proxy_header - 0.1)
    assert not wire.transport.disconnected
    wire.clock.advance(0.1)
    assert wire.transport.disconnected
    (event,) = log.of(CLOSED)
    assert event["reason"] == "no header came within 10 seconds"
    wire.close()


def test_a_connection_that_ends_by_itself_leaves_no_line(log: Log) -> None:
    """Load balancers look in that way whether anybody is there."""
    Balanced().close()
    assert log.lines == []


def test_two_balancers_one_behind_the_other() -> None:
    wire = Balanced("haproxy:haproxy:tcp:9003")
    outer, _ = LEGAL["2: TCP over IPv4"]
    inner, client = LEGAL["1: IPv6"]
    wire.send(outer + inner + REQUEST)
    assert wire.statuses == [200]
    assert wire.protocol.wrappedProtocol.getPeer() == client
    wire.close()


# --- Whatever comes -------------------------------------------------------------------------------


def decided(data: bytes) -> Header | str | None:
    """What comes of the beginning of a connection; a text: it is refused."""
    try:
        return parse_header(data)
    except MalformedHeaderError:
        return "refused"


@given(
    st.one_of(
        st.binary(max_size=200),
        st.binary(max_size=120).map(lambda rest: b"PROXY TCP4 " + rest),
        st.binary(max_size=120).map(lambda rest: SIGNATURE + rest),
        st.tuples(
            st.sampled_from([data for data, _ in LEGAL.values() if len(data) < 1000]),
            st.integers(0, 200),
            st.binary(max_size=3),
        ).map(lambda parts: parts[0][: parts[1]] + parts[2] + parts[0][parts[1] + 1 :]),
    )
)
def test_what_was_decided_of_a_part_stays(data: bytes) -> None:
    """In whatever pieces it comes, and without another error."""
    outcomes = [decided(data[:length]) for length in range(len(data) + 1)]
    at = next((n for n, each in enumerate(outcomes) if each is not None), len(data))
    assert all(each == outcomes[at] for each in outcomes[at:])
    header = outcomes[at]
    assert not isinstance(header, Header) or header.size == at
