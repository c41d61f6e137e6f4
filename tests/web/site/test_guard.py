"""The site's guard: nobody makes the server hold a body that it has not agreed to."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.web.iweb import IRequest

from telemeter.samples.compression import compress_framed
from telemeter.samples.family import encode_families
from telemeter.web.site.admission import admit
from telemeter.web.site.refused import Refused
from telemeter.web.site.routing import Route, make_site
from tests.fakes import Growth, Log, Wire, ask, chunk, head_of, request_of
from tests.web.server import CLUSTER, Server, agent_headers, up

MIB = 1 << 20
CHUNKED = {"Transfer-Encoding": "chunked"}
EXPECT = {"Expect": "100-continue"}
BODY = compress_framed(encode_families([up()]))


class Gatekeeper:
    """A gate that says what it was told to say, and remembers what it saw.

    Attributes:
        asked: the lengths that it was asked about.
        written: the pieces of the bodies that it took.
        abandoned_times: how often a sender went away.
        over_times: how often a request was over.
        limit: at how many bytes it refuses.
    """

    allowed: Deferred[None] | None = None

    def __init__(self) -> None:
        self.asked: list[int | None] = []
        self.written: list[bytes] = []
        self.abandoned_times = 0
        self.over_times = 0
        self.limit = 10
        self.refusal: Refused | None = None

    def __call__(self, request: IRequest, length: int | None) -> Gatekeeper:
        self.asked.append(length)
        if self.refusal is not None:
            raise self.refusal
        return self

    def write(self, data: bytes) -> None:
        self.written.append(data)
        if sum(map(len, self.written)) > self.limit:
            raise Refused(413, "too long")

    def abandoned(self) -> None:
        self.abandoned_times += 1

    def over(self) -> None:
        self.over_times += 1


class Guarded:
    """A site with a guarded path and one that ignores bodies."""

    def __init__(self, clock: Clock) -> None:
        self.gate = Gatekeeper()
        self.answered = 0
        self.site = make_site(
            [
                Route("/guarded", self.answer, ("POST",), "guarded", self.gate),
                Route("/open", self.answer, ("GET", "POST"), "open"),
            ],
            clock,
        )

    def answer(self, request: IRequest) -> bytes:
        self.answered += 1
        return b"fine"


@pytest.fixture
def guarded(clock: Clock) -> Guarded:
    return Guarded(clock)


# --- The gate is asked before the body ------------------------------------------------------------


@pytest.mark.parametrize(
    ("headers", "length"), [({"Content-Length": "7"}, 7), (CHUNKED, None)], ids=["length", "chunks"]
)
def test_the_gate_is_asked_when_the_headers_are_there(
    guarded: Guarded, headers: dict[str, str], length: int | None
) -> None:
    wire = Wire(guarded.site)
    head = head_of("POST", "/guarded", headers)
    wire.send(head[:-1])
    assert guarded.gate.asked == []
    wire.send(head[-1:])
    assert guarded.gate.asked == [length]
    assert wire.written == b""
    assert guarded.answered == 0


def test_an_admission_gets_the_body_as_it_comes(guarded: Guarded) -> None:
    wire = Wire(guarded.site)
    wire.send(head_of("POST", "/guarded", {"Content-Length": "7"}), b"abc", b"de")
    assert guarded.gate.written == [b"abc", b"de"]
    wire.send(b"fg")
    assert guarded.gate.written == [b"abc", b"de", b"fg"]
    assert wire.answer.body == b"fine"
    assert not wire.is_closed()


def test_a_request_without_a_body_does_not_reach_the_gate_early(guarded: Guarded) -> None:
    answer = ask(guarded.site, "POST", "/guarded")
    assert answer.status == 200
    assert guarded.gate.asked == []


@pytest.mark.parametrize("headers", [{"Content-Length": "7"}, CHUNKED])
def test_a_refusal_goes_out_at_once(guarded: Guarded, headers: dict[str, str]) -> None:
    guarded.gate.refusal = Refused(403, "no", {"X-Why": "because"})
    wire = Wire(guarded.site)
    wire.send(head_of("POST", "/guarded", headers))
    answer = wire.answer
    assert (answer.status, answer.text) == (403, "no\n")
    assert answer.headers["x-why"] == "because"
    assert answer.headers["connection"] == "close"
    assert not wire.is_closed()


def test_the_connection_closes_when_the_refused_body_is_over(guarded: Guarded) -> None:
    guarded.gate.refusal = Refused(403, "no")
    wire = Wire(guarded.site)
    wire.send(head_of("POST", "/guarded", {"Content-Length": "7"}), b"abc", b"def")
    assert not wire.is_closed()
    wire.send(b"g")
    assert wire.is_closed()
    assert not wire.is_aborted()
    assert guarded.gate.written == []
    assert guarded.answered == 0
    assert wire.answer.status == 403


def test_the_connection_closes_when_the_last_refused_chunk_came(guarded: Guarded) -> None:
    guarded.gate.refusal = Refused(403, "no")
    wire = Wire(guarded.site)
    wire.send(head_of("POST", "/guarded", CHUNKED), chunk(b"abc"), chunk(b"def"))
    assert not wire.is_closed()
    wire.send(chunk(b""))
    assert wire.is_closed()
    assert wire.answer.status == 403


@pytest.mark.parametrize("eager", [False, True], ids=["TCP", "TLS"])
@pytest.mark.parametrize("headers", [{"Content-Length": "3"}, CHUNKED])
def test_nothing_behind_a_refused_body_is_answered(
    guarded: Guarded, headers: dict[str, str], eager: bool
) -> None:
    guarded.gate.refusal = Refused(403, "no")
    body = b"abc" if "Content-Length" in headers else chunk(b"abc") + chunk(b"")
    more = request_of("GET", "/open")
    wire = Wire(guarded.site, eager=eager)
    wire.send(head_of("POST", "/guarded", headers), body + more, more, more)
    assert wire.answer.status == 403
    assert guarded.answered == 0
    wire.vanish()


@pytest.mark.parametrize("eager", [False, True], ids=["TCP", "TLS"])
def test_a_malformed_chunk_behind_a_refusal_gets_no_second_answer(
    guarded: Guarded, eager: bool
) -> None:
    guarded.gate.refusal = Refused(403, "no")
    wire = Wire(guarded.site, eager=eager)
    wire.send(head_of("POST", "/guarded", CHUNKED), b"zz\r\n", b"zz\r\n", chunk(b""))
    assert wire.answer.status == 403
    assert wire.is_closed()
    wire.vanish()


# --- Growing past the limit -----------------------------------------------------------------------


def test_a_body_is_refused_in_the_middle(guarded: Guarded) -> None:
    wire = Wire(guarded.site)
    wire.send(head_of("POST", "/guarded", CHUNKED), chunk(b"12345"), chunk(b"12345"))
    assert wire.written == b""
    wire.send(chunk(b"1"))
    assert wire.answer.status == 413
    assert not wire.is_closed()
    wire.send(chunk(b"more"), chunk(b""))
    assert wire.answer.status == 413
    assert wire.is_closed()
    assert guarded.gate.written == [b"12345", b"12345", b"1"]
    assert guarded.answered == 0


def test_a_chunk_is_refused_before_it_is_whole(guarded: Guarded) -> None:
    wire = Wire(guarded.site)
    wire.send(head_of("POST", "/guarded", CHUNKED), b"ffffffff\r\n", b"1234567890")
    assert wire.written == b""
    wire.send(b"1")
    assert wire.answer.status == 413


def test_a_body_on_a_path_without_a_gate_is_ignored_up_to_64_kib(guarded: Guarded) -> None:
    assert ask(guarded.site, "POST", "/open", body=bytes(65536)).status == 200
    wire = Wire(guarded.site)
    wire.send(head_of("POST", "/open", {"Content-Length": "65537"}), bytes(65536))
    assert wire.written == b""
    wire.send(b"x")
    assert wire.answer.status == 413
    assert wire.answer.text == (
        "no body is expected here: one is ignored up to 65536 bytes, a limit that is fixed; "
        "it has 65537 or more\n"
    )
    assert guarded.answered == 1
    assert wire.is_closed()


@pytest.mark.parametrize(
    ("method", "target", "status"), [("POST", "/nowhere", 404), ("PUT", "/guarded", 405)]
)
def test_what_is_not_there_is_refused_before_the_body(
    guarded: Guarded, method: str, target: str, status: int
) -> None:
    wire = Wire(guarded.site)
    wire.send(head_of(method, target, CHUNKED))
    assert wire.answer.status == status
    assert guarded.gate.asked == []


# --- How long a refused body is read --------------------------------------------------------------


def test_a_refused_body_is_read_up_to_16_mib(guarded: Guarded) -> None:
    guarded.gate.refusal = Refused(403, "no")
    wire = Wire(guarded.site)
    wire.send(head_of("POST", "/guarded", {"Content-Length": str(1 << 40)}))
    wire.send(*[bytes(MIB)] * 16)
    assert not wire.is_closed()
    wire.send(b"x")
    assert wire.is_aborted()
    wire.vanish()


def test_a_refused_body_of_chunks_is_read_up_to_16_mib(guarded: Guarded) -> None:
    guarded.gate.refusal = Refused(403, "no")
    wire = Wire(guarded.site)
    wire.send(head_of("POST", "/guarded", CHUNKED))
    sent = 0
    piece = chunk(bytes(MIB))
    while not wire.is_closed():
        wire.send(piece)
        sent += len(piece)
    assert 16 * MIB < sent <= 16 * MIB + len(piece)
    assert wire.is_aborted()
    wire.vanish()


def test_a_refused_body_is_read_for_10_seconds(guarded: Guarded, clock: Clock) -> None:
    guarded.gate.refusal = Refused(403, "no")
    wire = Wire(guarded.site)
    wire.send(head_of("POST", "/guarded", {"Content-Length": str(1 << 40)}))
    for _ in range(9):
        clock.advance(1)
        wire.send(b"x")
    assert not wire.is_closed()
    clock.advance(1)
    assert wire.is_aborted()
    wire.vanish()
    assert clock.getDelayedCalls() == []


def test_a_body_that_ends_within_the_bounds_leaves_no_timer(guarded: Guarded, clock: Clock) -> None:
    guarded.gate.refusal = Refused(403, "no")
    wire = Wire(guarded.site)
    wire.send(request_of("POST", "/guarded", body=b"abc"))
    assert wire.is_closed()
    wire.close()
    assert clock.getDelayedCalls() == []
    assert guarded.site.channels == set()


def test_a_sender_that_does_not_close_is_cut_off(guarded: Guarded, clock: Clock) -> None:
    guarded.gate.refusal = Refused(403, "no")
    wire = Wire(guarded.site)
    wire.send(request_of("POST", "/guarded", body=b"abc"))
    clock.advance(10)
    assert wire.is_aborted()


# --- Expect: 100-continue -------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [{"Content-Length": "3"}, CHUNKED])
def test_an_admitted_request_is_told_to_continue(guarded: Guarded, headers: dict[str, str]) -> None:
    wire = Wire(guarded.site)
    wire.send(head_of("POST", "/guarded", {**headers, **EXPECT}))
    assert wire.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    wire.send(b"abc" if "Content-Length" in headers else chunk(b"abc") + chunk(b""))
    assert [answer.status for answer in wire.answers] == [100, 200]


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
@pytest.mark.parametrize("headers", [{"Content-Length": "3"}, CHUNKED])
def test_a_refused_request_is_not(guarded: Guarded, headers: dict[str, str], expect: str) -> None:
    guarded.gate.refusal = Refused(403, "no")
    wire = Wire(guarded.site)
    wire.send(head_of("POST", "/guarded", {**headers, "Expect": expect}))
    assert wire.answer.status == 403


@pytest.mark.parametrize("target", ["/nowhere", "/guarded"])
def test_nor_is_a_request_for_what_is_not_there(guarded: Guarded, target: str) -> None:
    wire = Wire(guarded.site)
    wire.send(head_of("DELETE", target, {"Content-Length": "3", **EXPECT}))
    assert wire.answer.status in (404, 405)


# --- A sender that vanishes -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        head_of("POST", "/guarded", CHUNKED),
        head_of("POST", "/guarded", {"Content-Length": "5"}) + b"abcd",
        head_of("POST", "/guarded", CHUNKED) + chunk(b"abc"),
        head_of("POST", "/guarded", CHUNKED) + chunk(b"abc") + b"0\r\n",
    ],
)
def test_an_admission_learns_that_its_sender_is_gone(guarded: Guarded, sent: bytes) -> None:
    wire = Wire(guarded.site)
    wire.send(sent)
    assert (guarded.gate.abandoned_times, guarded.gate.over_times) == (0, 0)
    wire.vanish()
    assert (guarded.gate.abandoned_times, guarded.gate.over_times) == (1, 1)
    assert guarded.answered == 0


def test_a_malformed_chunk_ends_an_admission_too(guarded: Guarded) -> None:
    wire = Wire(guarded.site)
    wire.send(head_of("POST", "/guarded", CHUNKED) + chunk(b"abc"), b"zz\r\n")
    assert wire.answer.status == 400
    wire.close()
    assert guarded.gate.abandoned_times == 1


def test_silence_ends_an_admission_too(guarded: Guarded, clock: Clock) -> None:
    wire = Wire(guarded.site)
    wire.send(head_of("POST", "/guarded", CHUNKED) + chunk(b"abc"))
    clock.advance(11)
    assert wire.answer.status == 408
    assert wire.is_closed()
    wire.close()
    assert guarded.gate.abandoned_times == 1


@pytest.mark.parametrize("too_long", [False, True])
def test_an_answered_request_is_not_abandoned(guarded: Guarded, too_long: bool) -> None:
    wire = Wire(guarded.site)
    body = b"12345678901" if too_long else b"1234567890"
    wire.send(request_of("POST", "/guarded", body=body))
    assert wire.answer.status == (413 if too_long else 200)
    assert guarded.gate.over_times == 1
    wire.vanish()
    assert (guarded.gate.abandoned_times, guarded.gate.over_times) == (0, 1)


def test_an_early_refusal_is_counted_and_logged_once(guarded: Guarded, log: Log) -> None:
    growth = Growth()
    wire = Wire(guarded.site)
    wire.send(request_of("POST", "/guarded", body=b"12345678901"))
    wire.vanish()
    assert growth.all_of("http_requests_total") == {
        frozenset({("code", "413"), ("handler", "guarded"), ("method", "post")}): 1
    }
    assert [event["status"] for event in log.requests()] == [413]
    assert guarded.site.active == set()


# --- Small chunks ---------------------------------------------------------------------------------


def seconds_per_megabyte(wire: Wire, data: bytes) -> float:
    """Return the processor time for a megabyte on the wire, the best of some."""
    took = []
    for _ in range(5):
        began = time.process_time()
        for at in range(0, len(data), 65536):
            wire.deliver(data[at : at + 65536])
        took.append(time.process_time() - began)
    return min(took) / len(data) * MIB


def test_small_chunks_that_nobody_wants_cost_little(guarded: Guarded) -> None:
    guarded.gate.refusal = Refused(401, "no")
    wire = Wire(guarded.site)
    wire.send(head_of("POST", "/guarded", CHUNKED))
    assert wire.answer.status == 401
    assert seconds_per_megabyte(wire, chunk(b"x") * 100_000) < 0.1


def test_small_chunks_are_not_taken_for_long(guarded: Guarded) -> None:
    guarded.gate.limit = MIB
    wire = Wire(guarded.site)
    wire.send(head_of("POST", "/guarded", CHUNKED) + chunk(b"x") * 4096)
    assert wire.written == b""
    wire.send(chunk(b"x"))
    assert wire.answer.status == 400
    assert wire.answer.text == (
        "the body came in 4097 chunks with 4097 bytes in all: of more than 4096 chunks, 16 bytes "
        "each on the average are the least\n"
    )
    assert sum(map(len, guarded.gate.written)) == 4096


def test_many_chunks_of_a_usual_size_are_fine(guarded: Guarded) -> None:
    guarded.gate.limit = MIB
    wire = Wire(guarded.site)
    wire.send(head_of("POST", "/guarded", CHUNKED), chunk(bytes(64)) * 10_000, chunk(b""))
    assert wire.answer.status == 200


@pytest.mark.parametrize("pieces", [1, 3])
def test_the_end_of_chunks_that_nobody_wants_closes(guarded: Guarded, pieces: int) -> None:
    guarded.gate.refusal = Refused(401, "no")
    wire = Wire(guarded.site)
    wire.send(head_of("POST", "/guarded", CHUNKED), *[chunk(bytes(999))] * pieces)
    assert not wire.is_closed()
    wire.send(chunk(b""))
    assert wire.is_closed()
    assert not wire.is_aborted()


# --- An admission that has to wait ----------------------------------------------------------------


class Waiting(Gatekeeper):
    """A gatekeeper whose admissions wait for somebody's answer.

    Attributes:
        answered: fires with the answer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.answered: Deferred[None] = Deferred()
        self.allowed = self.answered
        self.limit = 1000

    async def answer(self, request: IRequest) -> bytes:
        admit(request, self)
        await self.answered
        return b"fine"


class Waited:
    """A site with a path at which bodies have to wait."""

    def __init__(self, clock: Clock) -> None:
        self.gate = Waiting()
        self.site = make_site([Route("/", self.gate.answer, ("POST",), gate=self.gate)], clock)
        self.wire = Wire(self.site)


@pytest.fixture
def waited(clock: Clock) -> Waited:
    return Waited(clock)


def test_no_more_is_read_until_the_answer_is_there(waited: Waited) -> None:
    waited.wire.send(head_of("POST", "/", CHUNKED) + chunk(b"abc"))
    assert waited.wire.is_paused()
    assert waited.wire.written == b""
    waited.gate.answered.callback(None)
    assert not waited.wire.is_paused()
    waited.wire.send(chunk(b"def"), chunk(b""))
    assert waited.wire.answer.body == b"fine"
    assert waited.gate.written == [b"abc", b"def"]


def test_a_body_that_was_there_already_waits_too(waited: Waited) -> None:
    waited.wire.send(request_of("POST", "/", body=b"abc"))
    assert waited.wire.is_paused()
    assert waited.wire.written == b""
    waited.gate.answered.callback(None)
    assert waited.wire.answer.body == b"fine"
    waited.wire.send(request_of("POST", "/", body=b"abc"))
    assert [answer.status for answer in waited.wire.answers] == [200, 200]


def test_an_answer_that_is_there_already(waited: Waited) -> None:
    waited.gate.answered.callback(None)
    waited.wire.send(request_of("POST", "/", body=b"abc"))
    assert not waited.wire.is_paused()
    assert waited.wire.answer.body == b"fine"


@pytest.mark.parametrize("early", [True, False], ids=["already there", "later"])
def test_a_refusal_in_the_middle_of_a_body(waited: Waited, early: bool) -> None:
    refused = Refused(403, "no")
    if early:
        waited.gate.answered.errback(refused)
    waited.wire.send(head_of("POST", "/", CHUNKED) + chunk(b"abc"))
    if not early:
        assert waited.wire.written == b""
        waited.gate.answered.errback(refused)
    assert (waited.wire.answer.status, waited.wire.answer.text) == (403, "no\n")
    assert not waited.wire.is_paused()
    waited.wire.send(chunk(b"def"), chunk(b""))
    assert waited.wire.answer.status == 403
    assert waited.wire.is_closed()


def test_a_refusal_behind_a_body(waited: Waited) -> None:
    waited.wire.send(request_of("POST", "/", body=b"abc"))
    waited.gate.answered.errback(Refused(403, "no"))
    assert (waited.wire.answer.status, waited.wire.answer.text) == (403, "no\n")
    assert not waited.wire.is_closed()


def test_a_check_that_breaks_is_500_and_a_number(waited: Waited, log: Log) -> None:
    waited.wire.send(head_of("POST", "/", CHUNKED))
    waited.gate.answered.errback(KeyError("secret"))
    (event,) = log.of("internal server error")
    text = f"Internal server error, requestid={event['requestid']}\n"
    assert (waited.wire.answer.status, waited.wire.answer.text) == (500, text)
    log.errors_are_fine = True


@pytest.mark.parametrize("refused", [True, False])
def test_an_answer_for_a_sender_that_is_gone(waited: Waited, refused: bool) -> None:
    waited.wire.send(head_of("POST", "/", CHUNKED) + chunk(b"abc"))
    waited.wire.vanish()
    assert waited.gate.abandoned_times == 1
    if refused:
        waited.gate.answered.errback(Refused(403, "no"))
    else:
        waited.gate.answered.callback(None)
    assert waited.wire.written == b""


def test_a_sender_that_goes_after_its_body_is_the_handlers_business(waited: Waited) -> None:
    waited.wire.send(request_of("POST", "/", body=b"abc"))
    waited.wire.vanish()
    assert waited.gate.abandoned_times == 0
    assert waited.site.active == set()


@pytest.mark.parametrize("refused", [True, False])
def test_an_answer_for_a_body_that_was_too_long(waited: Waited, refused: bool) -> None:
    waited.wire.send(head_of("POST", "/", CHUNKED) + chunk(bytes(1001)))
    assert waited.wire.answer.status == 413
    assert not waited.wire.is_paused()
    if refused:
        waited.gate.answered.errback(Refused(403, "no"))
    else:
        waited.gate.answered.callback(None)
    assert waited.wire.answer.status == 413


# --- The real endpoints ---------------------------------------------------------------------------


def test_an_upload_without_a_token_gets_its_401_at_once_and_nothing_is_held() -> None:
    server = Server()
    headers = agent_headers("")
    del headers["Authorization"]
    wire = Wire(server.site)
    wire.send(head_of("POST", "/upload", {**headers, **CHUNKED}))
    assert wire.answer.status == 401
    piece = chunk(bytes(64 * 1024))
    wire.send(piece)
    tracemalloc.start()
    for _ in range(200):
        wire.send(piece)
    held, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert wire.answer.status == 401
    assert held < 64 * 1024
    assert most < 4 * len(piece)


def test_an_upload_whose_length_is_over_the_limit_is_refused_before_its_body() -> None:
    server = Server(limit_bytes=1000)
    headers = {**agent_headers(server.token()), "Content-Length": "1000000", **EXPECT}
    wire = Wire(server.site)
    wire.send(head_of("POST", "/upload", headers))
    assert wire.answer.status == 413
    assert "--limit-bytes" in wire.answer.text


@pytest.mark.parametrize(("length", "status"), [(999, None), (1000, 413)])
def test_the_limit_of_a_plain_length(length: int, status: int | None) -> None:
    server = Server(limit_bytes=1000)
    headers = {**agent_headers(server.token()), "Content-Encoding": ""}
    wire = Wire(server.site)
    wire.send(head_of("POST", "/upload", {**headers, "Content-Length": str(length)}))
    assert [answer.status for answer in wire.answers] == ([] if status is None else [status])


def test_an_upload_that_grows_past_the_limit_is_refused_in_the_middle() -> None:
    server = Server(limit_bytes=1000)
    wire = Wire(server.site)
    wire.send(head_of("POST", "/upload", {**agent_headers(server.token()), **CHUNKED}))
    sent = 0
    while not wire.written:
        wire.send(chunk(bytes(100)))
        sent += 100
    assert wire.answer.status == 413
    # A compressed body may be a little longer than what it holds, but not much.
    assert 1000 <= sent <= 3000


def test_many_tiny_chunks_are_an_upload_like_any_other() -> None:
    server = Server()
    wire = Wire(server.site)
    wire.send(head_of("POST", "/upload", {**agent_headers(server.token()), **CHUNKED}))
    wire.send(b"".join(chunk(bytes([byte])) for byte in BODY) + chunk(b""))
    assert wire.answer.status == 200
    assert len(server.upstream.received) == 1


def test_a_429_comes_before_the_body() -> None:
    server = Server()
    assert server.upload(up()).status == 200
    wire = Wire(server.site)
    headers = {**agent_headers(server.token()), **CHUNKED, **EXPECT}
    wire.send(head_of("POST", "/upload", headers))
    assert (wire.answer.status, wire.answer.headers["retry-after"]) == (429, "270")


def test_two_uploads_of_a_cluster_at_the_same_time() -> None:
    server = Server()
    first, second = Wire(server.site), Wire(server.site)
    head = head_of("POST", "/upload", {**agent_headers(server.token()), **CHUNKED})
    first.send(head)
    second.send(head)
    assert second.answer.status == 429
    first.send(chunk(BODY), chunk(b""))
    assert first.answer.status == 200


def cut_off(wire: Wire, clock: Clock) -> None:
    wire.vanish()


def broken_chunk(wire: Wire, clock: Clock) -> None:
    wire.send(b"zz\r\n")
    wire.close()


def silence(wire: Wire, clock: Clock) -> None:
    clock.advance(11)
    wire.close()


@pytest.mark.parametrize("end", [cut_off, broken_chunk, silence])
def test_the_slot_is_given_back_when_the_sender_is_gone_in_the_middle(
    end: Callable[[Wire, Clock], None],
) -> None:
    server = Server()
    wire = Wire(server.site)
    wire.send(head_of("POST", "/upload", {**agent_headers(server.token()), **CHUNKED}))
    wire.send(chunk(BODY[:10]))
    assert server.upload(up()).status == 429
    end(wire, server.clock)
    assert server.upload(up()).status == 200


def test_the_slot_is_kept_by_an_upload_that_was_too_long() -> None:
    server = Server(limit_bytes=1000)
    headers = {**agent_headers(server.token()), "Content-Length": "1000000"}
    wire = Wire(server.site)
    wire.send(head_of("POST", "/upload", headers))
    assert wire.answer.status == 413
    wire.vanish()
    assert server.upload(up()).status == 429


@pytest.mark.parametrize("with_token", [False, True])
def test_the_body_of_authorize_is_bounded(with_token: bool) -> None:
    server = Server()
    headers = {"Authorization": "Bearer a"} if with_token else {}
    for limited in ({"Content-Length": "4097"}, CHUNKED):
        wire = Wire(server.site)
        wire.send(head_of("POST", f"/authorize?id={CLUSTER}", {**headers, **limited}))
        if limited is CHUNKED:
            assert wire.written == b""
            wire.send(chunk(bytes(4096)))
            assert wire.written == b""
            wire.send(chunk(b"x"))
        assert wire.answer.status == 400
        assert "4096" in wire.answer.text
    assert server.tollbooth.received == []


def test_pipelined_uploads_of_two_clusters() -> None:
    server = Server()
    wire = Wire(server.site)
    for cluster in ("a", "b", "a"):
        body = compress_framed(encode_families([up(cluster=cluster)]))
        wire.send(request_of("POST", "/upload", agent_headers(server.token(cluster)), body))
    assert [answer.status for answer in wire.answers] == [200, 200, 429]
    assert wire.is_closed()
