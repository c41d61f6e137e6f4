"""Python's search for unused objects, set up for a daemon."""

from __future__ import annotations

import gc
from typing import Final

#: After how many new objects Python looks for cycles among them; after how many of those searches
#: it includes older objects; after how many of these, all. A request leaves some fifty objects in
#: cycles, none of them large.
_COLLECTOR_THRESHOLDS: Final = (10_000, 20, 20)


def settle_memory() -> None:
    """Leave what is there from the start out of the search for unused objects, and search less.

    By default Python goes through all of a daemon's objects every few thousand requests, which
    keeps some of them waiting, and through the new ones every ten.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)
