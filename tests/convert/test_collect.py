from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemeter.convert.collect import (
    Transforms,
    add_labels,
    anonymize,
    anonymous,
    drop_invalid,
    sort_by_time,
)
from telemeter.samples.family import Family, Metric, decode_families, encode_families
from telemeter.samples.proto.metrics_pb2 import GAUGE, HISTOGRAM, SUMMARY, UNTYPED
from tests.samples.build import DAY, HOUR, NOW, family, histogram, labelled, labels_of, rows, sample
from tests.samples.recordings import federated, uploaded
from tests.samples.strategies import text_families, texts

SALT = b"a-unique-value"
LONG, TOO_LONG = "x" * 255, "x" * 256

labels = st.dictionaries(st.sampled_from(["region", "job", "_id"]), texts, max_size=3)


def copy(families: list[Family]) -> list[Family]:
    return decode_families(encode_families(families))


class TestAddLabels:
    def test_labels_are_added_behind_the_others_or_overwrite(self) -> None:
        made = family("up", sample(job="a", region="us"), sample(), sample(region="", _id="x"))
        add_labels(made, {"region": "eu", "_id": "test"})
        assert [labels_of(metric) for metric in made.metric] == [
            [("job", "a"), ("region", "eu"), ("_id", "test")],
            [("region", "eu"), ("_id", "test")],
            [("region", "eu"), ("_id", "test")],
        ]

    def test_all_of_one_name_are_overwritten(self) -> None:
        made = family("up", labelled(("region", "us"), ("region", "cn")))
        add_labels(made, {"region": "eu"})
        assert labels_of(made.metric[0]) == [("region", "eu"), ("region", "eu")]

    @given(text_families(), labels)
    def test_twice_is_as_good_as_once(self, families: list[Family], added: dict[str, str]) -> None:
        for made in families:
            add_labels(made, added)
        once = encode_families(families)
        for made in families:
            add_labels(made, added)
            for metric in made.metric:
                assert added.items() <= dict(labels_of(metric)).items()
        assert encode_families(families) == once


class TestDropInvalid:
    @pytest.mark.parametrize(
        "made",
        [
            pytest.param(Family(type=UNTYPED, metric=[sample()]), id="no name"),
            pytest.param(family("", sample()), id="empty name"),
            pytest.param(family(TOO_LONG, sample()), id="long name"),
            pytest.param(family("é" * 128, sample()), id="name long in bytes"),
            pytest.param(Family(name="up", metric=[sample(field="counter")]), id="no type"),
            pytest.param(
                Family(name="up", type=77, metric=[sample()]),  # type: ignore[arg-type]
                id="unknown type",
            ),
            pytest.param(family("up"), id="no metrics"),
            pytest.param(family("up", sample(at=None), sample(at=0)), id="none valid"),
        ],
    )
    def test_families_of_which_nothing_is_left(self, made: Family) -> None:
        assert drop_invalid(made, NOW) is False

    @pytest.mark.parametrize(
        "bad",
        [
            pytest.param(sample(at=None), id="no timestamp"),
            pytest.param(sample(at=NOW - DAY - 1), id="over a day old"),
            pytest.param(sample(at=-1), id="before the epoch"),
            pytest.param(sample(None), id="no number"),
            pytest.param(sample(field="gauge"), id="another type's value"),
            pytest.param(Metric(timestamp_ms=NOW), id="no value"),
            pytest.param(histogram({1.0: 1}), id="a histogram"),
            pytest.param(sample(job=TOO_LONG), id="long label value"),
            pytest.param(sample(job="é" * 128), id="label value long in bytes"),
            pytest.param(labelled((TOO_LONG, "a")), id="long label name"),
            pytest.param(sample(a="b", job=TOO_LONG, c="d"), id="long value between others"),
            pytest.param(sample(a="b", __name__="c"), id="a label __name__"),
            pytest.param(labelled(("__name__", "")), id="an empty label __name__"),
        ],
    )
    def test_samples_that_a_server_would_refuse(self, bad: Metric) -> None:
        first, last = sample(1.0, a="1"), labelled(("b", "2"), ("b", "3"))
        made = family("up", first, bad, last)
        assert drop_invalid(made, NOW) is True
        assert list(made.metric) == [first, last]

    def test_no_timestamp_is_not_the_epoch(self) -> None:
        made = family("up", sample(1.0, at=None), sample(2.0, at=0))
        assert drop_invalid(made, HOUR) is True
        assert [metric.untyped.value for metric in made.metric] == [2.0]

    @pytest.mark.parametrize(
        "good",
        [
            sample(at=NOW - DAY),
            sample(at=NOW + DAY),
            sample(0.0),
            sample(job=LONG),
            sample(job=""),
            labelled((LONG, "é" * 127)),
        ],
    )
    def test_samples_that_it_takes_stay_as_they_are(self, good: Metric) -> None:
        made = family(LONG, good)
        before = encode_families([made])
        assert drop_invalid(made, NOW) is True
        assert encode_families([made]) == before

    @pytest.mark.parametrize(
        ("made", "is_kept"),
        [
            (family("h", histogram({1.0: 1}), kind=HISTOGRAM), True),
            (family("h", sample(None, field="histogram"), kind=HISTOGRAM), True),
            (family("s", sample(None, field="summary"), kind=SUMMARY), True),
            (family("h", histogram({1.0: 1}), kind=SUMMARY), False),
            (family("h", sample(field="gauge"), kind=HISTOGRAM), False),
        ],
    )
    def test_a_value_must_be_of_its_type(self, made: Family, is_kept: bool) -> None:
        assert drop_invalid(made, NOW) is is_kept

    @pytest.mark.parametrize(
        ("schema", "delta", "is_kept"),
        [(3, 1, True), (20, 1, True), (-5, 1, False), (-53, 1, False), (99, 1, False)],
    )
    def test_native_histograms_that_a_server_would_refuse(
        self, schema: int, delta: int, is_kept: bool
    ) -> None:
        metric = histogram({}, total=1.0, count=1)
        metric.histogram.schema = schema
        metric.histogram.positive_span.add(offset=0, length=1)
        metric.histogram.positive_delta.append(delta)
        assert drop_invalid(family("h", metric, kind=HISTOGRAM), NOW) is is_kept
        metric.histogram.positive_delta.append(delta)
        assert drop_invalid(family("h", metric, kind=HISTOGRAM), NOW) is False

    def test_a_sample_with_two_values_is_dropped(self) -> None:
        both = sample(1.0)
        both.gauge.value = 1.0
        assert drop_invalid(family("up", both), NOW) is False

    def test_labels_without_a_name_or_a_value_are_dropped_alone(self) -> None:
        metric = sample(a="1")
        metric.label.add(name="", value="2")
        metric.label.add(value="3")
        metric.label.add(name="b")
        metric.label.add()
        metric.label.add(value=TOO_LONG)
        metric.label.add(name="c", value="4")
        made = family("up", metric)
        assert drop_invalid(made, NOW) is True
        assert labels_of(made.metric[0]) == [("a", "1"), ("c", "4")]

    @given(text_families(), st.integers(-2 * DAY, 2 * DAY))
    def test_twice_is_as_good_as_once(self, families: list[Family], shift: int) -> None:
        now = NOW + shift
        kept = [made for made in families if drop_invalid(made, now)]
        once = encode_families(kept)
        assert all(drop_invalid(made, now) for made in kept)
        assert encode_families(kept) == once
        for made in kept:
            assert all(metric.timestamp_ms >= now - DAY for metric in made.metric)


class TestSortByTime:
    @given(st.lists(st.integers(-3, 3), max_size=8))
    def test_it_sorts_and_keeps_the_order_of_what_is_equal(self, stamps: list[int]) -> None:
        made = family("up", *(sample(float(at), at=stamp) for at, stamp in enumerate(stamps)))
        expected = sorted(enumerate(stamps), key=lambda pair: pair[1])
        for _ in range(2):
            sort_by_time(made)
            found = [(int(metric.untyped.value), metric.timestamp_ms) for metric in made.metric]
            assert found == expected


class TestAnonymize:
    def test_the_worked_example(self) -> None:
        assert anonymous("127.0.0.1:9391", SALT) == "c4XWQGV_rFgb"

    @given(texts, st.binary(max_size=20))
    def test_a_hash_is_twelve_characters_of_its_alphabet(self, value: str, salt: bytes) -> None:
        hashed = anonymous(value, salt)
        assert re.fullmatch(r"[A-Za-z0-9_-]{12}", hashed)
        number = int.from_bytes(hashlib.sha256(salt + value.encode()).digest()[:9], "big")
        alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
        assert hashed == "".join(alphabet[number >> at & 63] for at in range(66, -1, -6))

    def test_only_the_values_of_these_labels_that_are_not_empty(self) -> None:
        made = family("up", sample(instance="a", job="a", pod=""), sample(pod="a"), sample())
        other = family("down", sample(instance="a"), sample(instance="b"))
        anonymize([made, other], frozenset(["instance", "pod"]), SALT)
        a, b = anonymous("a", SALT), anonymous("b", SALT)
        assert a != b
        assert [labels_of(metric) for metric in (*made.metric, *other.metric)] == [
            [("instance", a), ("job", "a"), ("pod", "")],
            [("pod", a)],
            [],
            [("instance", a)],
            [("instance", b)],
        ]

    def test_another_salt_gives_another_hash(self) -> None:
        assert anonymous("a", b"x") != anonymous("a", b"y")


class TestTransforms:
    def test_they_do_nothing_that_is_not_asked_for(self) -> None:
        families = decode_families(federated())
        assert encode_families(Transforms().apply(families, NOW)) == federated()

    def test_families_with_nothing_left_are_dropped(self) -> None:
        families = [family("a", sample(at=None)), family("b", sample()), family("c")]
        assert [made.name for made in Transforms().apply(families, NOW)] == ["b"]

    def test_families_are_renamed_once(self) -> None:
        renames = {"ALERTS": "alerts", "alerts": "alarms", "x": TOO_LONG, "y": ""}
        names = ("ALERTS", "alerts", "other", "ALERTS2", "x", "y")
        kept = Transforms(renames=renames).apply([family(name, sample()) for name in names], NOW)
        assert [made.name for made in kept] == ["alerts", "alarms", "other", "ALERTS2"]

    def test_samples_are_sorted_in_their_families(self) -> None:
        made = family("up", sample(2.0, at=NOW), sample(at=None), sample(1.0, at=NOW - HOUR))
        (kept,) = Transforms().apply([made], NOW)
        assert [metric.untyped.value for metric in kept.metric] == [1.0, 2.0]

    def test_what_is_added_is_checked_too(self) -> None:
        """Labels are added before invalid samples are dropped."""
        transforms = Transforms(labels={"region": TOO_LONG})
        assert transforms.apply([family("up", sample())], NOW) == []
        repaired = Transforms(labels={"region": "eu"}).apply(
            [family("up", sample(region=TOO_LONG))], NOW
        )
        assert rows(repaired)[0][1] == {"region": "eu"}

    def test_a_long_name_is_checked_after_renaming(self) -> None:
        (kept,) = Transforms(renames={TOO_LONG: "up"}).apply([family(TOO_LONG, sample())], NOW)
        assert kept.name == "up"

    def test_what_is_added_is_anonymized_too(self) -> None:
        transforms = Transforms(
            labels={"instance": "127.0.0.1:9391"}, anonymized=frozenset(["instance"]), salt=SALT
        )
        (kept,) = transforms.apply([family("up", sample(instance="other"))], NOW)
        assert labels_of(kept.metric[0]) == [("instance", "c4XWQGV_rFgb")]

    def test_values_are_anonymized_after_they_were_checked(self) -> None:
        transforms = Transforms(anonymized=frozenset(["instance"]), salt=SALT)
        assert transforms.apply([family("up", sample(instance=TOO_LONG))], NOW) == []

    @given(text_families(), labels, st.integers(-2 * DAY, 2 * DAY))
    def test_without_hashes_twice_is_as_good_as_once(
        self, families: list[Family], added: dict[str, str], shift: int
    ) -> None:
        transforms = Transforms(labels=added, renames={"a": "b"})
        once = transforms.apply(families, NOW + shift)
        assert rows(transforms.apply(copy(once), NOW + shift)) == rows(once)

    def test_the_original_agent_sent_what_we_would_have_sent(self) -> None:
        """The recorded upload holds some of the samples of the recorded federation."""
        transforms = Transforms(
            labels={"region": "eu"},
            renames={"ALERTS": "alerts"},
            anonymized=frozenset(["instance"]),
            salt=SALT,
        )
        ours = transforms.apply(decode_families(federated()), NOW)
        for made in ours:
            add_labels(made, {"_id": "test", "tier": "gold"})
        known = rows(ours)
        theirs = rows(uploaded())
        assert len(theirs) == 42
        assert [row for row in theirs if row not in known] == []
        assert {made.type for made in uploaded()} == {made.type for made in ours} == {UNTYPED}

    def test_gauges_stay_gauges(self) -> None:
        made = family("up", sample(field="gauge"), kind=GAUGE)
        (kept,) = Transforms(labels={"a": "b"}).apply([made], NOW)
        assert kept.type == GAUGE
        assert kept.metric[0].HasField("gauge")
