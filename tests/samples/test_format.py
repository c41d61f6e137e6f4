from __future__ import annotations

import pytest

from telemeter.samples.exposition import parse_text
from telemeter.samples.family import PROTOBUF_CONTENT_TYPE, TEXT_CONTENT_TYPE, decode_families
from telemeter.samples.format import decoder_for, split_content_type

PROTOBUF = "application/vnd.google.protobuf"
FAMILY = "proto=io.prometheus.client.MetricFamily"


@pytest.mark.parametrize(
    "content_type",
    [
        PROTOBUF_CONTENT_TYPE,
        f"{PROTOBUF}; {FAMILY}; encoding=delimited",
        f"{PROTOBUF};encoding=delimited;{FAMILY}",
        f"{PROTOBUF} ; PROTO = io.prometheus.client.MetricFamily ; Encoding = delimited",
        'Application/Vnd.Google.Protobuf; proto="io.prometheus.client.MetricFamily"',
        f"{PROTOBUF}; {FAMILY}; encoding=delimited; q=0.5; escaping=values",
        f"{PROTOBUF}; {FAMILY}",
        f"{PROTOBUF}; encoding=delimited",
        PROTOBUF,
    ],
)
def test_delimited_families(content_type: str) -> None:
    assert decoder_for(content_type) is decode_families


@pytest.mark.parametrize(
    "content_type",
    [
        TEXT_CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
        "text/plain;version=0.0.4;escaping=underscores",
        'TEXT/Plain; Version="0.0.4"',
        "text/plain",
        "text/plain; charset=utf-8",
        "text/plain; version",
    ],
)
def test_text(content_type: str) -> None:
    assert decoder_for(content_type) is parse_text


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        ";",
        "; version=0.0.4",
        "text",
        "text/plain; version=1.0.0",
        "text/plain; version=",
        "text/plain, text/plain",
        "text/html",
        "application/openmetrics-text; version=1.0.0",
        "application/json",
        "application/x-protobuf",
        f"{PROTOBUF}; {FAMILY}; encoding=text",
        f"{PROTOBUF}; {FAMILY}; encoding=compact-text",
        f"{PROTOBUF}; proto=io.prometheus.client.Metric; encoding=delimited",
        f"{PROTOBUF}; proto=prometheus.WriteRequest",
    ],
)
def test_what_we_do_not_read(content_type: str) -> None:
    assert decoder_for(content_type) is None


def test_a_content_type_is_split() -> None:
    assert split_content_type(' Text/Plain ; A = "b" ;c;D=E=F;') == (
        "text/plain",
        {"a": "b", "d": "E=F"},
    )
