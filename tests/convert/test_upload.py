from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import pytest

from telemeter.convert.engine import UploadConverter
from telemeter.convert.results import Converted
from telemeter.convert.upload import UploadRules, convert_upload
from telemeter.samples.errors import BadInputError, TooLargeError
from telemeter.samples.exposition import parse_text
from telemeter.samples.family import Family, Metric, decode_families, encode_families
from telemeter.samples.limits import MAX_OUTPUT
from telemeter.samples.proto.metrics_pb2 import (
    COUNTER,
    GAUGE,
    GAUGE_HISTOGRAM,
    HISTOGRAM,
    SUMMARY,
    UNTYPED,
    BucketSpan,
    Histogram,
    MetricType,
)
from telemeter.samples.proto.remote_pb2 import Histogram as NativeHistogram
from telemeter.samples.proto.remote_pb2 import WriteRequest
from telemeter.samples.selector import parse_selector
from telemeter.samples.whitelist import Whitelist
from tests.samples.build import (
    DAY,
    FIELDS,
    HOUR,
    NOW,
    STALE_NAN,
    bits,
    double,
    family,
    histogram,
    labelled,
    sample,
    series_of,
)
from tests.samples.recordings import federated, forwarded, uploaded

MINUTE = HOUR // 60
LONG, TOO_LONG = "x" * 255, "x" * 256
NOTHING = UploadRules()
#: Seconds of processor time.
SOON = 5.0


def whitelist(*rules: str) -> Whitelist:
    return Whitelist(parse_selector(rule) for rule in rules)


def convert(
    *families: Family, required: Mapping[str, str] | None = None, rules: UploadRules = NOTHING
) -> Converted:
    return convert_upload(encode_families(families), decode_families, required or {}, rules, NOW)


def names(result: Converted) -> list[str]:
    return [labels["__name__"] for labels, *_ in series_of(result.payload)]


class TestDecode:
    """Step 4."""

    def test_what_cannot_be_decoded_is_refused(self) -> None:
        with pytest.raises(BadInputError, match="1 bytes are left"):
            convert_upload(b"\x05a", decode_families, {}, NOTHING, NOW)

    def test_text_is_converted_as_well(self) -> None:
        text = f'# TYPE up gauge\nup{{job="a"}} 1 {NOW}\ndown NaN {NOW}\n'.encode()
        result = convert_upload(text, parse_text, {}, NOTHING, NOW)
        assert series_of(result.payload) == [
            ({"__name__": "up", "job": "a"}, bits(1.0), NOW),
            ({"__name__": "down"}, 0x7FF8000000000001, NOW),
        ]


class TestValidate:
    """Step 5."""

    @pytest.mark.parametrize(
        "made",
        [
            pytest.param(Family(type=UNTYPED, metric=[sample()]), id="no name"),
            pytest.param(family("", sample(at=None)), id="empty name"),
            pytest.param(Family(name="a", metric=[sample(at=None)]), id="no type"),
            pytest.param(family("a"), id="no metrics"),
            pytest.param(family(TOO_LONG), id="no metrics and a long name"),
            pytest.param(Family(), id="nothing"),
        ],
    )
    def test_families_that_are_dropped_unseen(self, made: Family) -> None:
        result = convert(made, family("up", sample()), made)
        assert names(result) == ["up"]
        assert (result.received, result.dropped, result.series) == (1, 0, 1)

    @pytest.mark.parametrize(
        ("bad", "reason"),
        [
            pytest.param(
                [family(TOO_LONG, sample())],
                f"^a metric name may have 255 bytes, this one has more: '{'x' * 64}'...$",
                id="long metric name",
            ),
            pytest.param(
                [family("é" * 128, sample())],
                "^a metric name may have 255 bytes, this one has more",
                id="metric name long in bytes",
            ),
            pytest.param(
                [Family(name="bad", type=6, metric=[sample()])],  # type: ignore[arg-type]
                "^metric bad: metric type 6 is not known$",
                id="unknown type",
            ),
            pytest.param(
                [family("bad", sample(at=NOW), sample(at=NOW - 1))],
                "^metric bad: the samples are not in increasing order of their timestamps$",
                id="decreasing timestamps",
            ),
            pytest.param(
                [family("bad", sample(at=NOW), sample(at=NOW - DAY - 1))],
                "^metric bad: the samples are not in increasing order of their timestamps$",
                id="timestamps decreasing to over a day old",
            ),
            pytest.param(
                [family("bad", sample(at=None))],
                "^metric bad: a sample has no timestamp$",
                id="no timestamp",
            ),
            pytest.param(
                [family("bad", sample(), sample(at=None))],
                "^metric bad: a sample has no timestamp$",
                id="no timestamp after one",
            ),
            pytest.param(
                [family("bad", sample(at=NOW - DAY - 1))],
                "^metric bad: a timestamp is over 24 hours old: check the clocks$",
                id="over a day old",
            ),
            pytest.param(
                [family("bad", sample(at=0))],
                "^metric bad: a timestamp is over 24 hours old",
                id="from the epoch",
            ),
            pytest.param(
                [family("bad", sample(at=-1))],
                "^metric bad: a timestamp is over 24 hours old",
                id="before the epoch",
            ),
            pytest.param(
                [family("bad", labelled((TOO_LONG, "a")))],
                f"^metric bad: label '{'x' * 64}': its name and its value may have 255 bytes each$",
                id="long label name",
            ),
            pytest.param(
                [family("bad", labelled(("é" * 128, "")))],
                "^metric bad: label 'é+': its name and its value may have 255 bytes each$",
                id="label name long in bytes",
            ),
            pytest.param(
                [family("bad", labelled(("a", TOO_LONG)))],
                "^metric bad: label 'a': its name and its value may have 255 bytes each$",
                id="long label value",
            ),
            pytest.param(
                [family("bad", labelled(("a", "b"), ("a", TOO_LONG)))],
                "^metric bad: label 'a': its name and its value may have 255 bytes each$",
                id="long value of a repeated label",
            ),
            pytest.param(
                [family("bad", labelled(("", TOO_LONG)))],
                "^metric bad: label '': its name and its value may have 255 bytes each$",
                id="long value of a label without a name",
            ),
            pytest.param(
                [family("bad", labelled(("__name__", "good")))],
                "^metric bad: a label may not be named __name__$",
                id="label __name__",
            ),
            pytest.param(
                [family("bad", labelled(("__name__", "")))],
                "^metric bad: a label may not be named __name__$",
                id="empty label __name__",
            ),
            pytest.param(
                [family("bad", sample(None))],
                "^metric bad: a sample of type UNTYPED must have the value of that type, and no",
                id="no number",
            ),
            pytest.param(
                [family("bad", Metric(timestamp_ms=NOW), kind=GAUGE)],
                "^metric bad: a sample of type GAUGE must have the value of that type, and no",
                id="no value",
            ),
            pytest.param(
                [family("bad", sample(field="counter"), kind=HISTOGRAM)],
                "^metric bad: a sample of type HISTOGRAM must have the value of that type, and no",
                id="another type's value",
            ),
        ],
    )
    @pytest.mark.parametrize("allowed", ["up", "bad"])
    def test_one_bad_sample_refuses_everything(
        self, bad: list[Family], reason: str, allowed: str
    ) -> None:
        """Also when it would have been filtered out later."""
        rules = UploadRules(whitelist(allowed))
        for families in (bad, [family("up", sample()), *bad, family("up", sample())]):
            with pytest.raises(BadInputError, match=reason):
                convert(*families, rules=rules)

    @pytest.mark.parametrize(
        "good",
        [
            family(LONG, sample()),
            family("up", labelled((LONG, LONG))),
            family("up", sample(at=NOW - DAY)),
            family("up", sample(at=NOW + 10 * DAY)),
            family("up", sample(at=NOW - 1, a="1"), sample(at=NOW - 1, a="2"), sample(at=NOW)),
        ],
    )
    def test_what_is_just_good(self, good: Family) -> None:
        assert convert(good).series == len(good.metric)

    def test_timestamps_may_decrease_from_one_family_to_the_next(self) -> None:
        result = convert(family("a", sample(at=NOW)), family("b", sample(at=NOW - HOUR)))
        assert result.series == 2

    @pytest.mark.parametrize(
        ("pairs", "reason"),
        [
            ([], "a required label is missing: _id='test'"),
            ([("tier", "gold")], "a required label is missing: _id='test'"),
            ([("_id", "test")], "a required label is missing: tier='gold'"),
            ([("_id", ""), ("tier", "gold")], "a required label is missing: _id='test'"),
            ([("_id", "Test"), ("tier", "gold")], "label _id must be 'test', it is 'Test'"),
            ([("_id", "test"), ("tier", "tin")], "label tier must be 'gold', it is 'tin'"),
            ([("_id", "a"), ("_id", "test"), ("tier", "gold")], "label _id must be 'test'"),
        ],
    )
    def test_labels_that_the_token_carries_are_required(
        self, pairs: list[tuple[str, str]], reason: str
    ) -> None:
        required = {"_id": "test", "tier": "gold"}
        good = sample(_id="test", tier="gold")
        with pytest.raises(BadInputError, match=f"^metric bad: {reason}"):
            convert(family("bad", good, labelled(*pairs)), required=required)

    @pytest.mark.parametrize(
        "pairs",
        [
            [("_id", "test"), ("tier", "gold")],
            [("tier", "gold"), ("a", "b"), ("_id", "test")],
            [("tier", "gold"), ("_id", ""), ("_id", "test")],
            [("tier", "gold"), ("_id", "test"), ("_id", "other")],
        ],
    )
    def test_a_sample_may_carry_them_anywhere(self, pairs: list[tuple[str, str]]) -> None:
        required = {"_id": "test", "tier": "gold"}
        result = convert(family("up", labelled(*pairs)), required=required)
        (only,) = series_of(result.payload)
        assert required.items() <= only[0].items()

    def test_a_required_label_may_be_empty(self) -> None:
        assert convert(family("up", sample()), required={"tier": ""}).series == 1
        with pytest.raises(BadInputError, match="label tier must be '', it is 'gold'"):
            convert(family("up", sample(tier="gold")), required={"tier": ""})

    @pytest.mark.parametrize("kind", FIELDS)
    def test_a_value_must_match_the_type(self, kind: MetricType) -> None:
        for field in ("counter", "gauge", "untyped", "summary", "histogram"):
            number = 1.0 if field in ("counter", "gauge", "untyped") else None
            made = family("up", sample(number, field=field), kind=kind)
            if field == FIELDS[kind]:
                assert convert(made).received == 1
            else:
                with pytest.raises(BadInputError, match="must have the value of that type"):
                    convert(made)
            second = made.metric[0]
            getattr(second, "gauge" if field != "gauge" else "counter").value = 1.0
            with pytest.raises(BadInputError, match="must have the value of that type, and no"):
                convert(made)


class TestTimestamps:
    """Step 6."""

    @pytest.mark.parametrize(
        ("drift", "past", "present", "future", "overwritten_future"),
        [
            (-DAY, 1, 0, 0, 0),
            (-5 * MINUTE - 1, 1, 0, 0, 0),
            (-5 * MINUTE, 0, 1, 0, 0),
            (0, 0, 1, 0, 0),
            (1, 0, 1, 0, 1),
            (5 * MINUTE, 0, 1, 0, 1),
            (5 * MINUTE + 1, 0, 0, 1, 1),
            (10 * DAY, 0, 0, 1, 1),
        ],
    )
    def test_all_are_counted_and_overwritten(
        self, drift: int, past: int, present: int, future: int, overwritten_future: int
    ) -> None:
        result = convert(family("up", sample(at=NOW + drift)))
        assert (result.past, result.present, result.future) == (past, present, future)
        assert result.overwritten_future == overwritten_future
        assert result.newest_ms == NOW + drift
        assert series_of(result.payload) == [({"__name__": "up"}, bits(1.0), NOW)]

    def test_the_newest_is_known_whichever_family_it_is_in(self) -> None:
        families = [
            family(name, sample(at=NOW + at)) for name, at in (("a", -9), ("b", 7), ("c", 0))
        ]
        assert convert(*families).newest_ms == NOW + 7
        assert convert(family("down")).newest_ms == 0

    def test_those_of_dropped_samples_count_too(self) -> None:
        result = convert(family("up", sample()), rules=UploadRules(whitelist("down")))
        assert (result.present, result.dropped, result.series) == (1, 1, 0)


class TestWhitelist:
    """Step 7."""

    @pytest.mark.parametrize(
        ("rules", "kept"),
        [
            ([], ["a1", "a2", "b1"]),
            (["a"], ["a1", "a2"]),
            (["c"], []),
            (['a{n="1"}'], ["a1"]),
            (['{n="1"}'], ["a1", "b1"]),
            (["b", 'a{n="2"}'], ["a2", "b1"]),
            (['{__name__=~"a|b",n!="2"}'], ["a1", "b1"]),
            (['a{other=""}'], ["a1", "a2"]),
            (['a{other!="x"}'], ["a1", "a2"]),
        ],
    )
    def test_one_rule_must_match(self, rules: list[str], kept: list[str]) -> None:
        """Of a family, a part may be kept, also when labels are added."""
        result = convert(
            family("a", sample(n="1"), sample(n="2")),
            family("b", sample(n="1")),
            rules=UploadRules(whitelist(*rules), {"region": "eu"}),
        )
        found = series_of(result.payload)
        assert [labels["__name__"] + labels["n"] for labels, *_ in found] == kept
        assert all(labels["region"] == "eu" for labels, *_ in found)
        assert (result.received, result.dropped) == (3, 3 - len(kept))

    def test_it_sees_the_labels_as_they_came(self) -> None:
        """Labels are added and elided after it."""
        rules = UploadRules(
            whitelist('{region="us",_elide="x"}'), {"region": "eu"}, frozenset(["_elide"])
        )
        result = convert(
            family("up", sample(region="us", _elide="x"), sample(region="eu", _elide="x")),
            rules=rules,
        )
        assert series_of(result.payload) == [({"__name__": "up", "region": "eu"}, bits(1.0), NOW)]

    def test_it_sees_the_first_of_labels_with_one_name(self) -> None:
        made = family("up", labelled(("a", ""), ("a", "1"), ("a", "2")))
        assert convert(made, rules=UploadRules(whitelist('{a="1"}'))).series == 1
        assert convert(made, rules=UploadRules(whitelist('{a=""}', '{a="2"}'))).series == 0

    @pytest.mark.parametrize(
        ("rule", "kept"),
        [
            ("h", ["h_bucket", "h_bucket", "h_sum", "h_count"]),
            ("h_bucket", ["h_bucket", "h_bucket"]),
            ('h_bucket{le="+Inf"}', ["h_bucket"]),
            ('{le="1.0"}', ["h_bucket"]),
            ('{__name__=~"h_(sum|count)"}', ["h_sum", "h_count"]),
            ("h_other", []),
        ],
    )
    def test_a_histogram_passes_by_its_name_or_by_its_series(
        self, rule: str, kept: list[str]
    ) -> None:
        made = family("h", histogram({1.0: 1}, count=2), kind=HISTOGRAM)
        result = convert(made, rules=UploadRules(whitelist(rule)))
        assert names(result) == kept
        assert (result.received, result.dropped) == (1, 0 if kept else 1)


class TestLabels:
    """Steps 8 and 9."""

    @pytest.mark.parametrize(
        ("pairs", "expected"),
        [
            ([("b", "1"), ("a", "2")], [("__name__", "up"), ("a", "2"), ("b", "1")]),
            ([("a", "1"), ("a", "2")], [("__name__", "up"), ("a", "1")]),
            ([("a", ""), ("a", "2")], [("__name__", "up"), ("a", "2")]),
            ([("", "1"), ("a", ""), ("b", "2")], [("__name__", "up"), ("b", "2")]),
            ([("b", "1"), ("A", "2")], [("A", "2"), ("__name__", "up"), ("b", "1")]),
            (
                [("\U0001f600", "1"), ("\uffee", "2"), ("é", "3"), ("z", "4")],
                [("__name__", "up"), ("z", "4"), ("é", "3"), ("\uffee", "2"), ("\U0001f600", "1")],
            ),
        ],
    )
    def test_what_becomes_of_them(
        self, pairs: list[tuple[str, str]], expected: list[tuple[str, str]]
    ) -> None:
        result = convert(family("up", labelled(*pairs)))
        (series,) = WriteRequest.FromString(result.payload).timeseries
        assert [(label.name, label.value) for label in series.labels] == expected
        assert [name.encode() for name, _ in expected] == sorted(
            name.encode() for name, _ in expected
        )

    def test_they_are_overwritten_then_elided(self) -> None:
        rules = UploadRules(
            labels={"region": "eu", "job": "", "gone": "x"}, elided=frozenset(["gone", "b"])
        )
        result = convert(family("up", sample(region="us", job="a", b="c", d="e")), rules=rules)
        assert series_of(result.payload) == [
            ({"__name__": "up", "d": "e", "region": "eu"}, bits(1.0), NOW)
        ]

    def test_of_series_that_became_identical_the_first_is_kept(self) -> None:
        result = convert(
            family("up", sample(1.0, pod="a"), sample(2.0, pod="b"), sample(3.0, pod="c", d="e")),
            family("up", sample(4.0)),
            family("down", sample(5.0)),
            rules=UploadRules(elided=frozenset(["pod"])),
        )
        assert [(labels, value) for labels, value, _ in series_of(result.payload)] == [
            ({"__name__": "up"}, bits(1.0)),
            ({"__name__": "up", "d": "e"}, bits(3.0)),
            ({"__name__": "down"}, bits(5.0)),
        ]
        assert (result.received, result.series, result.duplicates, result.dropped) == (5, 3, 2, 0)

    def test_labels_are_told_apart_from_their_values(self) -> None:
        result = convert(family("up", sample(a="b"), sample(b="a"), sample(a="b", b="a")))
        assert (result.series, result.duplicates) == (3, 0)


class TestValues:
    """Step 9."""

    @pytest.mark.parametrize("kind", [COUNTER, GAUGE, UNTYPED])
    @pytest.mark.parametrize(
        "value",
        [
            0x0000000000000000,
            0x8000000000000000,
            0x3FF0000000000000,
            0x7FF0000000000000,
            0xFFF0000000000000,
            0x7FF0000000000002,
            0x7FF8000000000001,
            0xFFF8000000000000,
            0x7FFFFFFFFFFFFFFF,
            0x0000000000000001,
        ],
    )
    def test_numbers_pass_bit_for_bit(self, kind: MetricType, value: int) -> None:
        metric = sample(double(value), field=FIELDS[kind])
        result = convert(family("up", metric, kind=kind))
        assert series_of(result.payload) == [({"__name__": "up"}, value, NOW)]
        # Independent of how Python reads a double: the bytes themselves.
        assert (value.to_bytes(8, "little") in result.payload) is (value != 0)

    def test_a_summary(self) -> None:
        metric = sample(None, field="summary", job="a", quantile="old")
        metric.summary.sample_count = 3
        metric.summary.sample_sum = -0.0
        metric.summary.quantile.add(quantile=0.5, value=STALE_NAN)
        result = convert(family("s", metric, kind=SUMMARY))
        assert series_of(result.payload) == [
            ({"__name__": "s", "job": "a", "quantile": "0.5"}, bits(STALE_NAN), NOW),
            ({"__name__": "s_sum", "job": "a", "quantile": "old"}, bits(-0.0), NOW),
            ({"__name__": "s_count", "job": "a", "quantile": "old"}, bits(3.0), NOW),
        ]
        assert (result.received, result.series) == (1, 3)

    @pytest.mark.parametrize("kind", [HISTOGRAM, GAUGE_HISTOGRAM])
    def test_a_classic_histogram(self, kind: MetricType) -> None:
        result = convert(
            family("h", histogram({0.5: 1, 1e10: 2}, total=7.5, count=3, a="b"), kind=kind)
        )
        assert series_of(result.payload) == [
            ({"__name__": "h_bucket", "a": "b", "le": "0.5"}, bits(1.0), NOW),
            ({"__name__": "h_bucket", "a": "b", "le": "1e+10"}, bits(2.0), NOW),
            ({"__name__": "h_bucket", "a": "b", "le": "+Inf"}, bits(3.0), NOW),
            ({"__name__": "h_sum", "a": "b"}, bits(7.5), NOW),
            ({"__name__": "h_count", "a": "b"}, bits(3.0), NOW),
        ]

    @pytest.mark.parametrize("kind", [HISTOGRAM, GAUGE_HISTOGRAM])
    def test_a_native_histogram(self, kind: MetricType) -> None:
        metric = histogram({}, total=7.5, count=3, at=NOW - HOUR, b="1", a="2")
        metric.histogram.positive_span.append(BucketSpan(offset=1, length=1))
        metric.histogram.positive_delta.append(3)
        rules = UploadRules(whitelist("h"), {"region": "eu"}, frozenset(["b"]))
        result = convert(family("h", metric, kind=kind), rules=rules)
        (series,) = WriteRequest.FromString(result.payload).timeseries
        assert [(label.name, label.value) for label in series.labels] == [
            ("__name__", "h"),
            ("a", "2"),
            ("region", "eu"),
        ]
        assert not series.samples
        expected = NativeHistogram(
            count_int=3,
            sum=7.5,
            zero_count_int=0,
            positive_spans=[{"offset": 1, "length": 1}],
            positive_deltas=[3],
            timestamp=NOW,
        )
        if kind == GAUGE_HISTOGRAM:
            expected.reset_hint = NativeHistogram.GAUGE
        assert list(series.histograms) == [expected]
        assert convert(family("h", metric, kind=kind), rules=UploadRules(whitelist("i"))).dropped

    def test_a_native_histogram_with_classic_buckets_is_both(self) -> None:
        metric = histogram({1.0: 3}, total=7.5, count=3)
        metric.histogram.positive_span.append(BucketSpan(offset=1, length=1))
        metric.histogram.positive_delta.append(3)
        result = convert(family("h", metric, kind=HISTOGRAM))
        series = WriteRequest.FromString(result.payload).timeseries
        assert [(one.labels[0].value, len(one.histograms)) for one in series] == [
            ("h", 1),
            ("h_bucket", 0),
            ("h_bucket", 0),
            ("h_sum", 0),
            ("h_count", 0),
        ]

    def test_a_native_histogram_of_floats_without_observations(self) -> None:
        """As a Prometheus federates one that has been idle; no number says that it is of floats."""
        metric = histogram({})
        metric.histogram.sample_count_float = 0.0
        metric.histogram.positive_span.append(BucketSpan(offset=1, length=2))
        metric.histogram.positive_count.extend([0.0, 0.0])
        result = convert(family("h", metric, kind=HISTOGRAM))
        (series,) = WriteRequest.FromString(result.payload).timeseries
        assert series.histograms[0].WhichOneof("count") == "count_float"

    def test_too_fine_buckets_become_the_finest_that_receivers_know(self) -> None:
        metric = histogram({}, count=3)
        metric.histogram.schema = 10
        metric.histogram.positive_span.append(BucketSpan(offset=1, length=4))
        metric.histogram.positive_delta.extend([1, 0, 0, -1])
        result = convert(family("h", metric, kind=HISTOGRAM))
        (series,) = WriteRequest.FromString(result.payload).timeseries
        (found,) = series.histograms
        assert (found.schema, list(found.positive_deltas)) == (8, [3])

    @pytest.mark.parametrize(
        ("fields", "reason"),
        [
            (
                {"schema": -53, "positive_delta": [3]},
                r"has custom buckets \(schema -53\), of which this format cannot say the bounds",
            ),
            ({"schema": -5, "positive_delta": [3]}, "is not valid: schema -5 is coarser than"),
            ({"schema": 53, "positive_delta": [3]}, "is not valid: schema 53 is not known"),
            ({"positive_delta": [3, 0]}, "is not valid: its positive spans need 1 buckets"),
            ({"positive_delta": [2]}, "is not valid: its buckets hold 2 observations, its count"),
            ({"positive_delta": [-3]}, "is not valid: a positive bucket has a negative count"),
        ],
    )
    def test_a_native_histogram_that_makes_no_sense(
        self, fields: dict[str, Any], reason: str
    ) -> None:
        """A Prometheus that scrapes what it became would refuse everything, all clusters'."""
        metric = histogram({}, count=3)
        metric.histogram.positive_span.append(BucketSpan(offset=1, length=1))
        metric.histogram.MergeFrom(Histogram(**fields))
        for rules in (UploadRules(), UploadRules(whitelist("other"))):
            with pytest.raises(BadInputError, match=f"metric h: a native histogram {reason}"):
                convert(family("h", metric, kind=HISTOGRAM), rules=rules)

    def test_custom_buckets_beside_the_classic_ones_are_those(self) -> None:
        metric = histogram({1.0: 2}, total=7.5, count=3)
        metric.histogram.MergeFrom(
            Histogram(schema=-53, positive_span=[BucketSpan(length=2)], positive_delta=[2, -1])
        )
        result = convert(family("h", metric, kind=HISTOGRAM))
        assert names(result) == ["h_bucket", "h_bucket", "h_sum", "h_count"]

    def test_nothing_left_is_no_payload(self) -> None:
        for result in (
            convert(),
            convert(family("up", sample()), rules=UploadRules(whitelist("a"))),
        ):
            assert (result.payload, result.series) == (b"", 0)


class TestLimit:
    """A histogram repeats its labels for every bucket; the output is bounded."""

    @pytest.mark.parametrize("step", [1.0, 0.0], ids=["distinct buckets", "one bucket repeated"])
    def test_a_small_upload_does_not_become_a_large_request(self, step: float) -> None:
        metric = histogram({})
        for number in range(200):
            metric.label.add(name=f"l{number}", value="x" * 250)
        for number in range(500):
            metric.histogram.bucket.add(upper_bound=number * step)
        made = family("h", metric, kind=HISTOGRAM)
        assert made.ByteSize() < 60_000
        start = time.process_time()
        with pytest.raises(TooLargeError, match="becomes more than 16777216 bytes") as caught:
            convert(made)
        assert time.process_time() - start < SOON
        assert caught.value.limit == MAX_OUTPUT < caught.value.seen < MAX_OUTPUT + 60_000

    def test_under_the_limit_it_is_taken(self) -> None:
        metric = histogram({float(number): number for number in range(250)})
        for number in range(200):
            metric.label.add(name=f"l{number}", value="x" * 250)
        result = convert(family("h", metric, kind=HISTOGRAM))
        assert result.series == 253
        assert MAX_OUTPUT * 3 // 4 < len(result.payload) <= MAX_OUTPUT

    def test_very_many_series_count_with_what_they_take_besides_labels(self) -> None:
        metric = histogram({})
        metric.histogram.bucket.add(upper_bound=1.0)
        bucket = metric.histogram.bucket[0].SerializeToString()
        # A repeated message field is its entries one behind the other.
        field = b"\x1a" + bytes([len(bucket)]) + bucket
        metric.histogram.MergeFromString(field * 400_000)
        with pytest.raises(TooLargeError):
            convert(family("h", metric, kind=HISTOGRAM))

    def test_what_is_not_allowed_does_not_count(self) -> None:
        metric = histogram({float(number): number for number in range(500)})
        for number in range(200):
            metric.label.add(name=f"l{number}", value="x" * 250)
        result = convert(family("h", metric, kind=HISTOGRAM), rules=UploadRules(whitelist("h_sum")))
        assert names(result) == ["h_sum"]


class TestRecordings:
    def test_the_recorded_federation_passes_whole(self) -> None:
        result = convert_upload(federated(), decode_families, {}, NOTHING, NOW)
        assert (result.received, result.series, result.duplicates) == (881, 881, 0)

    def test_we_forward_byte_for_byte_what_the_original_forwards(self) -> None:
        """Its forward, taken apart into the upload that it came from, becomes the same forward."""
        theirs = WriteRequest.FromString(forwarded())
        families: list[Family] = []
        for series in theirs.timeseries:
            labels = [(label.name, label.value) for label in series.labels]
            name = dict(labels)["__name__"]
            if not families or families[-1].name != name:
                families.append(family(name))
            metric = labelled(*(pair for pair in reversed(labels) if pair[0] != "__name__"))
            metric.label.add(name="_elide", value="x")
            metric.label.add(name="instance", value="")
            metric.untyped.value = series.samples[0].value
            families[-1].metric.append(metric)
        result = convert_upload(
            encode_families(families),
            decode_families,
            {"_id": "test", "region": "eu"},
            UploadRules(whitelist('{_id="test"}'), elided=frozenset(["_elide"])),
            theirs.timeseries[0].samples[0].timestamp,
        )
        assert result.payload == forwarded()
        assert result.series == len(theirs.timeseries) == 53

    def test_the_recorded_upload_becomes_series_that_the_original_forwarded(self) -> None:
        """Another cycle of the same agent; its forward lacks the label tier."""
        rules = UploadRules(whitelist('{_id="test"}'), elided=frozenset(["_elide", "tier"]))
        required = {"_id": "test", "tier": "gold"}
        ours = series_of(convert(*uploaded(), required=required, rules=rules).payload)
        theirs = [labels for labels, *_ in series_of(forwarded())]
        assert len(ours) == 42
        assert [labels for labels, *_ in ours if labels not in theirs] == []


class TestKeptTimes:
    """What the agent's spool delivers: the samples of a collection with their own timestamps."""

    RULES = UploadRules(keep_times=True)

    def test_samples_keep_their_timestamps_however_old(self) -> None:
        old = sample(1.0, at=NOW - 2 * DAY)
        result = convert(family("up", old, sample(2.0, a="b")), rules=self.RULES)
        assert [stamp for *_, stamp in series_of(result.payload)] == [NOW - 2 * DAY, NOW]

    def test_those_of_histograms_too(self) -> None:
        classic = histogram({1.0: 2}, total=4.5, count=3, at=NOW - DAY * 3)
        result = convert(family("h", classic, kind=HISTOGRAM), rules=self.RULES)
        assert {stamp for *_, stamp in series_of(result.payload)} == {NOW - DAY * 3}

    def test_those_of_native_histograms_too(self) -> None:
        native = Metric(
            histogram=Histogram(
                sample_count=2,
                sample_sum=3.0,
                schema=0,
                zero_threshold=0.001,
                positive_span=[BucketSpan(offset=0, length=1)],
                positive_delta=[2],
            ),
            timestamp_ms=NOW - 3 * DAY,
        )
        result = convert(family("h", native, kind=HISTOGRAM), rules=self.RULES)
        (first, *_) = WriteRequest.FromString(result.payload).timeseries
        assert first.histograms[0].timestamp == NOW - 3 * DAY

    def test_the_first_moment_of_all(self) -> None:
        body = encode_families([family("up", sample(1.0, at=0))])
        converter = UploadConverter(self.RULES)
        result = converter.convert(body, decode_families, {}, NOW)
        assert result == converter.reference(body, decode_families, {}, NOW)
        assert series_of(result.payload)[0][-1] == 0
