"""Refusals of uploads are counted by reason, whatever refused them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from telemeter.observe.outcome import Outcome
from telemeter.web.refusals import count_refused_upload
from tests.fakes import Growth
from tests.web.server import Server, up

NAME = "telemeter_upload_refused_total"
METRICS = Path(__file__).parents[2] / "docs" / "metrics.md"


def grown(growth: Growth) -> dict[str, float]:
    return {dict(key)["reason"]: count for key, count in growth.all_of(NAME).items()}


@pytest.mark.parametrize(
    ("status", "kept", "reason"),
    [
        (400, 0, "malformed"),
        (401, 0, "unauthorized"),
        (403, 0, "unauthorized"),
        (405, 0, "other"),
        (408, 0, "too_slow"),
        (413, 0, "size"),
        (415, 0, "content"),
        (429, 0, "too_early"),
        (429, 1, "upstream"),
        (400, 1, "upstream"),
        (499, 0, "gone"),
        (499, 1, "gone"),
        (500, 0, "unavailable"),
        (502, 1, "unavailable"),
        (503, 0, "unavailable"),
        (507, 1, "unavailable"),
    ],
)
def test_the_reason(status: int, kept: int, reason: str) -> None:
    growth = Growth()
    count_refused_upload(Outcome(status=status, kept=kept, path="upload"))
    assert grown(growth) == {reason: 1}


def test_what_is_not_counted() -> None:
    growth = Growth()
    for status, path in ((200, "upload"), (307, "upload"), (401, "receive"), (404, "")):
        count_refused_upload(Outcome(status=status, path=path))
    assert grown(growth) == {}


def test_every_reason_is_on_the_page_from_the_start() -> None:
    documented = re.search(rf"^\| `{NAME}` \|.*$", METRICS.read_text(), re.MULTILINE)
    assert documented is not None
    reasons = set(re.findall(r"`([a-z_]+)`", documented[0])) - {NAME, "reason"}
    assert len(reasons) == 10
    for reason in reasons:
        assert REGISTRY.get_sample_value(NAME, {"reason": reason}) is not None, reason


def test_each_layer_of_a_server() -> None:
    server = Server(limit_bytes=1000, ratelimit=270)
    growth = Growth()
    assert server.upload(up(), token="nonsense").status == 401
    assert server.upload(up(), headers={"Content-Type": "image/png"}).status == 415
    assert server.upload(body=b"nonsense", cluster="a").status == 400
    assert server.upload(body=b"x" * 3000, cluster="b").status == 413
    assert server.upload(up(cluster="c"), cluster="c").status == 200
    assert server.upload(up(cluster="c"), cluster="c").status == 429
    assert server.ask("GET", "/upload").status == 405
    assert grown(growth) == dict.fromkeys(
        ("unauthorized", "content", "malformed", "size", "too_early", "other"), 1
    )
    crowded = Server(inflight_bytes=1)
    growth = Growth()
    assert crowded.upload(up()).status == 503
    assert grown(growth) == {"unavailable": 1}
