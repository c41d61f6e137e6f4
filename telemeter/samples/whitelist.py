"""The whitelist: series pass that at least one rule selects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from telemeter.samples.selector import NAME, Selector


class Whitelist:
    """An index of selectors by metric name.

    A production whitelist has hundreds of rules of which nearly all name their metric, so a series
    is tried against the rules of its own name and the few that name none.

    Attributes:
        selectors: the rules.
    """

    def __init__(self, selectors: Iterable[Selector] = ()) -> None:
        self._by_name: dict[str, list[Selector]] = {}
        self._any_name: list[Selector] = []
        self.selectors = tuple(selectors)
        for selector in self.selectors:
            name = selector.exact_name
            if name is None:
                self._any_name.append(selector)
            else:
                self._by_name.setdefault(name, []).append(selector)

    def __bool__(self) -> bool:
        """Return whether there are any rules; without rules everything passes."""
        return bool(self.selectors)

    def allows(self, labels: Mapping[str, str]) -> bool:
        """Return whether a series with these labels (`__name__` among them) may pass."""
        if not self.selectors:
            return True
        for selector in self._by_name.get(labels.get(NAME, ""), ()):
            if selector.matches(labels):
                return True
        return any(selector.matches(labels) for selector in self._any_name)

    def about(self, name: str) -> Iterator[Selector]:
        """Return the rules that may select series of a metric: those whose name it has."""
        for selector in self.selectors:
            if all(each.matches(name) for each in selector.matchers if each.name == NAME):
                yield selector
