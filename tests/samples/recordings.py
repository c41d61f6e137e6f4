"""The recordings in tests/data: what real programs put on the wire."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from telemeter.samples.compression import decompress_block, decompress_framed
from telemeter.samples.family import Family, decode_families

DATA: Final = Path(__file__).parents[1] / "data"
_LIMIT: Final = 1 << 20


def federated() -> bytes:
    """What Prometheus answered, as protobuf."""
    return (DATA / "prometheus-2.42-federate.delimited.pb").read_bytes()


def federated_text() -> bytes:
    """The first lines of what Prometheus answered as text."""
    text = (DATA / "prometheus-2.42-federate.txt").read_bytes()
    return text[: text.rindex(b"\n") + 1]  # the recording ends within a line


def uploaded() -> list[Family]:
    """What the original agent made of it."""
    return decode_families(decompress_framed(upload_body(), _LIMIT))


def upload_body() -> bytes:
    """The same as it was sent: framed snappy."""
    return (DATA / "original" / "agent-upload.body").read_bytes()


def forwarded() -> bytes:
    """The `WriteRequest` that the original server made of another upload of that agent."""
    return decompress_block((DATA / "original" / "server-forward.body").read_bytes(), _LIMIT)
