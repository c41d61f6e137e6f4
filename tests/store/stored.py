"""Requests for the embedded store, and what it then shows."""

from __future__ import annotations

from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Final, TypeAlias, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from telemeter.samples.proto import remote_pb2
from telemeter.samples.selector import parse_selector
from telemeter.store.federation import Encoding, Federation, Text
from telemeter.store.store import Store

#: The labels of a series, its name among them.
Labels: TypeAlias = tuple[tuple[str, str], ...]

EVERYTHING: Final = '{__name__=~".+"}'

_T = TypeVar("_T")


def labels_of(name: str, **others: str) -> Labels:
    return tuple(sorted({"__name__": name, **others}.items()))


def series(labels: Labels, *samples: tuple[float, int]) -> remote_pb2.TimeSeries:
    return remote_pb2.TimeSeries(
        labels=[remote_pb2.Label(name=name, value=value) for name, value in labels],
        samples=[remote_pb2.Sample(value=value, timestamp=when) for value, when in samples],
    )


def request(*all_series: remote_pb2.TimeSeries) -> bytes:
    return remote_pb2.WriteRequest(timeseries=all_series).SerializeToString()


def written(samples: Mapping[Labels, tuple[float, int]]) -> bytes:
    """The request with one sample of each series."""
    return request(*(series(labels, sample) for labels, sample in samples.items()))


def settle(coroutine: Coroutine[Deferred[Any], Any, _T], clock: Clock) -> _T:
    """The result of what gives others their turn; all turns come at once."""
    results: list[Any] = []
    Deferred.fromCoroutine(coroutine).addBoth(results.append)
    while not results:
        assert clock.getDelayedCalls()
        clock.advance(0)
    if hasattr(results[0], "raiseException"):
        results[0].raiseException()
    return results[0]  # type: ignore[no-any-return]


def shown(store: Store, *selectors: str, encoding: Encoding | None = None) -> bytes:
    """What is federated."""
    chosen = [parse_selector(text) for text in selectors or (EVERYTHING,)]
    return b"".join(Federation(store, chosen, encoding or Text()).pieces())


def lines(body: bytes) -> Sequence[str]:
    return [line for line in body.decode().split("\n") if line and not line.startswith("#")]
