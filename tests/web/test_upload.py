"""POST /upload: every rule of docs/protocol.md, "Upload"."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jwt
import pytest
from twisted.internet import error as errors
from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure
from twisted.web.client import ResponseNeverReceived

from telemeter.auth.keys import generate_key
from telemeter.auth.token import TokenIssuer
from telemeter.convert.engine import KIND
from telemeter.convert.upload import UploadRules
from telemeter.loop.clocks import Wall, milliseconds
from telemeter.loop.timeouts import Timeouts
from telemeter.samples.compression import compress_framed, decompress_framed
from telemeter.samples.family import (
    PROTOBUF_CONTENT_TYPE,
    Family,
    decode_families,
    encode_families,
)
from telemeter.samples.proto import metrics_pb2
from telemeter.samples.selector import parse_selector
from telemeter.samples.whitelist import Whitelist
from tests.fakes import (
    NOW,
    NOW_MS,
    SILENCE,
    Answer,
    Broken,
    Growth,
    Log,
    Peer,
    Reply,
    Wire,
    chunk,
    request_of,
    untyped,
)
from tests.web.server import (
    CLUSTER,
    KEY,
    TENANT,
    Caller,
    Server,
    agent_headers,
    forwarded,
    up,
)

ORIGINAL = Path(__file__).parents[1] / "data" / "original"
HOUR_MS = 3600 * 1000
MINUTE_MS = 60 * 1000

Ask = Callable[[Server], Caller]


@pytest.fixture(params=["site", "resource tree"])
def caller_of(request: pytest.FixtureRequest) -> Ask:
    """How to ask a server: through its site, or its resource tree alone."""
    if request.param == "site":
        return lambda server: server.ask
    return lambda server: server.ask_tree


def rules(*selectors: str, **others: Any) -> UploadRules:
    return UploadRules(Whitelist(map(parse_selector, selectors)), **others)


# --- It is taken ----------------------------------------------------------------------------------


def test_an_upload_is_forwarded(caller_of: Ask) -> None:
    server = Server()
    families = [up(1.0, job="a"), untyped("down", ({"_id": CLUSTER}, 2.5))]
    answer = server.upload(*families, caller=caller_of(server))
    assert (answer.status, answer.body) == (200, b"")
    assert forwarded(server.upstream.only) == [
        ({"__name__": "up", "_id": CLUSTER, "job": "a"}, 1.0, NOW_MS),
        ({"__name__": "down", "_id": CLUSTER}, 2.5, NOW_MS),
    ]


def test_it_is_forwarded_with_all_headers() -> None:
    server = Server()
    server.upload(up())
    received = server.upstream.only
    assert (received.method, received.target) == ("POST", "/api/v1/receive")
    assert received.headers["thanos-tenant"] == TENANT
    assert received.headers["content-type"] == "application/x-protobuf"
    assert received.headers["content-encoding"] == "snappy"
    assert received.headers["x-prometheus-remote-write-version"] == "0.1.0"
    assert received.headers["content-length"] == str(len(received.body))
    assert "transfer-encoding" not in received.headers


def test_what_the_original_agent_sent_is_taken() -> None:
    # Its head in its own spelling, its body in chunks, at the time when it was sent.
    head = (ORIGINAL / "agent-upload.head").read_bytes().replace(b"\r\n", b"\n").strip()
    body = (ORIGINAL / "agent-upload.body").read_bytes()
    families = decode_families(decompress_framed(body, 1 << 20))
    metrics = [metric for family in families for metric in family.metric]
    labels = {pair.name: pair.value for pair in metrics[0].label}
    sent = max(metric.timestamp_ms for metric in metrics) / 1000 + 1
    server = Server()
    server.wall.step(sent - NOW)
    token = server.token(labels["_id"], tier=labels["tier"]).encode()
    wire = Wire(server.site)
    wire.send(head.replace(b"jwt-token-x", token).replace(b"\n", b"\r\n") + b"\r\n\r\n")
    half = len(body) // 2
    wire.send(chunk(body[:half]), chunk(body[half:]), chunk(b""))
    assert wire.answer.status == 200
    assert wire.is_closed()
    assert len(forwarded(server.upstream.only)) == len(metrics)
    assert {time for _, _, time in forwarded(server.upstream.only)} == {
        milliseconds(server.wall.now())
    }


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_the_scheme_is_case_insensitive(scheme: str) -> None:
    server = Server()
    headers = {"Authorization": f"{scheme} {server.token()}"}
    assert server.upload(up(), headers=headers).status == 200


@pytest.mark.parametrize(
    "content_type",
    [
        PROTOBUF_CONTENT_TYPE,
        "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;"
        "encoding=delimited",
        'application/vnd.google.protobuf; proto="io.prometheus.client.MetricFamily"; '
        'encoding="delimited"',
        "Application/Vnd.Google.Protobuf; Proto=io.prometheus.client.MetricFamily; "
        "Encoding=delimited; q=1",
        "application/vnd.google.protobuf",
    ],
)
def test_content_types_of_protobuf(content_type: str, caller_of: Ask) -> None:
    server = Server()
    headers = {"Content-Type": content_type}
    assert server.upload(up(), headers=headers, caller=caller_of(server)).status == 200


@pytest.mark.parametrize(
    "content_type", ["text/plain; version=0.0.4", "text/plain", "text/plain; version=0.0.4; x=y"]
)
@pytest.mark.parametrize("encoding", ["snappy", "", "identity", "SNAPPY"])
def test_text_is_taken(content_type: str, encoding: str) -> None:
    server = Server()
    body = f'up{{_id="{CLUSTER}"}} 3 {NOW_MS}\n'.encode()
    if encoding.lower() == "snappy":
        body = compress_framed(body)
    headers = {"Content-Type": content_type, "Content-Encoding": encoding}
    assert server.upload(body=body, headers=headers).status == 200
    assert forwarded(server.upstream.only) == [({"__name__": "up", "_id": CLUSTER}, 3.0, NOW_MS)]


def test_no_content_encoding_means_plain() -> None:
    server = Server()
    headers = agent_headers(server.token())
    del headers["Content-Encoding"]
    answer = server.ask("POST", "/upload", headers, encode_families([up()]))
    assert answer.status == 200
    assert len(server.upstream.received) == 1


@pytest.mark.parametrize("body", [None, b"", compress_framed(b"")])
def test_an_empty_upload_is_fine_and_not_forwarded(body: bytes | None, caller_of: Ask) -> None:
    server = Server()
    answer = caller_of(server)("POST", "/upload", agent_headers(server.token()), body)
    assert answer.status == 200
    assert server.upstream.received == []


# --- 1. Who is it? --------------------------------------------------------------------------------

HEADERS_WITHOUT_TOKEN = [
    None,
    "",
    "Bearer",
    "Bearer ",
    "Bearer  ",
    "Basic YTpi",
    "Token abc",
    "Bearerabc",
    "Bearer abc",
    "Bearer a.b.c",
    "Bearer \x00",
    "Bearer " + "x" * 8000,
]


@pytest.mark.parametrize("value", HEADERS_WITHOUT_TOKEN)
def test_no_or_bad_bearer_is_401(value: str | None, caller_of: Ask) -> None:
    server = Server()
    headers = agent_headers("")
    del headers["Authorization"]
    if value is not None and "\x00" not in value:
        headers["Authorization"] = value
    answer = caller_of(server)("POST", "/upload", headers, compress_framed(b"x" * 20))
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.text.startswith("Not authorized: ")
    assert server.upstream.received == []


def claims_of(server: Server) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(server.token(), options={"verify_signature": False})
    return claims


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"iss": "somebody"}, "issuer"),
        ({"iss": None}, "verified"),
        ({"aud": ["federate"]}, "audience"),
        ({"aud": None}, "verified"),
        ({"exp": NOW}, "expired"),
        ({"exp": NOW - 1}, "expired"),
        ({"exp": None}, "verified"),
        ({"nbf": NOW + 61}, "not valid yet"),
        ({"iat": NOW + 61}, "not valid yet"),
        ({"telemeter.openshift.io": None}, "_id"),
        ({"telemeter.openshift.io": {"labels": {}}}, "_id"),
        ({"telemeter.openshift.io": {"labels": {"_id": ""}}}, "_id"),
        ({"telemeter.openshift.io": {"labels": {"cluster": "x"}}}, "_id"),
    ],
)
def test_claims_that_are_not_right_are_401(
    changed: Mapping[str, Any], word: str, caller_of: Ask
) -> None:
    server = Server()
    claims = {**claims_of(server), **changed}
    claims = {name: value for name, value in claims.items() if value is not None}
    token = jwt.encode(claims, KEY.private, algorithm=KEY.algorithm)
    answer = server.upload(up(), token=token, caller=caller_of(server))
    assert answer.status == 401
    assert word in answer.text
    assert token not in answer.text


def test_a_token_of_another_key_is_401() -> None:
    server = Server()
    token = TokenIssuer(generate_key(), 600).issue("a", {"_id": CLUSTER}, Wall(NOW))
    assert server.upload(up(), token=token).status == 401


def test_a_token_is_good_until_it_expires() -> None:
    server = Server(lifetime=600)
    token = server.token()
    server.clock.advance(599)
    assert server.upload(up(), token=token).status == 200
    server.clock.advance(1)
    assert server.upload(up(), token=token).status == 401


# --- 2. Is it its turn? ---------------------------------------------------------------------------


def test_a_cluster_has_one_upload_per_interval(caller_of: Ask) -> None:
    server = Server(ratelimit=270)
    ask = caller_of(server)
    assert server.upload(up(), caller=ask).status == 200
    answer = server.upload(up(), caller=ask)
    assert answer.status == 429
    assert answer.headers["retry-after"] == "270"
    assert len(server.upstream.received) == 1
    server.clock.advance(269.5)
    answer = server.upload(up(at=NOW_MS + 269_500), caller=ask)
    assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    server.clock.advance(0.5)
    assert server.upload(up(), caller=ask).status == 200


def test_clusters_do_not_share_a_limit() -> None:
    server = Server()
    assert server.upload(up(cluster="a"), cluster="a").status == 200
    assert server.upload(up(cluster="b"), cluster="b").status == 200
    assert server.upload(up(cluster="a"), cluster="a").status == 429


def test_all_tokens_of_a_cluster_share_a_limit() -> None:
    server = Server()
    assert server.upload(up(), token=server.token()).status == 200
    server.clock.advance(1)
    assert server.upload(up(), token=server.token()).status == 429


def test_a_limit_of_zero_is_none() -> None:
    server = Server(ratelimit=0)
    assert [server.upload(up()).status for _ in range(5)] == [200] * 5


def test_another_partition_label_tells_the_clusters_apart() -> None:
    server = Server(partition_label="cluster")
    first = untyped("up", ({"cluster": "a"}, 1.0))
    assert server.upload(first, cluster="a").status == 200
    assert server.upload(first, cluster="a").status == 429
    assert server.upload(first, cluster="b").status == 400


# --- 3. How long is it? ---------------------------------------------------------------------------


def plain(size: int) -> bytes:
    """A body of so many bytes that holds one sample, in text."""
    line = f'up{{_id="{CLUSTER}"}} 1 {NOW_MS}\n'.encode()
    comment = b"#" * (size - len(line) - 1) + b"\n"
    assert len(comment) + len(line) == size
    return comment + line


TEXT = {"Content-Type": "text/plain"}


@pytest.mark.parametrize(("size", "status"), [(999, 200), (1000, 413), (1001, 413), (5000, 413)])
def test_the_limit_of_a_plain_body(size: int, status: int, caller_of: Ask) -> None:
    server = Server(limit_bytes=1000)
    headers = {**TEXT, "Content-Encoding": ""}
    answer = server.upload(body=plain(size), headers=headers, caller=caller_of(server))
    assert answer.status == status
    assert len(server.upstream.received) == (status == 200)


@pytest.mark.parametrize(("size", "status"), [(999, 200), (1000, 413), (9000, 413), (90000, 413)])
def test_the_limit_is_of_the_decompressed_body(size: int, status: int, caller_of: Ask) -> None:
    server = Server(limit_bytes=1000)
    body = compress_framed(plain(size))
    assert len(body) < size
    answer = server.upload(body=body, headers=TEXT, caller=caller_of(server))
    assert answer.status == status
    assert len(server.upstream.received) == (status == 200)


@pytest.mark.parametrize("encoding", ["", "snappy"])
def test_a_413_names_the_flag_the_limit_and_the_size(encoding: str) -> None:
    server = Server(limit_bytes=1000)
    body = plain(1234)
    if encoding:
        body = compress_framed(body)
    headers = {**TEXT, "Content-Encoding": encoding}
    text = server.upload(body=body, headers=headers).text
    assert "--limit-bytes" in text
    assert "1000" in text
    assert "1234" in text


def test_an_upload_that_would_become_too_much_is_told_of_that_limit() -> None:
    """It is under --limit-bytes, and to raise that would not help."""
    made = Family(name="h", type=metrics_pb2.HISTOGRAM)
    metric = made.metric.add(timestamp_ms=NOW_MS)
    metric.label.add(name="_id", value=CLUSTER)
    for number in range(200):
        metric.label.add(name=f"l{number}", value="x" * 250)
    for number in range(500):
        metric.histogram.bucket.add(upper_bound=number)
    answer = Server().upload(made)
    assert answer.status == 413
    assert "the upload becomes more than 16777216 bytes of series, 16" in answer.text
    assert "this limit is fixed" in answer.text
    assert "--limit" not in answer.text


def test_the_default_limit_holds_in_front_of_a_bomb() -> None:
    server = Server()
    bomb = compress_framed(bytes(5_000_000))
    assert len(bomb) < 512_000
    assert server.upload(body=bomb).status == 413


FRAMED = compress_framed(encode_families([up(job="a" * 100)]))


@pytest.mark.parametrize(
    "body",
    [
        b"not snappy",
        FRAMED[:-1],
        FRAMED[:12],
        FRAMED[:-1] + bytes([FRAMED[-1] ^ 1]),
        FRAMED[10:],
        FRAMED + b"\x02\x00\x00\x00",
        encode_families([up()]),
    ],
)
def test_corrupt_snappy_is_400(body: bytes, caller_of: Ask) -> None:
    server = Server()
    answer = server.upload(body=body, caller=caller_of(server))
    assert answer.status == 400
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert server.upstream.received == []


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "text/html",
        "text/plain; version=1.0.0",
        "application/openmetrics-text; version=1.0.0",
        "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=text",
        "application/vnd.google.protobuf; proto=other.Message; encoding=delimited",
        "application/x-protobuf",
        "application/x-www-form-urlencoded",
        "",
        ";;;",
    ],
)
def test_a_content_type_that_we_do_not_speak_is_415(content_type: str, caller_of: Ask) -> None:
    server = Server()
    headers = {"Content-Type": content_type}
    answer = server.upload(up(), headers=headers, caller=caller_of(server))
    assert answer.status == 415
    assert "application/vnd.google.protobuf" in answer.text
    assert server.upstream.received == []


def test_no_content_type_is_415(caller_of: Ask) -> None:
    server = Server()
    headers = agent_headers(server.token())
    del headers["Content-Type"]
    assert caller_of(server)("POST", "/upload", headers, FRAMED).status == 415


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "snappy, gzip", "zstd"])
def test_an_encoding_that_we_do_not_speak_is_415(encoding: str, caller_of: Ask) -> None:
    server = Server()
    headers = {"Content-Encoding": encoding}
    answer = server.upload(up(), headers=headers, caller=caller_of(server))
    assert answer.status == 415
    assert "snappy" in answer.text
    assert encoding in answer.text


# --- 4. Can it be decoded? ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "families",
    [
        b"\x05abc",
        b"\x80\x80\x80\x80\x80\x20",  # a length of 1 TiB, and nothing behind it
        b"\xff" * 12,
        b"\x80",
        b"\x03\xff\xff\xff",
        b"\x04\x0a\x02\xff\xfe",  # a name that is not UTF-8
    ],
)
def test_what_cannot_be_decoded_is_400(families: bytes, caller_of: Ask) -> None:
    server = Server()
    growth = Growth()
    answer = server.upload(body=compress_framed(families), caller=caller_of(server))
    assert answer.status == 400
    assert answer.text.strip()
    assert server.upstream.received == []
    assert growth.of("telemeter_v1_forward_requests_total", result="telemeter_error") == 1


@pytest.mark.parametrize("text", [b"up{", b"up 1 2 3\n", b"up x\n", b"\xff\xfe\n", b"{} 1\n"])
def test_text_that_cannot_be_parsed_is_400(text: bytes) -> None:
    server = Server()
    assert server.upload(body=compress_framed(text), headers=TEXT).status == 400


# --- 5. Is it valid? ------------------------------------------------------------------------------


def family(kind: int | None = metrics_pb2.UNTYPED, name: str = "x") -> Family:
    result = Family(name=name)
    if kind is not None:
        result.type = kind  # type: ignore[assignment]
    return result


def one(result: Family, at: int | None = NOW_MS, **labels: str) -> metrics_pb2.Metric:
    """Add a metric without a value to a family."""
    metric = result.metric.add()
    if at is not None:
        metric.timestamp_ms = at
    for name, value in {"_id": CLUSTER, **labels}.items():
        metric.label.add(name=name, value=value)
    return metric


def with_value(kind: int, field: str) -> Family:
    result = family(kind)
    getattr(one(result), field).value = 1.0
    return result


def gauge_without_value() -> Family:
    result = family(metrics_pb2.GAUGE)
    one(result).gauge.SetInParent()
    return result


def two_values() -> Family:
    result = with_value(metrics_pb2.GAUGE, "gauge")
    result.metric[0].counter.value = 1.0
    return result


def no_timestamp() -> Family:
    result = family()
    one(result, at=None).untyped.value = 1.0
    return result


def decreasing() -> Family:
    result = up(a="1", at=NOW_MS)
    result.metric.add().CopyFrom(result.metric[0])
    result.metric[1].timestamp_ms -= 1
    return result


LONG = "x" * 256
BAD_FAMILIES: dict[str, tuple[Family, str]] = {
    "timestamps decrease": (decreasing(), "increasing order"),
    "no timestamp": (no_timestamp(), "no timestamp"),
    "over a day old": (up(at=NOW_MS - 24 * HOUR_MS - 1), "24 hours"),
    "the required label is missing": (untyped("up", ({}, 1.0)), "_id"),
    "the required label is another": (up(cluster="other"), "_id"),
    "the required label is empty": (up(cluster=""), "_id"),
    "a long metric name": (untyped(LONG, ({"_id": CLUSTER}, 1.0)), "255"),
    "a long label name": (untyped("up", ({"_id": CLUSTER, LONG: "a"}, 1.0)), "255"),
    "a long label value": (up(a=LONG), "255"),
    "a long value in bytes": (up(a="\u00fc" * 128), "255"),
    "a gauge as counter": (with_value(metrics_pb2.COUNTER, "gauge"), "COUNTER"),
    "a counter as gauge": (with_value(metrics_pb2.GAUGE, "counter"), "GAUGE"),
    "a gauge as untyped": (with_value(metrics_pb2.UNTYPED, "gauge"), "UNTYPED"),
    "an untyped as summary": (with_value(metrics_pb2.SUMMARY, "untyped"), "SUMMARY"),
    "an untyped as histogram": (with_value(metrics_pb2.HISTOGRAM, "untyped"), "HISTOGRAM"),
    "a gauge without a value": (gauge_without_value(), "GAUGE"),
    "two values": (two_values(), "GAUGE"),
    "a label __name__": (up(__name__="allowed"), "__name__"),
}


@pytest.mark.parametrize("position", ["first", "last", "alone"])
@pytest.mark.parametrize("name", BAD_FAMILIES)
def test_one_bad_sample_refuses_the_whole_upload(name: str, position: str) -> None:
    bad, word = BAD_FAMILIES[name]
    families = {"first": [bad, up()], "last": [up(), bad], "alone": [bad]}[position]
    server = Server()
    answer = server.upload(*families)
    assert answer.status == 400
    assert word in answer.text
    assert server.upstream.received == []


@pytest.mark.parametrize("name", BAD_FAMILIES)
def test_a_bad_sample_refuses_also_where_it_would_be_filtered_out(
    name: str, caller_of: Ask
) -> None:
    bad, _ = BAD_FAMILIES[name]
    server = Server(rules=rules('{__name__="wanted"}'))
    wanted = untyped("wanted", ({"_id": CLUSTER}, 1.0))
    assert server.upload(wanted, bad, caller=caller_of(server)).status == 400
    assert server.upstream.received == []


def test_every_label_of_the_token_is_required() -> None:
    server = Server(ratelimit=0)
    token = server.token(tier="gold")
    assert server.upload(up(tier="gold"), token=token).status == 200
    for bad in (up(), up(tier="silver"), up(tier="")):
        answer = server.upload(bad, token=token)
        assert answer.status == 400
        assert "tier" in answer.text


@pytest.mark.parametrize(
    "age", [0, 24 * HOUR_MS, -24 * HOUR_MS], ids=["now", "a day old", "a day ahead"]
)
def test_timestamps_up_to_a_day_old_are_taken(age: int) -> None:
    server = Server()
    assert server.upload(up(at=NOW_MS - age)).status == 200


def test_names_of_255_characters_are_taken() -> None:
    longest = "x" * 255
    server = Server()
    answer = server.upload(untyped(longest, ({"_id": CLUSTER, longest: longest}, 1.0)))
    assert answer.status == 200


@pytest.mark.parametrize(
    "dropped",
    [family(name=""), family(None), family()],
    ids=["no name", "no type", "no metrics"],
)
def test_families_without_name_type_or_metrics_are_dropped(dropped: Family) -> None:
    if not dropped.name or not dropped.HasField("type"):
        one(dropped).untyped.value = 1.0
    server = Server()
    assert server.upload(dropped, up()).status == 200
    assert [labels["__name__"] for labels, _, _ in forwarded(server.upstream.only)] == ["up"]


# --- 6. Timestamps --------------------------------------------------------------------------------


def test_timestamps_are_overwritten_and_counted() -> None:
    server = Server()
    growth = Growth()
    offsets = [
        -24 * HOUR_MS,
        -5 * MINUTE_MS - 1,
        -5 * MINUTE_MS,
        0,
        1,
        5 * MINUTE_MS,
        5 * MINUTE_MS + 1,
    ]
    families = [
        untyped("up", ({"_id": CLUSTER, "n": str(n)}, 1.0), at=NOW_MS + offset)
        for n, offset in enumerate(offsets)
    ]
    assert server.upload(*families).status == 200
    assert [time for _, _, time in forwarded(server.upstream.only)] == [NOW_MS] * len(offsets)
    tenses = {
        tense: growth.of("telemeter_overwritten_timestamps_total", tense=tense)
        for tense in ("past", "present", "future")
    }
    assert tenses == {"past": 2, "present": 4, "future": 1}
    assert growth.of("telemeter_v1_forward_overwritten_timestamps_total") == 3


# --- 7. The whitelist -----------------------------------------------------------------------------


def names(server: Server) -> list[str]:
    return [labels["__name__"] for labels, _, _ in forwarded(server.upstream.only)]


@pytest.mark.parametrize(
    ("selectors", "kept"),
    [
        ([], ["up", "down", "cpu_seconds"]),
        (["up"], ["up"]),
        (['{__name__="up"}', '{__name__="down"}'], ["up", "down"]),
        (['{__name__=~"u"}'], []),
        (['{__name__=~"cpu.*"}'], ["cpu_seconds"]),
        (['{__name__!="up"}'], ["down", "cpu_seconds"]),
        (['{job="a"}'], ["up"]),
        (['{job!="a"}'], ["down", "cpu_seconds"]),
        (['{job=""}'], ["down", "cpu_seconds"]),
        (['{__name__="up",job="b"}'], []),
    ],
)
def test_the_whitelist(selectors: list[str], kept: list[str]) -> None:
    server = Server(rules=rules(*selectors))
    growth = Growth()
    answer = server.upload(
        up(job="a"),
        untyped("down", ({"_id": CLUSTER}, 1.0)),
        untyped("cpu_seconds", ({"_id": CLUSTER}, 1.0)),
    )
    assert answer.status == 200
    assert (names(server) if kept else server.upstream.received) == kept
    assert growth.of("telemeter_elide_transform_dropped_total") == 3 - len(kept)
    assert growth.of("telemeter_v1_forward_samples_total") == len(kept)


def test_a_family_of_which_a_part_is_whitelisted_with_labels_to_add() -> None:
    server = Server(rules=rules('{job="a"}', labels={"region": "eu"}))
    samples = [({"_id": CLUSTER, "job": job}, 1.0) for job in ("a", "b", "a2", "c")]
    assert server.upload(untyped("up", *samples)).status == 200
    assert [labels for labels, _, _ in forwarded(server.upstream.only)] == [
        {"__name__": "up", "_id": CLUSTER, "job": "a", "region": "eu"}
    ]


# --- 8. and 9. Labels and values ------------------------------------------------------------------


def test_labels_are_added_overwritten_and_removed() -> None:
    server = Server(
        rules=rules(labels={"region": "eu", "job": "mine"}, elided=frozenset(["pod", "absent"]))
    )
    assert server.upload(up(job="yours", pod="p", a="1")).status == 200
    assert [labels for labels, _, _ in forwarded(server.upstream.only)] == [
        {"__name__": "up", "_id": CLUSTER, "a": "1", "job": "mine", "region": "eu"}
    ]


def test_labels_are_sorted_and_empty_ones_dropped() -> None:
    server = Server()
    result = family()
    metric = one(result, Z="1", a="2", empty="", _z="3")
    metric.untyped.value = 1.0
    metric.label.add(name="", value="nameless")
    metric.label.add(name="a", value="second")
    assert server.upload(result).status == 200
    ((labels, _, _),) = forwarded(server.upstream.only)
    assert list(labels.items()) == [
        ("Z", "1"),
        ("__name__", "x"),
        ("_id", CLUSTER),
        ("_z", "3"),
        ("a", "2"),
    ]


def test_series_that_became_identical_are_forwarded_once() -> None:
    server = Server(rules=rules(elided=frozenset(["pod"])))
    growth = Growth()
    samples = [({"_id": CLUSTER, "pod": str(n)}, float(n)) for n in range(3)]
    assert server.upload(untyped("up", *samples)).status == 200
    assert forwarded(server.upstream.only) == [({"__name__": "up", "_id": CLUSTER}, 0.0, NOW_MS)]
    assert growth.of("telemeter_v1_forward_duplicate_series_total") == 2


@pytest.mark.parametrize("kind", ["counter", "gauge", "untyped"])
@pytest.mark.parametrize(
    "bits",
    [
        0x8000000000000000,  # -0.0
        0x7FF0000000000000,
        0xFFF0000000000000,
        0x7FF0000000000002,  # the stale marker
        0x7FF8000000000001,
        0x0000000000000001,
    ],
)
def test_values_pass_bit_for_bit(kind: str, bits: int) -> None:
    raw = struct.pack("<Q", bits)
    result = family(metrics_pb2.MetricType.Value(kind.upper()))
    metric = one(result)
    # Written as bytes, because a float may change a NaN on the way.
    getattr(metric, kind).MergeFromString(b"\x09" + raw)
    server = Server()
    assert server.upload(result).status == 200
    ((_, value, _),) = forwarded(server.upstream.only)
    assert struct.pack("<d", value) == raw


def test_histograms_and_summaries_are_converted() -> None:
    histogram = family(metrics_pb2.HISTOGRAM, "h")
    of_h = one(histogram).histogram
    of_h.sample_count, of_h.sample_sum = 3, 4.5
    of_h.bucket.add(upper_bound=1.0, cumulative_count=2)
    summary = family(metrics_pb2.SUMMARY, "s")
    of_s = one(summary).summary
    of_s.sample_count, of_s.sample_sum = 2, 1.5
    of_s.quantile.add(quantile=0.5, value=0.25)
    server = Server()
    assert server.upload(histogram, summary).status == 200
    got = {
        (labels["__name__"], labels.get("le", labels.get("quantile", ""))): value
        for labels, value, _ in forwarded(server.upstream.only)
    }
    assert got == {
        ("h_bucket", "1.0"): 2.0,
        ("h_bucket", "+Inf"): 3.0,
        ("h_sum", ""): 4.5,
        ("h_count", ""): 3.0,
        ("s", "0.5"): 0.25,
        ("s_sum", ""): 1.5,
        ("s_count", ""): 2.0,
    }


# --- 10. Forwarding -------------------------------------------------------------------------------


def test_nothing_left_is_200_and_not_forwarded(caller_of: Ask) -> None:
    server = Server(rules=rules("other"))
    assert server.upload(up(), caller=caller_of(server)).status == 200
    assert server.upstream.received == []


def test_the_answer_waits_for_the_upstream() -> None:
    server = Server()
    server.upstream.reply = SILENCE
    wire = Wire(server.site)
    body = compress_framed(encode_families([up()]))
    wire.send(request_of("POST", "/upload", agent_headers(server.token()), body))
    assert wire.written == b""
    server.upstream.only.answer(Reply(204))
    assert wire.answer.status == 200


@pytest.mark.parametrize("status", [200, 201, 202, 204, 299])
def test_every_2xx_of_the_upstream_is_200(status: int, caller_of: Ask) -> None:
    server = Server()
    server.upstream.reply = Reply(status)
    assert server.upload(up(), caller=caller_of(server)).status == 200


SECRET_TEXT = b"upstream says http://upstream.internal:19291 <secret>"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 413, 422, 429, 500, 503, 599])
def test_the_status_of_the_upstream_passes_and_its_text_does_not(
    status: int, caller_of: Ask, log: Log
) -> None:
    server = Server()
    server.upstream.reply = Reply(status, SECRET_TEXT, {"Location": "http://elsewhere.test/"})
    growth = Growth()
    answer = server.upload(up(), caller=caller_of(server))
    assert answer.status == status
    assert "upstream." not in answer.text
    assert "secret" not in answer.text
    assert "location" not in answer.headers
    assert str(status) in answer.text
    assert len(server.upstream.received) == 1
    assert "secret" in "".join(log.lines)
    assert growth.of("telemeter_v1_forward_requests_total", result="error") == 1
    assert growth.of("telemeter_v1_forward_samples_total") == 0


@pytest.mark.parametrize("status", [300, 302, 304, 307, 399, 600, 999])
def test_a_status_of_the_upstream_that_no_client_can_be_given_is_502(
    status: int, caller_of: Ask
) -> None:
    server = Server()
    server.upstream.reply = Reply(status, headers={"Location": "http://elsewhere.test/"})
    answer = server.upload(up(), caller=caller_of(server))
    assert answer.status == 502
    assert answer.text == f"the upstream answered with the unexpected status {status}\n"
    assert "location" not in answer.headers
    assert len(server.upstream.received) == 1


@pytest.mark.parametrize("value", ["17", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_retry_after_of_the_upstream_passes(value: str) -> None:
    server = Server()
    server.upstream.reply = Reply(503, headers={"Retry-After": value})
    answer = server.upload(up())
    assert (answer.status, answer.headers["retry-after"]) == (503, value)


def test_a_malformed_retry_after_of_the_upstream_does_no_harm() -> None:
    server = Server()
    server.upstream.reply = Reply(503, headers={"Retry-After": b"\xff\xfe"})
    assert server.upload(up()).status == 503


@pytest.mark.parametrize(
    "error",
    [
        errors.ConnectionRefusedError(),
        errors.DNSLookupError("no such host"),
        errors.ConnectionLost(),
        ResponseNeverReceived([Failure(OSError("TLS"))]),
    ],
    ids=["refused", "no host", "lost", "no response"],
)
def test_an_upstream_that_cannot_be_reached_is_502(error: Exception, caller_of: Ask) -> None:
    server = Server(forward_agent=Broken(error))
    growth = Growth()
    answer = server.upload(up(), caller=caller_of(server))
    assert (answer.status, answer.text) == (502, "the upstream did not answer\n")
    assert growth.of("telemeter_v1_forward_requests_total", result="error") == 1


def test_an_upstream_that_does_not_answer_is_502_after_5_seconds() -> None:
    server = Server()
    server.upstream.reply = SILENCE
    wire = Wire(server.site)
    body = compress_framed(encode_families([up()]))
    wire.send(request_of("POST", "/upload", agent_headers(server.token()), body))
    server.clock.advance(4.9)
    assert wire.written == b""
    server.clock.advance(0.1)
    assert wire.answer.status == 502


@pytest.mark.parametrize("status", [400, 429, 500, 503])
def test_the_slot_is_given_back_when_the_upstream_refuses(status: int, caller_of: Ask) -> None:
    server = Server()
    server.upstream.reply = [Reply(status), Reply(200)]
    ask = caller_of(server)
    got = [server.upload(up(), caller=ask).status for _ in range(3)]
    assert got == [status, 200, 429]


def test_the_slot_is_given_back_when_the_upstream_is_not_there() -> None:
    peer = Peer()
    server = Server(forward_agent=Broken(errors.ConnectionRefusedError(), then=peer.agent))
    assert [server.upload(up()).status for _ in range(3)] == [502, 200, 429]


def test_the_slot_is_given_back_after_a_timeout() -> None:
    server = Server()
    server.upstream.reply = [SILENCE, Reply(200)]
    wire = Wire(server.site)
    body = compress_framed(encode_families([up()]))
    wire.send(request_of("POST", "/upload", agent_headers(server.token()), body))
    assert server.upload(up()).status == 429
    server.clock.advance(5)
    assert wire.answer.status == 502
    assert server.upload(up()).status == 200


def test_a_late_failure_does_not_free_the_slot_of_the_next_interval() -> None:
    server = Server(ratelimit=1)
    server.upstream.reply = [SILENCE, Reply(200)]
    wire = Wire(server.site)
    body = compress_framed(encode_families([up()]))
    wire.send(request_of("POST", "/upload", agent_headers(server.token()), body))
    server.clock.advance(4.5)
    assert server.upload(up()).status == 200
    server.clock.advance(0.5)
    assert wire.answer.status == 502
    assert server.upload(up()).status == 429


def test_a_refused_upload_uses_up_the_slot() -> None:
    server = Server()
    assert [server.upload(up(cluster="other")).status for _ in range(2)] == [400, 429]


@pytest.mark.parametrize("encoding", ["identity", "snappy"])
def test_an_upload_that_others_crowd_out_gets_its_slot_back(encoding: str) -> None:
    """Its body finds no room as it arrives, or (snappy) when it is decompressed."""
    server = Server(inflight_bytes=5000)
    other = Wire(server.site)
    head = request_of("POST", "/upload", agent_headers(server.token("other")), b"x" * 1300)
    other.send(head[:-100])
    value = "a" * 250
    body = encode_families([up(a=value, b=value, c=value, d=value)])
    if encoding == "snappy":
        body = compress_framed(body)
    headers = {"Content-Encoding": encoding}
    crowded = server.upload(body=body, headers=headers)
    assert crowded.status == 503
    assert crowded.headers["retry-after"] == "15"
    assert "--max-inflight-bytes" in crowded.text
    other.vanish()
    assert [server.upload(body=body, headers=headers).status for _ in range(2)] == [200, 429]


# --- Which comes first ----------------------------------------------------------------------------


class Asked:
    """A request with some defects."""

    def __init__(self, *defects: str) -> None:
        self.server = Server(limit_bytes=1000)
        has = set(defects).__contains__
        if has("429"):
            assert self.server.upload(up()).status == 200
        self.method = "PUT" if has("405") else "POST"
        self.target = "/uploads" if has("404") else "/upload"
        self.headers = agent_headers("x" if has("401") else self.server.token())
        if has("415"):
            self.headers["Content-Type"] = "text/html"
        good = encode_families([up(cluster="other") if has("400") else up()])
        self.body = compress_framed(good + bytes(2000) if has("413") else good)

    def answer(self, ask: Caller) -> Answer:
        return ask(self.method, self.target, self.headers, self.body)


ORDER = ["404", "405", "401", "429", "415", "413", "400"]


@pytest.mark.parametrize("first", range(len(ORDER)), ids=ORDER)
def test_the_first_step_that_refuses_answers(first: int, caller_of: Ask) -> None:
    asked = Asked(*ORDER[first:])
    answer = asked.answer(caller_of(asked.server))
    assert str(answer.status) == ORDER[first]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "FOO"])
def test_another_method_is_405_with_allow(method: str) -> None:
    server = Server()
    answer = server.ask(method, "/upload", agent_headers(server.token()))
    assert (answer.status, answer.headers["allow"]) == (405, "POST")
    answer = server.ask(method, "/upload", agent_headers(server.token()), b"body")
    assert (answer.status, answer.headers["allow"]) == (405, "POST")


def test_head_is_405_too() -> None:
    answer = Server().ask("HEAD", "/upload")
    assert (answer.status, answer.headers["allow"], answer.body) == (405, "POST", b"")


# --- The conversion -------------------------------------------------------------------------------


def big() -> Family:
    """Much, and not what the compiled code knows: one metric has very many labels."""
    made = usual()
    for number in range(200):
        made.metric[0].label.add(name=f"label_{number}", value="x")
    return made


def usual() -> Family:
    return untyped("up", *[({"_id": CLUSTER, "n": f"{n:050}"}, 1.0) for n in range(1000)])


def test_a_large_usual_body_needs_a_thread_without_the_compiled_code_only() -> None:
    calls: list[Any] = []

    def run(function: Any, *arguments: Any) -> Deferred[Any]:
        calls.append(function)
        return succeed(function(*arguments))

    server = Server(run=run)
    headers = {"Content-Encoding": ""}
    assert server.upload(body=encode_families([usual()]), headers=headers).status == 200
    assert len(forwarded(server.upstream.only)) == 1000
    assert len(calls) == (0 if KIND == "compiled" else 1)


def test_a_large_body_is_converted_by_the_runner() -> None:
    calls: list[tuple[Any, ...]] = []
    waiting: list[Deferred[Any]] = []

    def run(*arguments: Any) -> Deferred[Any]:
        calls.append(arguments)
        waiting.append(Deferred())
        return waiting[-1]

    server = Server(run=run)
    body = encode_families([big()])
    wire = Wire(server.site)
    headers = {**agent_headers(server.token()), "Content-Encoding": ""}
    wire.send(request_of("POST", "/upload", headers, body))
    assert wire.written == b""
    ((function, *arguments),) = calls
    waiting[0].callback(function(*arguments))
    assert wire.answer.status == 200
    assert len(forwarded(server.upstream.only)) == 1000


def test_a_small_body_is_converted_at_once(log: Log) -> None:
    log.errors_are_fine = True  # of the last upload, which is too large for that
    server = Server(run=lambda *_: fail(AssertionError("a thread for a small body")))
    assert server.upload(up()).status == 200
    # Text is converted the slow way.
    body = f'up{{_id="2"}} 1 {NOW_MS}\n'.encode().ljust(4096, b"\n")
    headers = {**TEXT, "Content-Encoding": ""}
    assert server.upload(cluster="2", body=body, headers=headers).status == 200
    assert server.upload(cluster="3", body=body + b"\n", headers=headers).status == 500


def test_a_conversion_that_breaks_is_500_with_a_number(log: Log) -> None:
    server = Server(run=lambda *_: fail(OSError("the details")))
    headers = {"Content-Encoding": ""}
    answer = server.upload(body=encode_families([big()]), headers=headers)
    assert answer.status == 500
    text, _, number = answer.text.strip().rpartition("=")
    assert text == "Internal server error, requestid"
    (broken,) = log.of("internal server error")
    assert str(broken["requestid"]) == number
    assert "the details" in "".join(log.lines)
    log.errors_are_fine = True


# --- A sender that goes away ----------------------------------------------------------------------


def test_a_sender_that_goes_during_the_conversion_may_come_again_at_once() -> None:
    server = Server(run=lambda *_: Deferred())
    wire = Wire(server.site)
    headers = {**agent_headers(server.token()), "Content-Encoding": ""}
    wire.send(request_of("POST", "/upload", headers, encode_families([big()])))
    assert server.upload(up()).status == 429
    wire.vanish()
    assert server.upload(up()).status == 200


def test_a_sender_that_goes_during_the_forward_may_come_again_at_once(log: Log) -> None:
    server = Server()
    server.upstream.reply = [SILENCE, Reply(200)]
    wire = Wire(server.site)
    body = compress_framed(encode_families([up()]))
    wire.send(request_of("POST", "/upload", agent_headers(server.token()), body))
    wire.vanish()
    assert server.upload(up()).status == 200
    assert [event["status"] for event in log.requests()] == [499, 200]


# --- The wall clock is set ------------------------------------------------------------------------


@pytest.mark.parametrize("step", [-3600, 3600])
def test_setting_the_wall_clock_moves_no_turn(step: int) -> None:
    server = Server()
    assert server.upload(up()).status == 200
    server.clock.advance(100)
    server.wall.step(step)
    answer = server.upload(up())
    assert (answer.status, answer.headers["retry-after"]) == (429, "170")
    server.clock.advance(169.9)
    assert server.upload(up()).status == 429
    server.clock.advance(0.1)
    assert server.upload(up()).status == 200
    first, second = server.upstream.received
    assert [at for _, _, at in forwarded(first)] == [NOW * 1000]
    assert [at for _, _, at in forwarded(second)] == [(NOW + 270 + step) * 1000]


def test_a_token_holds_by_the_wall_clock_and_another_makes_up_for_it() -> None:
    server, other = Server(ratelimit=0, lifetime=7200), Server(ratelimit=0, lifetime=7200)
    token = server.token()
    assert server.upload(up(), token=token).status == 200
    for each in (server, other):
        each.wall.step(-3600)
    # It was good a moment ago, and is the same as then; who sees it for the first time cannot know.
    assert server.upload(up(), token=token).status == 200
    refused = other.upload(up(), token=token)
    assert (refused.status, "not valid yet" in refused.text) == (401, True)
    assert other.upload(up()).status == 200
    server.wall.step(3 * 3600)
    assert "expired" in server.upload(up(), token=token).text
    assert server.upload(up(at=(NOW + 7200) * 1000)).status == 200


# --- The time of a request ------------------------------------------------------------------------


def test_who_gets_no_answer_in_time_is_told_to_come_again_and_has_its_slot() -> None:
    growth = Growth()
    server = Server(timeouts=Timeouts(request=3))
    server.upstream.reply = SILENCE
    wire = Wire(server.site)
    wire.send(upload_of(server))
    server.clock.advance(2.9)
    assert wire.written == b""
    server.clock.advance(0.1)
    answer = wire.answer
    assert (answer.status, answer.headers["retry-after"]) == (503, "15")
    assert answer.text == (
        "there was no answer within 3 seconds (--request-timeout): another server that is needed "
        "for it is slow or down\n"
    )
    assert growth.of("telemeter_requests_late_total") == 1
    assert not wire.is_closed()
    server.upstream.reply = Reply()
    assert server.upload(up()).status == 200
    server.clock.advance(100)
    assert len(wire.answers) == 1


def test_the_time_begins_with_the_last_byte_of_the_body() -> None:
    server = Server(timeouts=Timeouts(request=3))
    server.upstream.reply = SILENCE
    wire = Wire(server.site)
    data = upload_of(server)
    wire.send(data[:-1])
    server.clock.advance(5)
    wire.send(data[-1:])
    server.clock.advance(2.9)
    assert wire.written == b""
    server.clock.advance(0.1)
    assert wire.answer.status == 503


def upload_of(server: Server) -> bytes:
    """An upload as it comes over a connection."""
    body = compress_framed(encode_families([up()]))
    return request_of("POST", "/upload", agent_headers(server.token()), body)
