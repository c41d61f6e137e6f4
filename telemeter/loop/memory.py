"""Python's search for unused objects, set up for a daemon."""

from __future__ import annotations

import gc
from typing import Final

#: After how many new objects Python looks for cycles among them; after how many of those searches
#: it includes older objects; after how many of these, all. A request leaves some fifty objects in
#: cycles, none of them large.
_COLLECTOR_THRESHOLDS: Final = (10_000, 20, 20)


def search_less() -> None:
    """Search for unused objects less often than Python does by default.

    That is every ten requests for new objects, and for all of a daemon's every few thousand, which
    keeps some requests waiting. While modules are imported, everything stays: the searches are a
    tenth of a daemon's start.
    """
    gc.set_threshold(*_COLLECTOR_THRESHOLDS)


def settle_memory() -> None:
    """Leave what is there from the start out of the search for unused objects from now on."""
    gc.collect()
    gc.freeze()
    search_less()
