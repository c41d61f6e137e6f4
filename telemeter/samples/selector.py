"""PromQL vector selectors: the rules of a whitelist, and what an agent asks its Prometheus for.

The grammar is promql-parser's. Two things it decides differently from Prometheus are worked around
here: it checks regexes with another engine than RE2, and it refuses selectors such as `{a!="b"}`,
which Prometheus refuses in a query only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import promql_parser
import re2

from telemeter.samples.errors import BadInputError
from telemeter.samples.limits import MAX_REMEMBERED, MAX_REMEMBERED_LENGTH

NAME: Final = "__name__"

_MAX_SELECTOR = 4096
#: Stands at the start of a string that is a regex, so that the parser takes it for plain text.
_REGEX_MARK = "\ufdd0re2\ufdd0"
#: Makes every selector one that "contains a non-empty matcher"; taken out again after parsing.
_NOT_EMPTY_NAME = "__any__\ufdd1"
_NOT_EMPTY = f'"{_NOT_EMPTY_NAME}"="x",'
_TOKEN = re.compile(
    r"""(?P<operator>=~|!~|!=|=)?(?P<space>\s*)
        (?P<quoted>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'|`[^`]*`)
      | (?P<comment>\#[^\n]*)
      | (?P<brace>\{)""",
    re.VERBOSE,
)


def _options() -> Any:
    options = re2.Options()
    options.dot_nl = True  # as Prometheus: a dot matches a newline too
    options.log_errors = False
    options.max_mem = 8 << 20
    return options


_RE2_OPTIONS = _options()


class Matcher:
    """One condition on one label; an absent label is the empty string, as in PromQL."""

    __slots__ = ("_pattern", "_remembered", "is_negative", "is_regex", "name", "value")

    def __init__(self, name: str, operator: str, value: str) -> None:
        """Make a matcher.

        Args:
            name: the label's name.
            operator: `=`, `!=`, `=~` or `!~`.
            value: the value, or the regex (RE2, matched against the whole value).

        Raises:
            BadInputError: the regex is not RE2.
        """
        self.name = name
        self.value = value
        self.is_regex = operator in ("=~", "!~")
        self.is_negative = operator in ("!=", "!~")
        self._remembered: dict[str, bool] = {}
        self._pattern: Any = None
        if self.is_regex:
            try:
                self._pattern = re2.compile(value, _RE2_OPTIONS)
            except re2.error as error:
                reason = error.args[0]
                text = reason.decode("utf-8", "replace") if isinstance(reason, bytes) else reason
                raise BadInputError(f"{value!r} is not a regex that RE2 takes: {text}") from None

    def matches(self, value: str) -> bool:
        """Return whether a label with this value (empty: no such label) meets the condition."""
        if not self.is_regex:
            return (value == self.value) != self.is_negative
        known = self._remembered.get(value)
        if known is None:
            known = self.evaluate(value)
            if len(value) > MAX_REMEMBERED_LENGTH:
                return known
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
            self._remembered[value] = known
        return known

    def evaluate(self, value: str) -> bool:
        """Evaluate a regex like `matches`, without remembering the answer."""
        return (self._pattern.fullmatch(value) is not None) != self.is_negative

    def __repr__(self) -> str:
        operator = ("!" if self.is_negative else "=") + ("~" if self.is_regex else "=")
        return f"{self.name}{operator.replace('==', '=')}{self.value!r}"


@dataclass(frozen=True, slots=True)
class Selector:
    """Matchers that must all hold.

    Attributes:
        text: the selector as it was written.
        matchers: its conditions, the metric name's among them (label `__name__`).
    """

    text: str
    matchers: tuple[Matcher, ...]

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Return whether a series with these labels (`__name__` among them) is selected."""
        get = labels.get
        return all(matcher.matches(get(matcher.name, "")) for matcher in self.matchers)

    @property
    def exact_name(self) -> str | None:
        """The metric name that the selector requires, when it requires one."""
        for matcher in self.matchers:
            if matcher.name == NAME and not matcher.is_regex and not matcher.is_negative:
                return matcher.value
        return None

    @property
    def is_satisfiable(self) -> bool:
        """Tell whether any series could be selected: no demanded value is excluded as well."""
        exact = {
            each.name: each.value
            for each in self.matchers
            if not each.is_regex and not each.is_negative
        }
        return exact.get(NAME) != "" and all(
            each.name not in exact or each.matches(exact[each.name]) for each in self.matchers
        )

    @property
    def selects_something_named(self) -> bool:
        """Tell whether a matcher refuses the empty string, as a PromQL query requires."""
        return any(not matcher.matches("") for matcher in self.matchers)


def parse_selector(text: str) -> Selector:
    """Parse one vector selector, such as `up{job="x"}` or `{__name__=~"a|b"}`.

    Raises:
        BadInputError: it is no such selector, or a regex in it is not RE2.
    """
    if len(text) > _MAX_SELECTOR:
        raise BadInputError(f"a selector may have {_MAX_SELECTOR} characters, not {len(text)}")
    try:
        parsed = promql_parser.parse(_TOKEN.sub(_rewrite, text))
    except ValueError as error:
        raise BadInputError(f"{text!r} is not a PromQL vector selector: {error}") from None
    if (
        not isinstance(parsed, promql_parser.VectorSelector)
        or parsed.offset is not None
        or parsed.at is not None
        or parsed.matchers.or_matchers
    ):
        raise BadInputError(
            f"{text!r} is not a plain PromQL vector selector such as "
            '{__name__="up",job="x"}: no functions, ranges, offsets or alternatives'
        )
    matchers = [Matcher(NAME, "=", parsed.name)] if parsed.name else []
    for matcher in parsed.matchers.matchers:
        if matcher.name == _NOT_EMPTY_NAME:
            continue
        negative = matcher.op == promql_parser.MatchOp.NotEqual
        operator = "!=" if negative else "="
        value = matcher.value
        if value.startswith(_REGEX_MARK):
            operator, value = operator[:-1].ljust(1, "=") + "~", value.removeprefix(_REGEX_MARK)
        matchers.append(Matcher(matcher.name, operator, value))
    return Selector(text, tuple(matchers))


def _rewrite(token: re.Match[str]) -> str:
    """Rewrite one token for the parser: see the module's docstring."""
    if token["comment"]:
        return ""
    if token["brace"]:
        return "{" + _NOT_EMPTY
    operator, quoted = token["operator"] or "", token["quoted"]
    if quoted[0] == "`":  # raw: the parser wrongly looks for escapes in it
        quoted = '"' + re.sub(r'[\\"]', r"\\\g<0>", quoted[1:-1]).replace("\n", "\\n") + '"'
    if operator.endswith("~"):
        operator = {"=~": "=", "!~": "!="}[operator]
        quoted = quoted[0] + _REGEX_MARK + quoted[1:]
    return operator + token["space"] + quoted


def parse_rules(text: str) -> list[Selector]:
    """Parse a file of selectors: one a line, blank lines and lines that start with `#` ignored.

    Raises:
        BadInputError: a line is no selector; the message names the line's number.
    """
    selectors = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.strip()
        if line and not line.startswith("#"):
            try:
                selectors.append(parse_selector(line))
            except BadInputError as error:
                raise BadInputError(f"line {number}: {error}") from None
    return selectors
