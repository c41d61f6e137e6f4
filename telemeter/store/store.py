"""The embedded store: the latest sample of every series, in memory, by cluster."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import chain, islice
from operator import attrgetter
from typing import Final

from prometheus_client import Counter, Gauge
from twisted.internet.interfaces import IReactorTime

from telemeter.loop.turns import turn
from telemeter.net.upstream import REQUESTS, SAMPLES, V1, ForwardError, Sent, Version
from telemeter.samples.errors import BadInputError
from telemeter.store.classic import Origin, left_over, read_origin, stale_tail
from telemeter.store.cluster import MOST_RECORDS, ClusterSeries
from telemeter.store.records import Key, Record, is_stale, read_series, time_of
from telemeter.store.settings import MOST_BYTES

SERIES = Gauge(
    "telemeter_store_series", "Series that the embedded store holds.", multiprocess_mode="livesum"
)
CLUSTERS = Gauge(
    "telemeter_store_clusters",
    "Clusters that the embedded store holds series of.",
    multiprocess_mode="livesum",
)
BYTES = Gauge(
    "telemeter_store_bytes",
    "Memory that the embedded store takes, roughly.",
    multiprocess_mode="livesum",
)
REFUSED = Counter(
    "telemeter_store_refused_total",
    "Requests that the embedded store had no room for, by whether their cluster was there already.",
    ["cluster"],
)
EXPIRED = Counter(
    "telemeter_store_expired_clusters_total",
    "Clusters that the embedded store dropped because they sent nothing for --store-retention.",
)
for _cluster in ("new", "known"):
    REFUSED.labels(_cluster)

#: How many series are read, or brought up to date, before others get their turn.
_AT_ONCE: Final = 128
#: So many are sorted at once; more are merged, which is slower and can be interrupted.
_SORTED_AT_ONCE: Final = 16384
_FULL_SECONDS: Final = "60"
#: A cluster may have this part of the room that others leave: so there is always some for another.
_PART_OF_ROOM: Final = 4
#: As much is anybody's, as long as there is room at all: series and bytes.
_SMALL_SERIES: Final = 10
_SMALL_BYTES: Final = 64 * 1024


class Store:
    """A store of the latest sample of every series; see `telemeter.net.upstream.Upstream`.

    An upload replaces what there is of its cluster, a remote-write request is merged into it.
    """

    def __init__(
        self,
        clock: IReactorTime,
        retention: float,
        max_series: int,
        max_bytes: int = MOST_BYTES,
    ) -> None:
        """Make an empty store.

        Args:
            clock: tells the time, and when others had their turn.
            retention: after how many seconds without a request a cluster is dropped.
            max_series: how many series there may be.
            max_bytes: how many bytes they may take, roughly.
        """
        self._clock = clock
        self._retention = retention
        self._max_series = max_series
        self._max_bytes = max_bytes
        # The one that has sent nothing for the longest time comes first.
        self._clusters: OrderedDict[str, ClusterSeries] = OrderedDict()
        self._names: list[str] = []  # sorted
        self._series = 0
        self._bytes = 0
        self._report()

    @property
    def series(self) -> int:
        """Return how many series there are."""
        return self._series

    @property
    def size(self) -> int:
        """Return how many bytes the series take, roughly."""
        return self._bytes

    def clusters(self) -> list[str]:
        """Return the clusters that there are, sorted."""
        self.expire()
        return self._names.copy()

    def cluster(self, name: str) -> ClusterSeries | None:
        """Return the series of a cluster, if it is there."""
        cluster = self._clusters.get(name)
        return cluster if cluster is not None and self._is_fresh(cluster) else None

    def expire(self) -> None:
        """Drop the clusters that have sent nothing for the retention."""
        while self._clusters:
            name = next(iter(self._clusters))
            if self._is_fresh(self._clusters[name]):
                break
            self._drop(name)
            EXPIRED.inc()
        self._report()

    async def forward(self, cluster: str, payload: bytes, samples: int) -> None:
        """Replace the series of a cluster; see `Upstream`."""
        try:
            self._check_room(cluster, samples)
            replacement = await self._sorted(payload)
            self._check_room(cluster, replacement.count, replacement.size)
        except ForwardError:
            REQUESTS.labels("error").inc()
            raise
        self._drop(cluster)
        if replacement.count:
            self._add(cluster, replacement)
        self._report()
        REQUESTS.labels("success").inc()
        SAMPLES.inc(samples)

    async def send(self, cluster: str, payload: bytes, version: Version = V1) -> Sent:
        """Merge series into those of a cluster; see `Upstream`.

        Raises:
            ForwardError: 507, there is no room for series that are new. What the cluster had is
                brought up to date all the same.
        """
        if version != V1:
            raise ForwardError(415, "the embedded store takes remote write as version 1.0 only")
        newest: dict[Key, bytes] = {}
        origins: dict[Key, list[Origin]] = {}
        async for records in _Pieces(self._clock, payload):
            for name, labels, tail in records:
                key = name, labels
                if tail[0] & 1:
                    origin = read_origin(tail)
                    if origin is not None:
                        origins.setdefault(key, []).append(origin)
                        continue
                known = newest.get(key)
                if known is None or time_of(known) <= time_of(tail):
                    newest[key] = tail
        self.expire()
        if cluster not in self._clusters:
            self._check_room(cluster, sum(not is_stale(tail) for tail in newest.values()))
        refused, were_custom = await self._merge_all(cluster, newest)
        became = dict.fromkeys(origins, None) | were_custom
        if became:
            await self._end_classic(cluster, became, newest, origins)
            if refused:
                refused, _ = await self._merge_all(cluster, refused)
        if refused:
            raise self._full("known", len(refused))
        known_cluster = self._clusters.get(cluster)
        if known_cluster is not None:
            self._touch(cluster, known_cluster)
        return Sent(keeps_exemplars=False)

    async def _merge_all(
        self, name: str, newest: dict[Key, bytes]
    ) -> tuple[dict[Key, bytes], dict[Key, None]]:
        """Merge series.

        Returns:
            Those for which there was no room; and those that were histograms with custom buckets,
            of which there are the classic series.
        """
        refused: dict[Key, bytes] = {}
        were_custom: dict[Key, None] = {}
        items = iter(newest.items())
        while some := list(islice(items, _AT_ONCE)):
            for *key, tail in self._merge(name, [(*key, tail) for key, tail in some]):
                refused[key[0], key[1]] = tail
            cluster = self._clusters.get(name)
            histograms = None if cluster is None else cluster.histograms
            if histograms:
                were_custom.update((key, None) for key, _ in some if histograms.has(key))
            if len(newest) > _AT_ONCE:
                await turn(self._clock)
        return refused, were_custom

    async def _end_classic(
        self,
        name: str,
        became: Iterable[Key],
        newest: dict[Key, bytes],
        origins: dict[Key, list[Origin]],
    ) -> None:
        """Remove the classic series that their histograms left behind.

        Args:
            name: the cluster.
            became: the series that are histograms with custom buckets now, or were before.
            newest: what was merged.
            origins: what each series of a histogram was in the course of the request.
        """
        keys = iter(became)
        while some := list(islice(keys, _AT_ONCE)):
            ended = self._left_over(name, some, newest, origins)
            while records := list(islice(ended, _AT_ONCE)):
                self._merge(name, records)
                if len(records) == _AT_ONCE:
                    await turn(self._clock)
            if len(some) == _AT_ONCE:
                await turn(self._clock)
        cluster = self._clusters.get(name)
        if cluster is not None:
            self._bytes -= cluster.size
            cluster.forget()
            self._bytes += cluster.size

    def _left_over(
        self,
        name: str,
        keys: Iterable[Key],
        newest: dict[Key, bytes],
        origins: dict[Key, list[Origin]],
    ) -> Iterator[Record]:
        """Return the marks of the ends of the series that were left behind, see `_end_classic`."""
        for key in keys:
            steps = origins.get(key, []).copy()
            other = Origin(time_of(newest[key]), None) if key in newest else None
            if other is not None:
                steps.append(other)
            steps.sort(key=attrgetter("when"))
            for step in steps:
                cluster = self._clusters.get(name)
                if cluster is None:
                    return
                self._bytes -= cluster.size
                old = cluster.become(key, step.bounds)
                self._bytes += cluster.size
                if old is not None:
                    for gone in left_over(key, old, step.bounds):
                        yield *gone, stale_tail(step.when)
                elif step is not other:
                    yield *key, stale_tail(step.when)  # what it was before

    def _merge(self, name: str, records: list[Record]) -> list[Record]:
        """Merge a few series; returns those for which there was no room."""
        cluster = self._clusters.get(name)
        if cluster is None:
            cluster = ClusterSeries()
            self._add(name, cluster)
        count, size = cluster.count, cluster.size
        most, most_bytes = self._allowed(cluster)
        refused = []
        for record in records:
            if is_stale(record[2]):
                cluster.remove(record)
            elif cluster.update(record):
                pass
            elif cluster.count < most and cluster.size + sum(map(len, record)) <= most_bytes:
                cluster.insert(record)
            else:
                refused.append(record)
        self._series += cluster.count - count
        self._bytes += cluster.size - size
        if not cluster.count:
            self._drop(name)
        self._report()
        return refused

    async def _sorted(self, payload: bytes) -> ClusterSeries:
        """Return the series of an upload, sorted without keeping others waiting."""
        pieces = [
            sorted(record for record in records if not is_stale(record[2]))
            async for records in _Pieces(self._clock, payload)
        ]
        replacement = ClusterSeries()
        if len(pieces) == 1:
            replacement.append(_distinct(pieces[0]))
            return replacement
        series = sum(map(len, pieces))
        in_order = iter(sorted(chain(*pieces))) if series <= _SORTED_AT_ONCE else merge(*pieces)
        last: list[Record] = []
        while some := list(islice(in_order, _AT_ONCE)):
            # The last one waits for the next piece, which might begin with the same series. And
            # segments are filled up.
            last = _distinct(last + some)
            full = (len(last) - 1) // MOST_RECORDS * MOST_RECORDS
            replacement.append(last[:full])
            del last[:full]
            await turn(self._clock)
        replacement.append(last)
        return replacement

    def _allowed(self, cluster: ClusterSeries | None) -> tuple[int, int]:
        """Return how many series a cluster may have, and how many bytes they may take."""
        series, size = (0, 0) if cluster is None else (cluster.count, cluster.size)
        return (
            _share(self._max_series - self._series + series, _SMALL_SERIES),
            _share(self._max_bytes - self._bytes + size, _SMALL_BYTES),
        )

    def _check_room(self, name: str, series: int, size: int = 0) -> None:
        """Refuse more series, or more bytes, than a cluster had and may have."""
        self.expire()
        known = self._clusters.get(name)
        had, had_bytes = (0, 0) if known is None else (known.count, known.size)
        most, most_bytes = self._allowed(known)
        kind = "new" if known is None else "known"
        if series > max(had, most):
            raise self._full(kind, series - had)
        if size > max(had_bytes, most_bytes):
            raise self._full(kind, series - had)

    def _full(self, kind: str, series: int) -> ForwardError:
        REFUSED.labels(kind).inc()
        return ForwardError(
            507,
            f"the store has no room for {series} more series of this {kind} cluster: it holds "
            f"{self._series}, and may hold {self._max_series} (--store-max-series); they take "
            f"{self._bytes} bytes, and may take {self._max_bytes} (--store-max-bytes); a cluster "
            "may have a quarter of what others leave",
            _FULL_SECONDS,
        )

    def _is_fresh(self, cluster: ClusterSeries) -> bool:
        return self._clock.seconds() - cluster.last < self._retention

    def _add(self, name: str, cluster: ClusterSeries) -> None:
        insort(self._names, name)
        self._clusters[name] = cluster
        self._touch(name, cluster)
        self._series += cluster.count
        self._bytes += cluster.size

    def _touch(self, name: str, cluster: ClusterSeries) -> None:
        cluster.last = self._clock.seconds()
        self._clusters.move_to_end(name)

    def _drop(self, name: str) -> None:
        cluster = self._clusters.pop(name, None)
        if cluster is not None:
            del self._names[bisect_left(self._names, name)]
            self._series -= cluster.count
            self._bytes -= cluster.size

    def _report(self) -> None:
        SERIES.set(self._series)
        CLUSTERS.set(len(self._clusters))
        BYTES.set(self._bytes)


def _share(room: int, small: int) -> int:
    """Return a cluster's part of the room that others leave."""
    return min(room, max(small, room // _PART_OF_ROOM))


def _distinct(records: list[Record]) -> list[Record]:
    """Sorted records without those that have the key of the next one."""
    return [
        record
        for at, record in enumerate(records)
        if at + 1 == len(records) or records[at + 1][:2] != record[:2]
    ]


class _Pieces:
    """The series of a payload, some at a time; others get their turn in between."""

    def __init__(self, clock: IReactorTime, payload: bytes) -> None:
        self._clock = clock
        self._payload = payload
        self._at = 0

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> list[Record]:
        if self._at >= len(self._payload):
            raise StopAsyncIteration
        if self._at:
            await turn(self._clock)
        try:
            records, self._at = read_series(self._payload, self._at, _AT_ONCE)
        except (BadInputError, IndexError) as error:
            raise ForwardError(400, f"the request cannot be stored: {error}") from None
        return records
