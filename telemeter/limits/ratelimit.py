"""The rate limit: one upload per cluster and interval, however many processes take uploads.

Who has uploaded when is in a table of a fixed size, which processes may share. A cluster is found
by a keyed hash of its identifier, which says in which bucket its entry is. When a bucket is full, a
new entry takes the place of the oldest; with as many clusters as half of the entries that happens
in one bucket of 250.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import mmap
import os
import secrets
import struct
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from telemeter.loop.clocks import Elapsed

#: How many clusters a table has room for; each had a valid token within the last interval.
MAX_CLUSTERS: Final = 2_000_000

_ENTRIES = 16
# A bucket: the hashes of its entries (0: free), then when they were taken, in elapsed seconds.
_HASHES = struct.Struct(f"={_ENTRIES}Q")
_TIMES = struct.Struct(f"={_ENTRIES}d")
_HASH = struct.Struct("=Q")
_TIME = struct.Struct("=d")
_BUCKET_SIZE = _HASHES.size + _TIMES.size
_KEY_SIZE = 16


class RateLimitedError(Exception):
    """The cluster has uploaded within the interval.

    Attributes:
        retry_after: when it may again, in whole seconds from now.
    """

    def __init__(self, retry_after: int) -> None:
        super().__init__(f"retry after {retry_after} seconds")
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class _Entry:
    """An entry: the hash of a cluster, and when it took its slot; hash 0: it is free."""

    hash: int
    taken: float


_FREE = _Entry(0, 0.0)


@dataclass(frozen=True, slots=True)
class _Place:
    """An entry in the table, and what had been there before."""

    bucket: int
    index: int
    entry: _Entry
    before: _Entry


class Table:
    """A table of when each cluster uploaded last; with a file descriptor, for several processes.

    Attributes:
        descriptor: what another process opens the same table with; None: the table is not shared.
        key: what it needs besides. It keeps senders from choosing whose bucket they are in.
    """

    def __init__(
        self,
        clusters: int = MAX_CLUSTERS,
        *,
        descriptor: int | None = None,
        key: bytes | None = None,
    ) -> None:
        """Make a table, or open one that another process has made.

        Args:
            clusters: how many it has room for.
            descriptor: of the file that it is in; it stays the caller's.
            key: of a table that there is already.
        """
        self._buckets = max(1, math.ceil(clusters / _ENTRIES))
        self.descriptor = descriptor
        self.key = secrets.token_bytes(_KEY_SIZE) if key is None else key
        size = self._buckets * _BUCKET_SIZE
        if descriptor is None:
            self._memory = mmap.mmap(-1, size)
        else:
            if os.fstat(descriptor).st_size < size:
                os.ftruncate(descriptor, size)
            self._memory = mmap.mmap(descriptor, size)

    def take(self, cluster: str, now: Elapsed, interval: float) -> _Place:
        """Note that a cluster takes its slot now.

        Raises:
            RateLimitedError: it has taken one within the interval.
        """
        name = cluster.encode("utf-8", "surrogatepass")
        digest = hashlib.blake2b(name, digest_size=_HASH.size, key=self.key).digest()
        hashed = _HASH.unpack(digest)[0] or 1
        bucket = hashed % self._buckets * _BUCKET_SIZE
        with self._locked(bucket):
            hashes = _HASHES.unpack_from(self._memory, bucket)
            times = _TIMES.unpack_from(self._memory, bucket + _HASHES.size)
            if hashed in hashes:
                index = hashes.index(hashed)
                # Another process may have read the clock a little later, and yet be quicker here.
                wait = min(interval, times[index] + interval - now)
                if wait > 0:
                    raise RateLimitedError(math.ceil(wait))
            elif 0 in hashes:
                index = hashes.index(0)
            else:
                index = times.index(min(times))
            place = _Place(bucket, index, _Entry(hashed, now), _Entry(hashes[index], times[index]))
            self._write(bucket, index, place.entry)
        return place

    def give_back(self, place: _Place) -> None:
        """Put back what was there before, unless the cluster has taken another slot since."""
        with self._locked(place.bucket):
            hashes = _HASHES.unpack_from(self._memory, place.bucket)
            times = _TIMES.unpack_from(self._memory, place.bucket + _HASHES.size)
            if _Entry(hashes[place.index], times[place.index]) != place.entry:
                return
            moved = place.before.hash != place.entry.hash and place.before.hash in hashes
            self._write(place.bucket, place.index, _FREE if moved else place.before)

    def _write(self, bucket: int, index: int, entry: _Entry) -> None:
        at = bucket + index * _HASH.size
        _TIME.pack_into(self._memory, at + _HASHES.size, entry.taken)
        _HASH.pack_into(self._memory, at, entry.hash)

    @contextmanager
    def _locked(self, bucket: int) -> Iterator[None]:
        """Keep other processes off a bucket; they hold theirs for microseconds only."""
        if self.descriptor is None:
            yield
            return
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX, _BUCKET_SIZE, bucket)
        try:
            yield
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN, _BUCKET_SIZE, bucket)


def shared_memory(name: str) -> int:
    """Return the descriptor of an empty file that is in no folder, for processes to inherit.

    Args:
        name: for whoever looks at what files a process has open.
    """
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:  # as on macOS and the BSDs
        return os.dup(file.fileno())


class Slot:
    """A cluster's slot in an interval."""

    __slots__ = ("_place", "_table")

    def __init__(self, table: Table | None = None, place: _Place | None = None) -> None:
        self._table = table
        self._place = place

    def give_back(self) -> None:
        """Let the cluster try again at once, because its upload led to nothing."""
        if self._table is not None and self._place is not None:
            self._table.give_back(self._place)
            self._place = None


class RateLimiter:
    """The rate limit, which gives each cluster one slot an interval."""

    def __init__(self, interval: float, table: Table | None = None) -> None:
        """Make a limiter.

        Args:
            interval: seconds between two uploads of a cluster; 0 switches the limit off.
            table: where the slots are; None: in a table of its own.
        """
        self._interval = interval
        self._table: Table | None = None
        if interval > 0:
            self._table = Table() if table is None else table

    @property
    def mark(self) -> int:
        """A number that all limiters with the same table have, and hardly any others."""
        return 0 if self._table is None else zlib.crc32(self._table.key)

    def take(self, cluster: str, now: Elapsed) -> Slot:
        """Take the cluster's slot.

        Args:
            cluster: whose.
            now: the time.

        Raises:
            RateLimitedError: it is taken.
        """
        if self._table is None:
            return Slot()
        return Slot(self._table, self._table.take(cluster, now, self._interval))
