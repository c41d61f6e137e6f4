from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemeter.samples.errors import BadInputError
from telemeter.samples.selector import Matcher, Selector, parse_rules, parse_selector

from .strategies import texts

Labels = dict[str, str]

UP = {"__name__": "up"}
OPERATORS = ["=", "!=", "=~", "!~"]
#: Patterns on which a backtracking engine takes exponential time.
CATASTROPHIC = [
    "(a|a)*b",
    "(a*)*b",
    "(a+)+b",
    "(a|aa)+b",
    "(.*)*b",
    "(a?){50}a{50}b",
    "^(.*a){20}b$",
]
#: What selectors are made of, and what they are not.
TOKENS = [
    *"\"'`{}[]()=~!\\#*+?|,:@-an5 \n\0é\ud800\ufdd0\ufdd1",
    *('{a=~"', '"}', "__name__", "offset", "5m", "or", "NaN", "1e999", "x4", "\\Q", "\\C", "{2,3}"),
]
#: Seconds of processor time.
SOON = 1.0


def matches(operator: str, wanted: str, value: str) -> bool:
    return Matcher("a", operator, wanted).matches(value)


@pytest.mark.parametrize(
    ("text", "selected", "others"),
    [
        ("up", [UP, {**UP, "a": "b"}], [{"__name__": "down"}, {"__name__": "up2"}, {"a": "up"}]),
        ("up{}", [UP], [{"__name__": "down"}]),
        ("a:b:c", [{"__name__": "a:b:c"}], [UP]),
        ('{__name__="up"}', [UP, {**UP, "a": "b"}], [{"__name__": "down"}, {}]),
        ('{__name__=~"u.*|down"}', [UP, {"__name__": "down"}], [{"__name__": "sup"}, {}]),
        ('{__name__="up",__name__!="up"}', [], [UP, {}]),
        ('{"up"}', [UP], [{"__name__": "down"}]),
        ('{"a b.c",d="e"}', [{"__name__": "a b.c", "d": "e"}], [{"__name__": "a b.c"}]),
        ('{"a b"="c"}', [{"a b": "c"}], [{"a": "c"}, {}]),
        ("{}", [{}, UP, {"a": "b"}], []),
        ('up{a="b"}', [{**UP, "a": "b"}], [UP, {**UP, "a": "c"}, {"a": "b"}]),
        ('up{a="b",c!="d"}', [{**UP, "a": "b"}], [{**UP, "a": "b", "c": "d"}, {**UP, "c": "e"}]),
        (' up { a = "b" , } ', [{**UP, "a": "b"}], [UP]),
        ('up{a="b"} # all of them', [{**UP, "a": "b"}], [UP]),
        ('{\na=\n"b"\n}', [{"a": "b"}], [{}]),
        ("{a='b\"'}", [{"a": 'b"'}], [{"a": "b"}]),
        (r'{a="\"\\\n\t\x41\u00e9\101"}', [{"a": '"\\\n\tAéA'}], [{"a": ""}]),
        ("{a=`\\n\"'`}", [{"a": "\\n\"'"}], [{"a": "\n\"'"}]),
        ("{a=`\n`}", [{"a": "\n"}], [{"a": "n"}]),
        ("{a=~`\\d+`}", [{"a": "12"}], [{"a": "d"}, {"a": ""}]),
        (r'{a=~"\\d+"}', [{"a": "12"}], [{"a": "d"}, {"a": ""}]),
        (r"{a!~'\\d+'}", [{"a": "d"}, {}], [{"a": "12"}]),
        ('{a="{#}"}', [{"a": "{#}"}], [{"a": "{"}]),
        ('{a=~".{2}"}', [{"a": "xx"}], [{"a": "x"}]),
        ('{sum="x",by="y"}', [{"sum": "x", "by": "y"}], [{"sum": "x"}]),
        ("sum", [{"__name__": "sum"}], [UP]),
        ('{a="é\U0001f600"}', [{"a": "é\U0001f600"}], [{"a": "é"}]),
        ('{a="\ufdd1"}', [{"a": "\ufdd1"}], [{}]),
        ('{__any__="x"}', [{"__any__": "x"}], [{}, {"__any__": "y"}]),
    ],
)
def test_what_a_selector_selects(text: str, selected: list[Labels], others: list[Labels]) -> None:
    selector = parse_selector(text)
    assert selector.text == text
    assert [labels for labels in selected if not selector.matches(labels)] == []
    assert [labels for labels in others if selector.matches(labels)] == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not a PromQL vector selector: "),
        ("# nothing", "is not a PromQL vector selector: "),
        ("{", "is not a PromQL vector selector: "),
        ('{a="b"', "is not a PromQL vector selector: "),
        ('{a="b}', "is not a PromQL vector selector: "),
        ("{a=b}", "is not a PromQL vector selector: "),
        ('{a=="b"}', "is not a PromQL vector selector: "),
        ('{a="b",,}', "is not a PromQL vector selector: "),
        ("up{,}", "is not a PromQL vector selector: "),
        ('{a="b" c="d"}', "is not a PromQL vector selector: "),
        (r'{a="\."}', "is not a PromQL vector selector: "),
        (r'{a=~"\."}', "is not a PromQL vector selector: "),
        ('up{a="b"}{c="d"}', "is not a PromQL vector selector: "),
        ('up{__name__="up"}', "metric name must not be set twice"),
        ("up up", "is not a PromQL vector selector: "),
        ("up\0", "is not a PromQL vector selector: "),
        ("\ud800", "is not a PromQL vector selector: "),
        ("(" * 4096, "is not a PromQL vector selector: "),
        ("{" * 4096, "is not a PromQL vector selector: "),
        ("1", "is not a plain PromQL vector selector such as .*: no functions, ranges"),
        ("NaN", "is not a plain PromQL vector selector"),
        ('"up"', "is not a plain PromQL vector selector"),
        ("(up)", "is not a plain PromQL vector selector"),
        ("-up", "is not a plain PromQL vector selector"),
        ("up + up", "is not a plain PromQL vector selector"),
        ("sum(up)", "is not a plain PromQL vector selector"),
        ("up[5m]", "is not a plain PromQL vector selector"),
        ("up offset 5m", "is not a plain PromQL vector selector"),
        ("up @ 5", "is not a plain PromQL vector selector"),
        ('{a="b" or c="d"}', "is not a plain PromQL vector selector"),
        ('{a=~"["}', r"'\[' is not a regex that RE2 takes: missing \]"),
        ("{a=~`(a)\\1`}", "is not a regex that RE2 takes: invalid escape sequence"),
        ('{a=~"(?=a)"}', "is not a regex that RE2 takes: invalid perl operator"),
        ('{a!~"(?!a)"}', "is not a regex that RE2 takes: invalid perl operator"),
        ('{a=~"(?<=a)b"}', "is not a regex that RE2 takes: invalid"),
        ('{a=~"a{1001}"}', "is not a regex that RE2 takes: invalid repetition size"),
        ('{a=~"((a{99}){99}){99}"}', "is not a regex that RE2 takes"),
    ],
)
def test_what_is_no_selector_is_refused(text: str, reason: str) -> None:
    with pytest.raises(BadInputError, match=reason):
        parse_selector(text)


def test_a_selector_has_a_greatest_length() -> None:
    fits = '{a="' + "x" * 4090 + '"}'
    assert parse_selector(fits).matches({"a": "x" * 4090})
    with pytest.raises(BadInputError, match="may have 4096 characters, not 4097"):
        parse_selector(fits + " ")


class TestMatcher:
    @pytest.mark.parametrize(
        ("operator", "wanted", "is_met"),
        [
            ("=", "", True),
            ("=", "x", False),
            ("!=", "", False),
            ("!=", "x", True),
            ("=~", "", True),
            ("=~", ".*", True),
            ("=~", "x?", True),
            ("=~", ".+", False),
            ("=~", "x", False),
            ("!~", "", False),
            ("!~", ".*", False),
            ("!~", ".+", True),
            ("!~", "x", True),
        ],
    )
    def test_an_absent_label_is_the_empty_string(
        self, operator: str, wanted: str, is_met: bool
    ) -> None:
        for labels in ({}, {"a": ""}, {"b": "x"}):
            assert parse_selector(f'{{a{operator}"{wanted}"}}').matches(labels) is is_met

    @given(
        st.sampled_from(OPERATORS), st.sampled_from(["", "a", "a|b", ".*", "a.*", "[^a]+"]), texts
    )
    def test_the_negative_operators_are_the_opposite(
        self, operator: str, wanted: str, value: str
    ) -> None:
        opposite = {"=": "!=", "!=": "=", "=~": "!~", "!~": "=~"}[operator]
        assert matches(operator, wanted, value) is not matches(opposite, wanted, value)

    @given(texts, texts)
    def test_equality_is_of_the_whole_text(self, wanted: str, value: str) -> None:
        assert matches("=", wanted, value) is (wanted == value)

    @pytest.mark.parametrize(
        ("pattern", "value", "is_met"),
        [
            ("b", "b", True),
            ("b", "abc", False),
            ("b", "bc", False),
            ("b", "ab", False),
            ("b", "b\n", False),
            ("b$", "b\n", False),
            ("a|b", "a", True),
            ("a|b", "b", True),
            ("a|b", "ab", False),
            ("a|ab", "ab", True),
            ("^a|b$", "ac", False),
            ("a.b", "a\nb", True),
            (".*", "\n\n", True),
            (".+", "\n", True),
            (".", "é", True),
            (".", "\U0001f600", True),
            ("(?i)é", "É", True),
            (r"\Qa.b|c\E", "a.b|c", True),
            (r"\Qa.b|c\E", "axb", False),
            (r"\Qa.b\E+", "a.bbb", True),
            (r"a\C", "ab", True),
            (r"\C\C", "é", True),
            (r"\C", "é", False),
            (r"\pL+", "aé", True),
            (r"[[:alpha:]]+", "ab", True),
            (r"\z", "", True),
            ("(?P<x>a)", "a", True),
            ("a{2}", "aa", True),
            ("\0", "\0", True),
            ("a\0b", "a", False),
        ],
    )
    def test_regexes_are_those_of_re2_and_fully_anchored(
        self, pattern: str, value: str, is_met: bool
    ) -> None:
        matcher = Matcher("a", "=~", pattern)
        assert matcher.matches(value) is is_met
        assert matcher.matches(value) is is_met  # remembered
        assert matches("!~", pattern, value) is not is_met

    def test_a_bad_regex_is_told_to_the_caller_alone(
        self, capfd: pytest.CaptureFixture[str]
    ) -> None:
        with pytest.raises(BadInputError):
            Matcher("a", "=~", "(")
        assert capfd.readouterr() == ("", "")

    @pytest.mark.parametrize("pattern", CATASTROPHIC)
    def test_no_pattern_takes_long(self, pattern: str) -> None:
        matcher = Matcher("a", "=~", pattern)
        start = time.process_time()
        assert not matcher.matches("a" * 100_000)
        assert matcher.matches("a" * 100 + "b")
        assert time.process_time() - start < SOON

    def test_what_is_remembered_is_bounded(self) -> None:
        matcher = Matcher("a", "=~", "x[0-9]*[02468]")
        for _ in range(2):
            for number in range(10_000):
                assert matcher.matches(f"x{number}") is (number % 2 == 0)
        assert 0 < len(matcher._remembered) <= 4096
        before = len(matcher._remembered)
        assert matcher.matches("x" + "0" * 10_000)
        assert len(matcher._remembered) == before

    @pytest.mark.parametrize("operator", OPERATORS)
    def test_it_shows_itself_as_it_was_written(self, operator: str) -> None:
        assert repr(Matcher("a", operator, "b")) == f"a{operator}'b'"


class TestSelector:
    @pytest.mark.parametrize(
        ("text", "name"),
        [
            ("up", "up"),
            ('{__name__="up"}', "up"),
            ('{a="b",__name__="up"}', "up"),
            ('{__name__=~"up"}', None),
            ('{__name__!="up"}', None),
            ('{__name__!~"up"}', None),
            ('{a="up"}', None),
            ("{}", None),
        ],
    )
    def test_the_name_that_it_requires(self, text: str, name: str | None) -> None:
        assert parse_selector(text).exact_name == name

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("up", True),
            ('{a="b"}', True),
            ('{a=~".+"}', True),
            ('{a!=""}', True),
            ('{a!="b",c="d"}', True),
            ("{}", False),
            ('{a=""}', False),
            ('{a!="b"}', False),
            ('{a=~".*",c!~"d"}', False),
        ],
    )
    def test_whether_a_query_may_consist_of_it(self, text: str, expected: bool) -> None:
        assert parse_selector(text).selects_something_named is expected

    @given(st.lists(st.sampled_from(TOKENS), max_size=20).map("".join))
    def test_any_text_is_a_selector_or_is_refused(self, text: str) -> None:
        try:
            selector = parse_selector(text)
        except BadInputError:
            return
        assert isinstance(selector, Selector)
        assert selector.matches({"__name__": "up", "a": "é\n"}) in (True, False)


class TestRules:
    def test_one_a_line(self) -> None:
        text = (
            '# all that may pass\n\n{__name__="up"}\r\n\t  down{a="#"}  \n  # and\n{a=~"#"} # x\n'
        )
        rules = parse_rules(text)
        assert [rule.text for rule in rules] == ['{__name__="up"}', 'down{a="#"}', '{a=~"#"} # x']
        assert rules[1].matches({"__name__": "down", "a": "#"})

    @pytest.mark.parametrize("text", ["", "\n", "# nothing\n  \n#"])
    def test_a_file_may_hold_none(self, text: str) -> None:
        assert parse_rules(text) == []

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("{", r"^line 1: '\{' is not a PromQL vector selector"),
            ("up\n\n# x\nsum(up)\nup", r"^line 4: 'sum\(up\)' is not a plain PromQL vector"),
            ('up\r\n{a=~"("}\r\n', r"^line 2: '\(' is not a regex that RE2 takes"),
            ("up\n" + "x" * 5000, "^line 2: a selector may have 4096 characters, not 5000"),
        ],
    )
    def test_the_reason_names_the_line(self, text: str, reason: str) -> None:
        with pytest.raises(BadInputError, match=reason):
            parse_rules(text)
