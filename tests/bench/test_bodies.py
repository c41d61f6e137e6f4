"""The bodies are what they promise to be."""

from __future__ import annotations

import pytest

from bench.bodies import NAMES, Bodies, cluster_id, make_series, whitelist
from telemeter.convert.sieve import WriteRules
from telemeter.convert.upload import UploadRules, convert_upload
from telemeter.convert.write import sift_write
from telemeter.samples.compression import decompress_block, decompress_framed
from telemeter.samples.family import decode_families
from telemeter.samples.proto.metrics_pb2 import UNTYPED
from telemeter.samples.proto.remote_pb2 import WriteRequest
from tests.samples.build import NOW

LIMIT = 1 << 30
CLUSTER = cluster_id(3)


@pytest.mark.parametrize("count", [1, 226, 904, 5000])
def test_series_are_as_many_as_wanted_and_all_different(count: int) -> None:
    series = make_series(count)
    assert len(series) == count
    assert len({(each.name, each.labels) for each in series}) == count
    assert series == make_series(count)
    # With the metric's name and the cluster.
    assert {len(each.labels) + 2 for each in series} <= set(range(8, 17))


def test_every_metric_is_there() -> None:
    assert {each.name for each in make_series(226)} == set(NAMES)


def test_an_upload_passes_and_has_the_promised_size() -> None:
    body = decompress_framed(Bodies(make_series(904), NOW).upload(CLUSTER), LIMIT)
    assert 335 < len(body) / 904 < 360
    assert {family.type for family in decode_families(body)} == {UNTYPED}
    converted = convert_upload(body, decode_families, {"_id": CLUSTER}, UploadRules(), NOW)
    assert (converted.series, converted.duplicates, converted.dropped) == (904, 0, 0)


def test_a_write_passes() -> None:
    body = decompress_block(Bodies(make_series(904), NOW).write(CLUSTER), LIMIT)
    names = [[label.name for label in s.labels] for s in WriteRequest.FromString(body).timeseries]
    assert all(each == sorted(each) for each in names)
    written = sift_write(body, WriteRules(cluster=CLUSTER))
    assert (written.series, written.samples, written.duplicates) == (904, 904, 0)


def test_a_cluster_needs_an_identifier_of_the_usual_length() -> None:
    assert len({cluster_id(number) for number in range(100)}) == 100
    with pytest.raises(ValueError, match="36 characters"):
        Bodies(make_series(1), NOW).upload("short")


def test_a_whitelist_has_the_names_of_the_series_among_others() -> None:
    names = whitelist(100)
    assert len(names) == len(set(names)) == 100
    assert set(NAMES) < set(names)
    with pytest.raises(ValueError, match="not enough"):
        whitelist(len(NAMES) - 1)
