"""What a time-series database holds, sample by sample, and what a program says of itself."""

from __future__ import annotations

import json
import math
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from demo.stack import Program, Stack, StackError, fetch

Labels = frozenset[tuple[str, str]]
# The samples of each series by time: milliseconds, and the value as text.
Samples = dict[Labels, list[tuple[int, str]]]

_SHOWN = 5
# A sender that was refused waits longer each time, and has much to catch up with.
_SECONDS = 60.0


def ask(url: str, path: str, **parameters: str) -> Any:
    """Ask the HTTP API of a Prometheus or a VictoriaMetrics; return the answer's data.

    Raises:
        OSError: no answer came.
        StackError: it was refused.
    """
    answer = fetch(f"{url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}")
    if answer.status != 200:
        raise StackError(f"{path} {parameters} at {url}: {answer.status} {answer.text}")
    return json.loads(answer.body)["data"]


def stored(url: str, selector: str, at: float) -> Samples:
    """Return every sample of the ten minutes up to a moment, as it is stored."""
    found = ask(url, "query", query=f"{selector}[10m]", time=f"{at:.3f}")["result"]
    return {
        frozenset(series["metric"].items()): [
            (round(seconds * 1000), value) for seconds, value in series.get("values", ())
        ]
        for series in found
    }


def relabeled(
    samples: Samples, add: Mapping[str, str] | None = None, remove: Iterable[str] = ()
) -> Samples:
    """Return the samples with labels added to every series, and others removed."""
    gone = set(remove)
    return {
        frozenset({**{n: v for n, v in labels if n not in gone}, **(add or {})}.items()): found
        for labels, found in samples.items()
    }


def without_nan(samples: Samples) -> Samples:
    """Return the samples without NaN.

    VictoriaMetrics does not store it, and shows the end of a series as one.
    """
    kept = {
        labels: [(at, value) for at, value in found if value != "NaN"]
        for labels, found in samples.items()
    }
    return {labels: found for labels, found in kept.items() if found}


def same(one: str, other: str) -> bool:
    """Tell whether two values are the same text."""
    return one == other


def same_decimals(one: str, other: str) -> bool:
    """Tell whether two values agree in the digits that VictoriaMetrics keeps."""
    return math.isclose(float(one), float(other), rel_tol=1e-11, abs_tol=1e-300)


def differences(
    wanted: Samples, found: Samples, equal: Callable[[str, str], bool] = same
) -> list[str]:
    """Say what is missing, what is too much, and which values are wrong."""
    said = []
    for labels in wanted.keys() | found.keys():
        left, right = wanted.get(labels, []), found.get(labels, [])
        if left == right:
            continue
        name = ", ".join(f"{key}={value[:40]!r}" for key, value in sorted(labels))
        if [at for at, _ in left] != [at for at, _ in right]:
            missing = sorted(set(left) - set(right))
            more = sorted(set(right) - set(left))
            doubled = len(right) - len(set(right))
            said.append(
                f"{{{name}}}: {len(left)} samples wanted, {len(right)} found, "
                f"{doubled} of them doubled; missing {missing[:_SHOWN]}; too much {more[:_SHOWN]}"
            )
        else:
            said += [
                f"{{{name}}}: at {at} {value} wanted, {other} found"
                for (at, value), (_, other) in zip(left, right, strict=True)
                if not equal(value, other)
            ]
    return said


def wait_until_same(
    stack: Stack,
    look: Callable[[], tuple[Samples, Samples]],
    what: str,
    *,
    equal: Callable[[str, str], bool] = same,
    guilty: Program | None = None,
) -> Samples:
    """Wait until what is wanted and what is found are the same; return that.

    Raises:
        StackError: they are not in time; the text says how they differ.
    """
    said: list[str] = []
    wanted: Samples = {}

    def alike() -> bool:
        nonlocal said, wanted
        wanted, found = look()
        said = differences(wanted, found, equal)
        return bool(wanted) and not said

    try:
        stack.wait(alike, what, guilty, seconds=_SECONDS)
    except StackError as error:
        more = f"\n... and {len(said) - _SHOWN} more" if len(said) > _SHOWN else ""
        raise StackError("\n".join([str(error), *said[:_SHOWN]]) + more) from None
    return wanted


def counted(url: str, name: str, **labels: str) -> float:
    """Return a metric of a program, the sum over all series that have these labels."""
    return sum(
        sample.value
        for family in text_string_to_metric_families(fetch(f"{url}/metrics").text)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )
