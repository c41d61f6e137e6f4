"""The metrics of a worker process, in memory that it shares with its parent.

No file system is involved that could be full or cleaned up. The memory belongs to the parent, so
what a worker has counted stays when it ends, and the one that takes its place goes on from there.

prometheus-client makes a value for each sample that it counts. Here a value has an entry in the
memory: its key (what it is a sample of, as JSON), the value, and when it was set. Entries are only
ever added.
"""

from __future__ import annotations

import json
import mmap
import os
import struct
import weakref
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from threading import Lock
from typing import Any, Final, NamedTuple, Protocol, TypeAlias

from prometheus_client import Metric
from prometheus_client.utils import floatToGoString
from twisted.logger import Logger

#: How large the memory may become, in bytes; what nobody has used yet takes no memory.
SIZE: Final = 16 << 20
#: In which steps it grows, in bytes.
_STEP: Final = 64 << 10
#: At its beginning: how much of it is used; and at the beginning of an entry, its key's length.
_LENGTH: Final = struct.Struct("=q")
#: At the end of an entry: the value, and when it was set.
_VALUES: Final = struct.Struct("=dd")

#: How the values of workers become one, for gauges; see `multiprocess_mode` of prometheus-client.
_SUM, _LARGEST, _LATEST = "livesum", "livemax", "mostrecent"

_Labels: TypeAlias = tuple[tuple[str, str], ...]

log = Logger()


class Key(NamedTuple):
    """What a value is a sample of.

    Attributes:
        kind: of metric, such as counter.
        mode: how the values of workers become one, for a gauge.
        metric: its name.
        text: what it says.
        sample: the name of the sample.
        labels: of the sample.
    """

    kind: str
    mode: str
    metric: str
    text: str
    sample: str
    labels: _Labels

    def encode(self) -> bytes:
        """Return it as it is in the memory."""
        return json.dumps(self).encode()


@lru_cache(maxsize=10_000)
def _decoded(data: bytes) -> Key:
    """Return an encoded key, mostly one that other workers have too; raises ValueError."""
    kind, mode, metric, text, sample, labels = json.loads(data)
    return Key(kind, mode, metric, text, sample, tuple((name, value) for name, value in labels))


class Entry(NamedTuple):
    """A value in the memory.

    Attributes:
        key: what it is.
        value: the value.
        time: when it was set, as `mostrecent` wants it; 0: it never was.
        at: where it is.
    """

    key: Key
    value: float
    time: float
    at: int


class Memory:
    """The metrics of one worker.

    Attributes:
        descriptor: of the memory, for the worker to inherit.
    """

    def __init__(self, descriptor: int) -> None:
        """Use memory.

        Args:
            descriptor: of the memory, which has its size. It stays the caller's; see `new`.

        Raises:
            OSError: it is not there.
        """
        self.descriptor = descriptor
        self._size = os.fstat(descriptor).st_size
        self._memory = mmap.mmap(descriptor, self._size)
        # Python sets such a number in one step, so that nobody ever reads half of it.
        self._numbers = memoryview(self._memory).cast("d")
        self._there = 0
        self._reserve(_LENGTH.size)

    @classmethod
    def new(cls, descriptor: int, size: int = SIZE) -> Memory:
        """Use memory for the first time, and close its descriptor when it is not needed any more.

        Args:
            descriptor: of the memory, which is empty.
            size: how large it may become, a multiple of 8.

        Raises:
            OSError: it may not be so large.
        """
        try:
            os.ftruncate(descriptor, size)
            memory = cls(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        weakref.finalize(memory, os.close, descriptor)
        return memory

    def _reserve(self, end: int) -> None:
        """Have the memory up to here; raises OSError.

        What is only written to is there too, but where it cannot be had, that ends the process.
        """
        while self._there < end:
            step = min(_STEP, self._size - self._there)
            if step <= 0:
                raise OSError(f"more than {self._size} bytes of metrics")
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self.descriptor, self._there, step)
            self._there += step

    def _used(self) -> int:
        return _LENGTH.unpack_from(self._memory)[0] or _LENGTH.size

    def entries(self) -> Iterator[Entry]:
        """Yield what is there; raises ValueError if that is nothing that was ever written."""
        at, used = _LENGTH.size, self._used()
        if not _LENGTH.size <= used <= self._size:
            raise ValueError(f"{used} of {self._size} bytes are used")
        while at < used:
            start = at + _LENGTH.size
            length = _LENGTH.unpack_from(self._memory, at)[0]
            at = start + _padded(length)
            if length < 0 or at + _VALUES.size > used:
                raise ValueError(f"an entry of {length} bytes at {start} of {used}")
            key = _decoded(self._memory[start : start + length])
            value, time = _VALUES.unpack_from(self._memory, at)
            yield Entry(key, value, time, at)
            at += _VALUES.size

    def add(self, key: Key, value: float) -> int:
        """Add a value; return where it is. Raises OSError if there is no more memory."""
        encoded, at = key.encode(), self._used()
        entry = (
            _LENGTH.pack(len(encoded))
            + encoded.ljust(_padded(len(encoded)))
            + _VALUES.pack(value, 0.0)
        )
        end = at + len(entry)
        self._reserve(end)
        self._memory[at:end] = entry
        self._memory[: _LENGTH.size] = _LENGTH.pack(end)  # now it counts
        return end - _VALUES.size

    def get(self, at: int) -> float:
        """Return the value that is there."""
        return self._numbers[at >> 3]

    def set(self, at: int, value: float) -> None:
        """Set the value that is there."""
        self._numbers[at >> 3] = value

    def set_time(self, at: int, time: float) -> None:
        """Set the time of the value that is there."""
        self._numbers[(at >> 3) + 1] = time

    def clear(self) -> None:
        """Forget everything."""
        self._memory[: _LENGTH.size] = _LENGTH.pack(_LENGTH.size)

    def forget_living(self) -> None:
        """Forget what only a worker that lives can say: what is under way there."""
        with suppress(ValueError):  # the next worker begins anew then
            for entry in self.entries():
                if entry.key.mode in (_SUM, _LARGEST):
                    self.set(entry.at, 0.0)


def _padded(length: int) -> int:
    return (length + 7) & ~7


# --- Counting -------------------------------------------------------------------------------------


class Value(Protocol):
    """A value as prometheus-client wants it."""

    def inc(self, amount: float) -> None: ...
    def set(self, value: float, timestamp: float | None = None) -> None: ...
    def get(self) -> float: ...
    def set_exemplar(self, exemplar: object) -> None: ...
    def get_exemplar(self) -> object: ...


def value_class(memory: Memory) -> type[Value]:
    """Return the class of values that are in this memory, for `prometheus_client.values`.

    A value that finds no room there counts all the same, and is tried again whenever it changes.
    """
    try:
        places = {entry.key: entry.at for entry in memory.entries()}
    except ValueError as error:
        log.error("the metrics of this worker begin anew, they were damaged", reason=str(error))
        memory.clear()
        places = {}
    placing = Lock()
    is_failing = False

    def place(key: Key, value: float) -> tuple[int, float]:
        """Return where a value is and what it is, or 0 for where there is no room."""
        nonlocal is_failing
        with placing:
            if key not in places:
                try:
                    places[key] = memory.add(key, value)
                except OSError as error:
                    if not is_failing:
                        log.error("some metrics of this worker are not shown", reason=str(error))
                    is_failing = True
                    return 0, value
                is_failing = False
            return places[key], memory.get(places[key])

    class SharedValue:
        """A number in the memory."""

        def __init__(
            self,
            typ: str,
            metric_name: str,
            name: str,
            labelnames: Sequence[str],
            labelvalues: Sequence[str],
            help_text: str,
            multiprocess_mode: str = "",
            **_: Any,
        ) -> None:
            if typ == "gauge" and multiprocess_mode not in (_SUM, _LARGEST, _LATEST):
                raise ValueError(f"{metric_name}: a multiprocess_mode {multiprocess_mode!r}")
            labels = tuple(sorted(zip(labelnames, labelvalues, strict=True)))
            self._key = Key(typ, multiprocess_mode, metric_name, help_text, name, labels)
            self._lock = Lock()
            self._at, self._value = place(self._key, 0.0)

        def inc(self, amount: float) -> None:
            with self._lock:
                self._value += amount
                self._show()

        def set(self, value: float, timestamp: float | None = None) -> None:
            with self._lock:
                self._value = value
                self._show()
                if timestamp and self._at:
                    memory.set_time(self._at, timestamp)

        def _show(self) -> None:
            if not self._at:
                self._at, _ = place(self._key, self._value)
            if self._at:
                memory.set(self._at, self._value)

        def get(self) -> float:
            return self._value

        def set_exemplar(self, exemplar: object) -> None:
            """Do without: the page of the parent has none."""

        def get_exemplar(self) -> None:
            return None

    return SharedValue


# --- Showing --------------------------------------------------------------------------------------


def metrics_of(memories: Iterable[tuple[int, Memory]]) -> list[Metric]:
    """Return the metrics of all workers as one; each worker comes with its number."""
    totals: dict[str, _Total] = {}
    for worker, memory in memories:
        try:
            for entry in memory.entries():
                key = entry.key
                total = totals.get(key.metric)
                if total is None:
                    total = totals[key.metric] = _Total(key)
                total.add(entry)
        except ValueError as error:
            log.error("the metrics of a worker are damaged", worker=worker, reason=str(error))
    return [total.metric() for total in totals.values()]


class _Total:
    """A metric of several workers."""

    def __init__(self, key: Key) -> None:
        self._key = key
        self._times: dict[tuple[_Labels, str], float] = {}
        self._values: dict[tuple[_Labels, str], float] = {}

    def add(self, entry: Entry) -> None:
        """Add the value of a worker."""
        which = entry.key.labels, entry.key.sample
        if entry.key.mode == _LARGEST:
            self._values[which] = max(self._values.get(which, entry.value), entry.value)
        elif entry.key.mode != _LATEST:
            self._values[which] = self._values.get(which, 0.0) + entry.value
        elif entry.time > self._times.get(which, 0.0):
            self._times[which] = entry.time
            self._values[which] = entry.value

    def metric(self) -> Metric:
        """Return what they add up to."""
        metric = Metric(self._key.metric, self._key.text, self._key.kind)
        if metric.type == "histogram":
            self._add_histograms(metric)
        else:
            for (labels, name), value in self._values.items():
                metric.add_sample(name, dict(labels), value)
        return metric

    def _add_histograms(self, metric: Metric) -> None:
        """Add the samples of histograms, one after the other, as OpenMetrics wants it.

        Each value is of one bucket; what is shown is of all up to it.
        """
        bucket = f"{metric.name}_bucket"
        found: dict[_Labels, list[tuple[float, float]]] = defaultdict(list)
        for (labels, name), value in self._values.items():
            if name == bucket:
                others = tuple(label for label in labels if label[0] != "le")
                found[others].append((float(dict(labels)["le"]), value))
        for labels, buckets in found.items():
            count = 0.0
            shown = dict(labels)
            for bound, value in sorted(buckets):
                count += value
                metric.add_sample(bucket, {**shown, "le": floatToGoString(bound)}, count)
            metric.add_sample(f"{metric.name}_count", shown, count)
            total = f"{metric.name}_sum"
            metric.add_sample(total, shown, self._values.get((labels, total), 0.0))
