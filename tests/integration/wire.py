"""What agents and other senders say to a server, said by a test: tokens, bodies, headers."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import cramjam

from demo.stack import Answer, fetch
from telemeter.auth.composite import make_composite
from telemeter.samples.compression import compress_block
from telemeter.samples.proto.metrics_pb2 import LabelPair, Metric, MetricFamily, MetricType
from telemeter.samples.proto.remote_pb2 import WriteRequest

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Mapping

CONTENT_TYPE = (
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"
)
UPLOAD_HEADERS = {"Content-Type": CONTENT_TYPE, "Content-Encoding": "snappy"}


def authorize(
    server_url: str, cluster: str, token: str, context: ssl.SSLContext | None = None
) -> str:
    """Exchange a cluster's token for a JWT."""
    url = f"{server_url}/authorize?id={cluster}"
    headers = {"Authorization": f"Bearer {token}"}
    answer = fetch(url, method="POST", headers=headers, context=context)
    assert answer.status == 200, answer.text
    return token_in(answer.body)


def token_in(answer: bytes) -> str:
    """Return the JWT in an answer of /authorize."""
    jwt: str = json.loads(answer)["token"]
    return jwt


def upload(server_url: str, jwt: str, body: bytes, context: ssl.SSLContext | None = None) -> Answer:
    """Upload a body that is compressed already."""
    headers = {**UPLOAD_HEADERS, "Authorization": f"Bearer {jwt}"}
    url = f"{server_url}/upload"
    return fetch(url, method="POST", headers=headers, body=body, seconds=30, context=context)


def write_headers(cluster: str, secret: str) -> dict[str, str]:
    """Return the headers of a request of remote write 1.0."""
    return {
        "Authorization": f"Bearer {make_composite(cluster, secret)}",
        "Content-Type": "application/x-protobuf",
        "Content-Encoding": "snappy",
    }


def write_body(cluster: str, name: str = "written") -> bytes:
    """Return the body of a request of remote write 1.0 with one sample, taken now."""
    request = WriteRequest()
    series = request.timeseries.add()
    for label, value in (("__name__", name), ("_id", cluster)):
        series.labels.add(name=label, value=value)
    series.samples.add(value=1, timestamp=int(time.time() * 1000))
    return compress_block(request.SerializeToString())


def gauge(name: str, value: float, labels: Mapping[str, str]) -> MetricFamily:
    """Return a family with one sample, taken now."""
    metric = Metric(timestamp_ms=int(time.time() * 1000))
    metric.gauge.value = value
    metric.label.extend(LabelPair(name=key, value=text) for key, text in labels.items())
    return MetricFamily(name=name, type=MetricType.GAUGE, metric=[metric])


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def encode(families: Iterable[MetricFamily]) -> bytes:
    """Return the body of an upload: delimited messages in framed snappy."""
    messages = [family.SerializeToString() for family in families]
    return bytes(cramjam.snappy.compress(b"".join(_varint(len(m)) + m for m in messages)))


def decode(body: bytes) -> list[MetricFamily]:
    """Return the families of an upload's body."""
    plain = bytes(cramjam.snappy.decompress(body))
    families = []
    at = 0
    while at < len(plain):
        length = shift = 0
        while True:
            byte = plain[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        families.append(MetricFamily.FromString(plain[at : at + length]))
        at += length
    return families
