"""What is shown of the embedded store."""

from __future__ import annotations

import math

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from twisted.internet.task import Clock

from telemeter.samples.escaping import Escaping
from telemeter.samples.family import decode_families
from telemeter.samples.proto import metrics_pb2
from telemeter.samples.selector import parse_selector
from telemeter.store import escaped_names, federation
from telemeter.store.federation import Federation, Messages, Text
from telemeter.store.store import Store
from tests.fakes import NOW, NOW_MS
from tests.store.stored import EVERYTHING, Labels, labels_of, lines, settle, shown, written


@pytest.fixture
def store(clock: Clock) -> Store:
    return Store(clock, 600, 100_000)


def fill(store: Store, clock: Clock, cluster: str, *labels: Labels, value: float = 1) -> None:
    samples = dict.fromkeys(labels, (value, NOW_MS))
    settle(store.forward(cluster, written(samples), len(samples)), clock)


@pytest.fixture
def fleet(store: Store, clock: Clock) -> Store:
    for cluster in ("b", "a"):
        fill(
            store,
            clock,
            cluster,
            labels_of("up", _id=cluster, job="x", instance="1"),
            labels_of("up", _id=cluster, job="y", instance="1"),
            labels_of("down", _id=cluster, job="x", instance="1"),
            labels_of(f"only_{cluster}", _id=cluster, instance="1"),
        )
    return store


def series_of(body: bytes) -> list[str]:
    return [line.rpartition("}")[0].replace(',instance="1"', "") + "}" for line in lines(body)]


UP = ['up{_id="a",job="x"}', 'up{_id="a",job="y"}', 'up{_id="b",job="x"}', 'up{_id="b",job="y"}']


@pytest.mark.parametrize(
    ("selectors", "found"),
    [
        (["up"], UP),
        (["up", 'up{job="x"}', "up"], UP),
        (['up{job="x"}', 'up{_id="b"}'], [UP[0], *UP[2:]]),
        (['{job="y"}'], [UP[1], UP[3]]),
        (['{job=""}'], ['only_a{_id="a"}', 'only_b{_id="b"}']),
        (['{__name__=~"only.*",_id!="a"}'], ['only_b{_id="b"}']),
        (['{__name__="up",__name__!="up"}'], []),
        (['{__name__=""}'], []),
        (["nothing"], []),
        (["up", "only_b"], ['only_b{_id="b"}', *UP]),
        (
            [EVERYTHING],
            ['down{_id="a",job="x"}', 'down{_id="b",job="x"}', 'only_a{_id="a"}',
             'only_b{_id="b"}', *UP],
        ),
    ],
)  # fmt: skip
def test_what_selectors_select(selectors: list[str], found: list[str], fleet: Store) -> None:
    assert series_of(shown(fleet, *selectors)) == found
    names = list(dict.fromkeys(line.partition("{")[0] for line in found))
    families = decode_families(shown(fleet, *selectors, encoding=Messages()))
    assert [family.name for family in families] == names
    assert sum(len(family.metric) for family in families) == len(found)


def test_without_a_selector_there_is_nothing(fleet: Store) -> None:
    assert b"".join(Federation(fleet, [], Text(open_metrics=True)).pieces()) == b"# EOF\n"
    assert shown(fleet, "{}") == b""


def test_the_text(store: Store, clock: Clock) -> None:
    fill(store, clock, "c", labels_of("m", _id='a"\\\n', instance="i"), labels_of("n", b="é"))
    assert shown(store).decode() == (
        f'# TYPE m untyped\nm{{_id="a\\"\\\\\\n",instance="i"}} 1 {NOW_MS}\n'
        f'# TYPE n untyped\nn{{b="é",instance=""}} 1 {NOW_MS}\n'
    )


@pytest.mark.parametrize(
    ("value", "text", "open_metrics"),
    [
        (0.0, "0", "0.0"),
        (-0.0, "-0", "-0.0"),
        (100.0, "100", "100.0"),
        (0.1, "0.1", "0.1"),
        (1e6, "1e+06", "1e+06"),
        (1234567.5, "1.2345675e+06", "1.2345675e+06"),
        (1e-7, "1e-07", "1e-07"),
        (math.inf, "+Inf", "+Inf"),
        (-math.inf, "-Inf", "-Inf"),
        (math.nan, "NaN", "NaN"),
    ],
)
def test_numbers(value: float, text: str, open_metrics: str, store: Store, clock: Clock) -> None:
    fill(store, clock, "c", labels_of("m", _id="c"), value=value)
    (line,) = lines(shown(store))
    assert line == f'm{{_id="c",instance=""}} {text} {NOW_MS}'
    page = shown(store, encoding=Text(open_metrics=True)).decode()
    assert page == (f'# TYPE m unknown\nm{{_id="c",instance=""}} {open_metrics} {NOW}.000\n# EOF\n')
    assert len(list(text_string_to_metric_families(page))) == 1


@pytest.mark.parametrize(("when", "text"), [(-1, "-0.001"), (0, "0.000"), (1234567, "1234.567")])
def test_times_of_open_metrics(when: int, text: str, store: Store, clock: Clock) -> None:
    settle(store.send("c", written({labels_of("m"): (1, when)})), clock)
    assert shown(store, encoding=Text(open_metrics=True)).split()[-3] == text.encode()
    (family,) = decode_families(shown(store, encoding=Messages()))
    assert family.metric[0].timestamp_ms == when


def test_a_message(store: Store, clock: Clock) -> None:
    fill(store, clock, "c", labels_of("m", _id="c", job="j"), value=2.5)
    (family,) = decode_families(shown(store, encoding=Messages()))
    assert (family.name, family.type) == ("m", metrics_pb2.UNTYPED)
    (metric,) = family.metric
    assert {pair.name: pair.value for pair in metric.label} == {
        "_id": "c", "job": "j", "instance": "",
    }  # fmt: skip
    assert (metric.untyped.value, metric.timestamp_ms) == (2.5, NOW_MS)


ODD = [labels_of("a b", _id="c"), labels_of("m", **{"_id": "c", "x.y": "1"}), labels_of("ü")]


def test_names_of_other_characters_are_quoted_for_those_who_know_that(
    store: Store, clock: Clock
) -> None:
    fill(store, clock, "c", *ODD, labels_of("plain"))
    assert lines(shown(store, encoding=Text(escaping=Escaping.NONE))) == [
        f'{{"a b",_id="c",instance=""}} 1 {NOW_MS}',
        f'm{{_id="c","x.y"="1",instance=""}} 1 {NOW_MS}',
        f'plain{{instance=""}} 1 {NOW_MS}',
        f'{{"ü",instance=""}} 1 {NOW_MS}',
    ]
    families = decode_families(shown(store, encoding=Messages(escaping=Escaping.NONE)))
    assert [family.name for family in families] == ["a b", "m", "plain", "ü"]


def everything(store: Store, escaping: Escaping, *selectors: str) -> list[str]:
    """All series in both formats, which must agree; no series and no family is there twice."""
    page = shown(store, *selectors, encoding=Text(escaping=escaping)).decode()
    heads = [line.split()[2] for line in page.split("\n") if line.startswith("#")]
    assert len(set(heads)) == len(heads)
    found = [line.rpartition(" ")[0] for line in lines(page.encode())]
    assert len({line.rpartition(" ")[0] for line in found}) == len(found)
    families = decode_families(shown(store, *selectors, encoding=Messages(escaping=escaping)))
    assert [family.name for family in families] == heads
    again = [
        f"{family.name}{{{{{labels}}}}} {metric.untyped.value:g}".replace("{{", "{").replace(
            "}}", "}"
        )
        for family in families
        for metric in family.metric
        for labels in [",".join(f'{pair.name}="{pair.value}"' for pair in metric.label)]
    ]
    assert again == found
    return [line.replace(',instance=""', "").replace('{instance=""}', "{}") for line in found]


@pytest.mark.parametrize(
    ("escaping", "expected"),
    [
        (
            Escaping.UNDERSCORES,
            ['a_b{_id="c"} 1', 'm{_id="c",x_y="1"} 1', "plain{} 1", "_{} 1"],
        ),
        (
            Escaping.DOTS,
            ['a__b{_id="c"} 1', 'm{_id="c",x_dot_y="1"} 1', "plain{} 1", "__{} 1"],
        ),
        (
            Escaping.VALUES,
            [
                'U__a_20_b{_id="c"} 1',
                'm{U__x_2e_y="1",_id="c"} 1',
                "plain{} 1",
                "U___fc_{} 1",
            ],
        ),
    ],
)
@pytest.mark.parametrize("selectors", [(EVERYTHING,), ('{"a b"}', "m", "plain", '{"ü"}')])
def test_names_of_other_characters_are_escaped_for_others(
    escaping: Escaping,
    expected: list[str],
    selectors: tuple[str, ...],
    store: Store,
    clock: Clock,
) -> None:
    fill(store, clock, "c", *ODD, labels_of("plain"))
    assert everything(store, escaping, *selectors) == expected


@pytest.mark.parametrize("names", [["a.b", "a_b"], ["aéb", "a_b"], ["a.b", "a-b"]])
def test_names_that_become_one_are_one_family(names: list[str], store: Store, clock: Clock) -> None:
    """Of series that become one the first is shown, and before that one that is not changed."""
    first, second = names
    plain = "a_b" in names
    for cluster, value in (("c", 1), ("d", 2)):
        samples = {
            labels_of(first, n="1", _id=cluster): (value + 10, NOW_MS),
            labels_of(first, n="2", _id=cluster): (value, NOW_MS),
            labels_of(second, n="2", _id=cluster): (value + 20, NOW_MS),
            labels_of(second, n="3", _id=cluster): (value, NOW_MS),
        }
        settle(store.forward(cluster, written(samples), 4), clock)
    found = everything(store, Escaping.UNDERSCORES)
    assert len(found) == 6
    chosen = 20 if plain or second < first else 0
    for cluster, value in (("c", 1), ("d", 2)):
        of_cluster = [line for line in found if f'_id="{cluster}"' in line]
        assert sorted(float(line.split()[1]) for line in of_cluster) == sorted(
            [value, value + 10, value + chosen]
        )
    # A selector that does not select the one lets the other show.
    (left,) = everything(store, Escaping.UNDERSCORES, f'{{__name__="{first}",n="2",_id="c"}}')
    assert left.endswith(" 1")


def test_labels_that_become_one(store: Store, clock: Clock) -> None:
    fill(
        store,
        clock,
        "c",
        labels_of("m", **{"a.b": "1"}),
        labels_of("m", a_b="1"),
        labels_of("m", **{"a-b": "1"}),
        labels_of("m", **{"a-b": "2"}),
        labels_of("m", **{"a.b": "2"}),
        labels_of("m", **{"a.b": "3", "a_b": "4"}),
        labels_of("m", **{"..name..": "5"}),
        labels_of("m", **{"a:b": "6"}),
    )
    assert sorted(everything(store, Escaping.UNDERSCORES)) == [
        f'm{{a_b="{value}"}} 1' for value in (1, 2, 6)
    ]


def test_very_many_such_names_are_not_all_shown(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(escaped_names, "_MOST_NAMES", 20)
    monkeypatch.setattr(escaped_names, "_MOST_ALIKE", 3)
    odd = [labels_of(f"{mark}m", n=str(at)) for at, mark in enumerate("!#$%&")]
    fill(store, clock, "c", *odd, *(labels_of(f"x.{n}") for n in range(30)), labels_of("plain"))
    found = everything(store, Escaping.UNDERSCORES)
    assert len([line for line in found if line.startswith("_m")]) == 3
    assert len([line for line in found if line.startswith("x_")]) == 15
    assert found[0] == '_m{n="0"} 1'
    assert "plain{} 1" in found


def test_names_in_many_segments(store: Store, clock: Clock) -> None:
    many = [labels_of(f"m{n:04}{mark}", n=str(n)) for n in range(3000) for mark in "._"]
    fill(store, clock, "c", *many)
    assert len(everything(store, Escaping.UNDERSCORES)) == 3000


def test_a_large_family_is_several_messages(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(federation, "_MESSAGE_BYTES", 1000)
    fill(store, clock, "c", *(labels_of("m", n=str(number)) for number in range(200)))
    families = decode_families(shown(store, encoding=Messages()))
    assert {family.name for family in families} == {"m"}
    assert len(families) > 3
    found = [pair.value for family in families for m in family.metric for pair in m.label]
    assert sorted(filter(None, found)) == sorted(str(number) for number in range(200))


def test_what_is_remembered_is_bounded(
    store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(federation, "_MOST_REMEMBERED", 10)
    fill(store, clock, "c", *(labels_of("m", n=str(number)) for number in range(200)))
    settle(store.send("d", written({labels_of("m", l="x" * 600): (9.0, 9)})), clock)
    assert len(lines(shown(store))) == 201
    assert len(decode_families(shown(store, encoding=Messages()))[0].metric) == 201


@pytest.mark.parametrize("selector", ["m", EVERYTHING])
def test_what_changes_meanwhile_neither_repeats_nor_hides_the_rest(
    selector: str, store: Store, clock: Clock
) -> None:
    everything = [labels_of("m", _id="c", n=f"{number:04}") for number in range(0, 1000, 2)]
    settle(store.send("c", written(dict.fromkeys(everything, (1, NOW_MS)))), clock)
    fill(store, clock, "d", labels_of("m", _id="d"))
    fill(store, clock, "e", labels_of("m", _id="e"))
    pieces = Federation(store, [parse_selector(selector)], Text()).pieces()
    body = b""
    number = 1
    for piece in pieces:
        body += piece
        # New series split segments before and behind the place that is being read.
        some = {labels_of("m", _id="c", n=f"{(number + at * 100) % 1000:04}"): (1.0, NOW_MS)
                for at in range(10)}  # fmt: skip
        if number < 100:
            settle(store.send("c", written(some)), clock)
        number += 2
        if number == 21:
            fill(store, clock, "e")  # nothing is left of it
    found = series_of(body)
    assert len(found) == len(set(found))
    assert {f'm{{_id="c",n="{number:04}",instance=""}}' for number in range(0, 1000, 2)} <= set(
        found
    )
    assert 'm{_id="d",instance=""}' in found
    assert 'm{_id="e",instance=""}' not in found
