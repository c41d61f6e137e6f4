from __future__ import annotations

import pytest
from hypothesis import given

from telemeter.samples.errors import BadInputError
from telemeter.samples.family import (
    Family,
    Metric,
    count_metrics,
    decode_families,
    encode_families,
    holds_its_type,
    is_too_long,
)
from telemeter.samples.proto.metrics_pb2 import (
    COUNTER,
    GAUGE,
    GAUGE_HISTOGRAM,
    HISTOGRAM,
    SUMMARY,
    UNTYPED,
    MetricType,
)
from telemeter.samples.wire import join_delimited

from .build import FIELDS, family, sample
from .recordings import federated
from .strategies import text_families


class TestCodec:
    @given(text_families())
    def test_round_trip(self, families: list[Family]) -> None:
        encoded = encode_families(families)
        assert encode_families(decode_families(encoded)) == encoded

    def test_the_recording_is_decoded_whole(self) -> None:
        families = decode_families(federated())
        assert (len(families), count_metrics(families)) == (464, 881)
        assert encode_families(families) == federated()

    def test_no_bytes_are_no_families(self) -> None:
        assert decode_families(b"") == []
        assert encode_families([]) == b""

    def test_an_empty_message_is_a_family_without_anything(self) -> None:
        (empty,) = decode_families(b"\x00")
        assert not empty.HasField("name")
        assert not empty.HasField("type")
        assert len(empty.metric) == 0

    def test_absent_and_zero_are_told_apart(self) -> None:
        absent = Family(name="a", metric=[Metric()])
        zero = Family(name="a", type=COUNTER, metric=[sample(0.0, at=0, field="counter")])
        first, second = decode_families(encode_families([absent, zero]))
        assert not first.HasField("type")
        assert not first.metric[0].HasField("timestamp_ms")
        assert not first.metric[0].HasField("counter")
        assert second.HasField("type")
        assert second.metric[0].HasField("timestamp_ms")
        assert second.metric[0].counter.HasField("value")

    @pytest.mark.parametrize(
        "extra",
        [
            pytest.param("a0 06 05", id="a number"),
            pytest.param("a2 06 02 ff fe", id="bytes"),
            pytest.param("a1 06 00 00 00 00 00 00 f0 3f", id="a double"),
        ],
    )
    def test_unknown_fields_are_kept(self, extra: str) -> None:
        message = family("up", sample(2.0)).SerializeToString() + bytes.fromhex(extra)
        (decoded,) = decode_families(join_delimited([message]))
        assert decoded.name == "up"
        assert encode_families([decoded]) == join_delimited([message])

    @pytest.mark.parametrize(
        "message",
        [
            pytest.param("0a 02 ff fe", id="name"),
            pytest.param("0a 03 ed a0 80", id="name with a surrogate"),
            pytest.param("12 01 80", id="help"),
            pytest.param("22 05 0a 03 0a 01 ff", id="label name"),
            pytest.param("22 05 0a 03 12 01 ff", id="label value"),
        ],
    )
    def test_text_that_is_not_utf_8_is_refused(self, message: str) -> None:
        good = family("up").SerializeToString()
        data = join_delimited([good, bytes.fromhex(message)])
        with pytest.raises(BadInputError, match="metric family 2 is not a valid message"):
            decode_families(data)

    @pytest.mark.parametrize(
        "message",
        [
            pytest.param("0a 05 61", id="a text longer than its message"),
            pytest.param("07", id="wire type 7"),
            pytest.param("00", id="field 0"),
            pytest.param("18", id="no value"),
            pytest.param("23" * 200, id="groups that never end"),
        ],
    )
    def test_what_is_no_message_is_refused(self, message: str) -> None:
        with pytest.raises(BadInputError, match="metric family 1 is not a valid message"):
            decode_families(join_delimited([bytes.fromhex(message)]))


@pytest.mark.parametrize(
    ("text", "too_long"),
    [
        ("", False),
        ("x" * 255, False),
        ("x" * 256, True),
        ("é" * 127, False),
        ("é" * 128, True),
        ("\U0001f600" * 63, False),
        ("\U0001f600" * 64, True),
    ],
)
def test_length_is_counted_in_bytes(text: str, too_long: bool) -> None:
    assert is_too_long(text) is too_long


class TestHoldsItsType:
    @pytest.mark.parametrize("kind", [COUNTER, GAUGE, UNTYPED, SUMMARY, HISTOGRAM, GAUGE_HISTOGRAM])
    def test_the_field_must_be_that_of_the_type_alone(self, kind: MetricType) -> None:
        right = FIELDS[kind]
        for field in ("counter", "gauge", "untyped", "summary", "histogram"):
            metric = Metric()
            getattr(metric, field).SetInParent()
            if field in ("counter", "gauge", "untyped"):
                getattr(metric, field).value = 0.0
            assert holds_its_type(metric, kind) is (field == right)
            getattr(metric, right).SetInParent()
            getattr(metric, "summary" if right != "summary" else "gauge").SetInParent()
            assert not holds_its_type(metric, kind)
        assert not holds_its_type(Metric(), kind)

    @pytest.mark.parametrize("kind", [COUNTER, GAUGE, UNTYPED])
    def test_a_number_must_be_there(self, kind: MetricType) -> None:
        assert holds_its_type(sample(0.0, field=FIELDS[kind]), kind)
        assert not holds_its_type(sample(None, field=FIELDS[kind]), kind)


def test_metrics_are_counted_over_all_families() -> None:
    assert count_metrics([family("a", sample(), sample()), family("b"), family("c", sample())]) == 3
