from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from telemeter.samples.errors import BadInputError
from telemeter.samples.exposition import parse_text, render_text
from telemeter.samples.family import Family, Metric, decode_families, encode_families
from telemeter.samples.proto.metrics_pb2 import (
    COUNTER,
    GAUGE,
    GAUGE_HISTOGRAM,
    HISTOGRAM,
    SUMMARY,
    UNTYPED,
    BucketSpan,
    MetricType,
)

from .build import NORMAL_NAN, STALE_NAN, bits, family, histogram, labels_of, rows, sample
from .recordings import federated, federated_text
from .strategies import label_names, metric_names, text_families, texts

INFINITY = float("inf")
#: Seconds of processor time; what is not linear takes minutes for a line of this length.
SOON = 2.0
LONG = 100_000


def only_sample(text: str) -> tuple[Family, Metric]:
    (parsed,) = parse_text(text.encode())
    (metric,) = parsed.metric
    return parsed, metric


class TestRecording:
    def test_it_says_what_the_protobuf_says(self) -> None:
        """Prometheus answered twice, seconds apart: values and times may differ."""

        def shape(families: list[Family]) -> list[tuple[str, MetricType, list[tuple[str, str]]]]:
            return [
                (family.name, family.type, labels_of(metric))
                for family in families
                for metric in family.metric
            ]

        parsed = shape(parse_text(federated_text()))
        assert len(parsed) == 30
        assert parsed == shape(decode_families(federated()))[: len(parsed)]

    def test_values_and_times(self) -> None:
        parsed = rows(parse_text(federated_text()))
        alert = {"alertname": "Pending", "alertstate": "pending"}
        rest = {"instance": "", "prometheus": "demo/k8s"}
        assert parsed[0] == ("ALERTS", alert | rest, bits(1.0), 1795343615632)
        assert parsed[2][2] == bits(1795343609.0)
        assert {stamp for *_, stamp in parsed} == {1795343615632, 1795343615109, 1795343615524}


class TestRoundTrip:
    @given(text_families())
    def test_what_is_written_is_read_back_bit_for_bit(self, families: list[Family]) -> None:
        parsed = parse_text(render_text(families).encode())
        assert encode_families(parsed) == encode_families(families)

    @pytest.mark.parametrize(
        ("value", "text"),
        [
            (1.0, "1"),
            (-0.0, "-0"),
            (0.1, "0.1"),
            (1e6, "1e+06"),
            (-1234567.5, "-1.2345675e+06"),
            (1e10, "1e+10"),
            (5e-324, "5e-324"),
            (1.7976931348623157e308, "1.7976931348623157e+308"),
            (INFINITY, "+Inf"),
            (-INFINITY, "-Inf"),
            (NORMAL_NAN, "NaN"),
        ],
    )
    def test_values(self, value: float, text: str) -> None:
        written = render_text([family("up", sample(value, at=None))])
        assert written == f"# TYPE up untyped\nup {text}\n"
        assert bits(only_sample(written)[1].untyped.value) == bits(value)

    def test_every_nan_becomes_the_one_that_prometheus_reads(self) -> None:
        written = render_text([family("up", sample(STALE_NAN))])
        assert bits(only_sample(written)[1].untyped.value) == 0x7FF8000000000001


class TestParse:
    @pytest.mark.parametrize(
        ("line", "labels", "value", "stamp"),
        [
            ("up 1", [], 1.0, None),
            ("up 1 2", [], 1.0, 2),
            ("up\t1\t-2", [], 1.0, -2),
            (" \tup  1  +2 \t", [], 1.0, 2),
            ("up 1 -9223372036854775808", [], 1.0, -(2**63)),
            ("up 1 9223372036854775807", [], 1.0, 2**63 - 1),
            ("up 1\r", [], 1.0, None),
            ("up{} 1", [], 1.0, None),
            ("up { } 1", [], 1.0, None),
            ("up{}1", [], 1.0, None),
            ('up{a="b"} 1', [("a", "b")], 1.0, None),
            ('up{a="b",} 1', [("a", "b")], 1.0, None),
            ('up{a="b",c="d"} 1', [("a", "b"), ("c", "d")], 1.0, None),
            ('up { a = "b" ,\tc\t=\t"d" , } 1 2', [("a", "b"), ("c", "d")], 1.0, 2),
            ('up{a="b",a="c"} 1', [("a", "b"), ("a", "c")], 1.0, None),
            (r'up{a="\\n\n\"\\"} 1', [("a", '\\n\n"\\')], 1.0, None),
            ('up{a="} 1 # , = \t"} 1', [("a", "} 1 # , = \t")], 1.0, None),
            ('up{a="é\u2028\u0085"} 1', [("a", "é\u2028\u0085")], 1.0, None),
            (":a_b:9 1e3", [], 1000.0, None),
            ("up -1.5E-2", [], -0.015, None),
            ("up +Inf", [], INFINITY, None),
            ("up inf", [], INFINITY, None),
            ("up -Inf", [], -INFINITY, None),
            ("up NaN", [], NORMAL_NAN, None),
            ("up nan", [], NORMAL_NAN, None),
        ],
    )
    def test_samples(
        self, line: str, labels: list[tuple[str, str]], value: float, stamp: int | None
    ) -> None:
        for text in (line, f"\n\n{line}\n\n", f"# a comment\n{line}"):
            parsed, metric = only_sample(text)
            assert (parsed.name, parsed.type) == (line.strip().split()[0].split("{")[0], UNTYPED)
            assert labels_of(metric) == labels
            assert bits(metric.untyped.value) == bits(value)
            assert metric.HasField("timestamp_ms") is (stamp is not None)
            assert metric.timestamp_ms == (stamp or 0)

    @pytest.mark.parametrize(
        ("kind", "expected"),
        [
            ("counter", COUNTER),
            ("gauge", GAUGE),
            ("GAUGE", GAUGE),
            ("untyped", UNTYPED),
            ("summary", UNTYPED),
            ("histogram", UNTYPED),
        ],
    )
    def test_types(self, kind: str, expected: MetricType) -> None:
        parsed, metric = only_sample(f"#  TYPE\tup  {kind}\nup 2")
        assert parsed.type == expected
        field = {COUNTER: "counter", GAUGE: "gauge", UNTYPED: "untyped"}[expected]
        assert [kind.name for kind, _ in metric.ListFields()] == [field]
        assert getattr(metric, field).value == 2.0

    def test_the_series_of_a_histogram_are_families_of_their_own(self) -> None:
        text = b'# TYPE h histogram\nh_bucket{le="+Inf"} 2\nh_sum 3\nh_count 2\n'
        assert [(parsed.name, parsed.type) for parsed in parse_text(text)] == [
            ("h_bucket", UNTYPED),
            ("h_sum", UNTYPED),
            ("h_count", UNTYPED),
        ]

    def test_the_samples_of_a_name_are_one_family_wherever_they_stand(self) -> None:
        parsed = parse_text(b"b 1\na 2\nb 3\n")
        assert rows(parsed) == [
            ("b", {}, bits(1.0), 0),
            ("b", {}, bits(3.0), 0),
            ("a", {}, bits(2.0), 0),
        ]

    @pytest.mark.parametrize(
        ("line", "expected"),
        [
            ("# HELP up Whether it is up.", "Whether it is up."),
            ("#\tHELP  up \t two  words", "two  words"),
            (r"# HELP up C:\\new\n\\\n", "C:\\new\n\\\n"),
            (r"# HELP up \"\t", r"\"\t"),
            ("# HELP up", None),
            ("# HELP down It is not up.", None),
            ("#HELP up no", None),
            ("#: HELP up no", None),
            ("# Help up no", None),
            ("#", None),
            ("# HELP", None),
        ],
    )
    def test_help(self, line: str, expected: str | None) -> None:
        for text in (f"{line}\nup 1", f"up 1\n{line}"):
            parsed, _ = only_sample(text)
            assert parsed.HasField("help") is (expected is not None)
            assert parsed.help == (expected or "")

    @pytest.mark.parametrize("text", ["", "\n\n", "# a comment", "# TYPE up gauge\n# HELP up x\n"])
    def test_no_samples_are_no_families(self, text: str) -> None:
        assert parse_text(text.encode()) == []


class TestMalformed:
    @pytest.mark.parametrize(
        ("line", "reason"),
        [
            ("1", "expected a metric name, saw '1'"),
            ("{} 1", "expected a metric name"),
            ('"up" 1', "expected a metric name"),
            ("é 1", "expected a metric name"),
            ("\u00a0up 1", "expected a metric name"),
            ("up", "expected a value and perhaps a timestamp in milliseconds, saw ''"),
            ("up{}", "expected a value and perhaps"),
            ("up 1 2 3", "expected a value and perhaps"),
            ("up 1 2.5", "expected a value and perhaps"),
            ("up 1 0x2", "expected a value and perhaps"),
            ("up 1 x", "expected a value and perhaps"),
            ("up 1_000", "expected a value and perhaps"),
            ("up \u0661", "expected a value and perhaps"),
            ("up 1\u00a0", "expected a value and perhaps"),
            ("up 1 \u0661", "expected a value and perhaps"),
            ("up 1 12345678901234567890", "expected a value and perhaps"),
            ("up 1 # {} 1", "expected a value and perhaps"),
            ("up one", "expected a number, saw 'one'"),
            ("up é", "expected a value and perhaps"),
            ("up 1,5", "expected a number"),
            ("up 1 9223372036854775808", "expected a timestamp of 64 bits"),
            ("up 1 -9223372036854775809", "expected a timestamp of 64 bits"),
            ("up{", "expected labels such as"),
            ("up{ 1", "expected labels such as"),
            ("up{,} 1", "expected labels such as"),
            ('up{a="b",,} 1', "expected labels such as"),
            ('up{a="b" c="d"} 1', "expected labels such as"),
            ('up{a="b" 1', "expected labels such as"),
            ('up{a="b} 1', "expected labels such as"),
            ('up{a="b\\"} 1', "expected labels such as"),
            ('up{a="b\\', "expected labels such as"),
            ("up{a=b} 1", "expected labels such as"),
            ("up{a='b'} 1", "expected labels such as"),
            ("up{a} 1", "expected labels such as"),
            ('up{="b"} 1', "expected labels such as"),
            ('up{1a="b"} 1', "expected labels such as"),
            ('up{a:b="c"} 1', "expected labels such as"),
            ('up{é="c"} 1', "expected labels such as"),
            (r'up{a="\t"} 1', r"expected the escapes .* only, saw"),
            (r'up{a="\é"} 1', r"expected the escapes"),
            ("# TYPE up", "expected a TYPE of counter, gauge"),
            ("# TYPE up info", "expected a TYPE of counter, gauge"),
            ("# TYPE up gauge x", "expected a TYPE of counter, gauge"),
        ],
    )
    def test_the_reason_names_the_line(self, line: str, reason: str) -> None:
        for before in (0, 2):
            text = "ok 1\n" * before + line + "\nok 1"
            with pytest.raises(BadInputError, match=f"^text format, line {before + 1}: {reason}"):
                parse_text(text.encode())

    @pytest.mark.parametrize("data", [b"\xff", b'up 1\nup{a="\xed\xa0\x80"} 1', b"# HELP a \xe9"])
    def test_text_that_is_not_utf_8(self, data: bytes) -> None:
        with pytest.raises(BadInputError, match="the text is not UTF-8"):
            parse_text(data)

    def test_only_the_start_of_a_long_line_is_shown(self) -> None:
        with pytest.raises(BadInputError) as caught:
            parse_text(b"up " + b"x" * LONG)
        assert f"'{'x' * 60}...'" in str(caught.value)
        assert len(str(caught.value)) < 200


class TestTime:
    @pytest.mark.parametrize(
        "line",
        [
            pytest.param("u" * LONG, id="name"),
            pytest.param("up{" + " " * LONG, id="spaces"),
            pytest.param("up " + " " * LONG + "x x x", id="spaces before a value"),
            pytest.param("up 1" + " " * LONG + "x", id="spaces behind a value"),
            pytest.param("up " + "1" * LONG + "x", id="value"),
            pytest.param('up{a="' + "x" * LONG, id="label value"),
            pytest.param('up{a="' + "\\\\" * (LONG // 2), id="escapes"),
            pytest.param('up{a="' + "x\\n" * (LONG // 3), id="text and escapes"),
            pytest.param("up{" + "x" * LONG, id="label name"),
            pytest.param('up{a="b"' + " " * LONG, id="spaces behind a label"),
            pytest.param("up{" + 'a="b",' * (LONG // 6), id="labels"),
            pytest.param("# TYPE " + "x " * (LONG // 2), id="comment"),
        ],
    )
    def test_a_long_malformed_line_is_refused_soon(self, line: str) -> None:
        start = time.process_time()
        with pytest.raises(BadInputError):
            parse_text(line.encode())
        assert time.process_time() - start < SOON

    def test_many_labels_are_read_soon(self) -> None:
        start = time.process_time()
        _, metric = only_sample("up{" + 'a="\\\\b",' * (LONG // 6) + "} 1")
        assert time.process_time() - start < SOON
        assert len(metric.label) == LONG // 6


# The other parser refuses labels of which the names are reserved.
_unreserved = label_names.filter(lambda name: not name.startswith("__"))


@st.composite
def written_samples(draw: st.DrawFn) -> str:
    """Lines that mean one sample each, with spaces in odd places."""

    def space(least: int = 0) -> str:
        return draw(st.text(" \t", min_size=least, max_size=2))

    lines = []
    for name in draw(st.lists(metric_names, min_size=1, max_size=3, unique=True)):
        if kind := draw(st.sampled_from(["", "gauge", "untyped"])):
            lines.append(f"# TYPE {name} {kind}")
        for _ in range(draw(st.integers(1, 2))):
            labels = []
            for label in draw(st.lists(_unreserved, max_size=3, unique=True)):
                value = draw(texts).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
                labels.append(f'{space()}{label}{space()}={space()}"{value}"{space()}')
            if labels:
                comma = draw(st.sampled_from(["", ","]))
                braces = f"{{{','.join(labels)}{comma}}}"
            else:
                braces = draw(st.sampled_from(["", "{}"]))
            value = draw(st.floats().map(repr) | st.sampled_from(["+Inf", "-Inf", "NaN", "1E3"]))
            # Whole seconds, because the other parser divides by 1000.
            stamp = draw(st.sampled_from(["", "0", "1795343615000", "-1000"]))
            lines.append(f"{name}{braces}{space(1)}{value}{space(1)}{stamp}".rstrip())
    return "\n".join(lines) + "\n"


@given(written_samples())
def test_it_reads_what_the_official_client_reads(text: str) -> None:
    expected = [
        (found.name, found.labels, found.value, found.timestamp)
        for parsed in text_string_to_metric_families(text)
        for found in parsed.samples
    ]
    ours = []
    for parsed in parse_text(text.encode()):
        for metric in parsed.metric:
            value = (metric.gauge if parsed.type == GAUGE else metric.untyped).value
            stamp = metric.timestamp_ms / 1000 if metric.HasField("timestamp_ms") else None
            ours.append((parsed.name, dict(labels_of(metric)), value, stamp))
    assert repr(ours) == repr(expected)  # a NaN does not equal itself, and -0.0 equals 0.0


class TestRender:
    def test_the_parts_of_a_histogram(self) -> None:
        made = histogram({0.5: 1, 1e10: 2}, total=7.5, count=3, at=5, a="b")
        assert render_text([family("h", made, kind=HISTOGRAM)]) == (
            "# TYPE h histogram\n"
            'h_bucket{a="b",le="0.5"} 1 5\n'
            'h_bucket{a="b",le="1e+10"} 2 5\n'
            'h_bucket{a="b",le="+Inf"} 3 5\n'
            'h_sum{a="b"} 7.5 5\n'
            'h_count{a="b"} 3 5\n'
        )

    def test_the_parts_of_a_summary(self) -> None:
        metric = sample(None, at=None, field="summary")
        metric.summary.quantile.add(quantile=0.5, value=2.0)
        assert render_text([family("s", metric, kind=SUMMARY)]) == (
            '# TYPE s summary\ns{quantile="0.5"} 2\ns_sum 0\ns_count 0\n'
        )

    @pytest.mark.parametrize("kind", [HISTOGRAM, GAUGE_HISTOGRAM])
    def test_a_native_histogram_is_written_as_its_sum_and_count(self, kind: MetricType) -> None:
        metric = histogram({}, total=7.5, count=3, at=5)
        metric.histogram.positive_span.append(BucketSpan(offset=0, length=1))
        written = "# TYPE h histogram\nh_sum 7.5 5\nh_count 3 5\n"
        assert render_text([family("h", metric, kind=kind)]) == written

    def test_a_native_histogram_with_classic_buckets_is_written_as_these(self) -> None:
        metric = histogram({1.0: 3}, total=7.5, count=3, at=5)
        metric.histogram.positive_span.append(BucketSpan(offset=0, length=1))
        written = render_text([family("h", metric, kind=HISTOGRAM)])
        assert written.count("h_sum") == written.count("h_count") == 1
        assert 'h_bucket{le="1.0"} 3 5\n' in written

    def test_names_that_the_format_lacks_are_quoted(self) -> None:
        metric = sample(1.0, at=None, **{"a.b": "c", "d": 'e"'})
        made = family('x"y', metric)
        made.help = "a\\b\nc"
        assert render_text([made]) == (
            '# HELP "x\\"y" a\\\\b\\nc\n'
            '# TYPE "x\\"y" untyped\n'
            '{"x\\"y","a.b"="c",d="e\\""} 1\n'
        )  # fmt: skip
