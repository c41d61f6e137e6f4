"""The results of the conversions, which the reference and its compiled twin share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Converted:
    """The result of converting an upload.

    Attributes:
        payload: the encoded `WriteRequest`; empty when nothing is left to forward.
        series: how many series it holds, one sample each.
        received: how many metrics the upload held.
        dropped: how many of them no whitelist rule allowed.
        duplicates: how many series were left out because an identical one came before.
        past, present, future: the received timestamps, by where they lay.
        overwritten_future: how many lay after now by any amount.
        newest_ms: the last of them, in milliseconds since the epoch; 0: there were none.
        dropped_examples: of what was dropped, see `Examples`.
    """

    payload: bytes = b""
    series: int = 0
    received: int = 0
    dropped: int = 0
    duplicates: int = 0
    past: int = 0
    present: int = 0
    future: int = 0
    overwritten_future: int = 0
    newest_ms: int = 0
    dropped_examples: tuple[bytes, ...] = ()


@dataclass(slots=True)
class Written:
    """The result of converting a remote-write request.

    Attributes:
        payload: the encoded request; empty when nothing is left to forward.
        received: how many series the request held.
        series: how many of them are left.
        dropped: how many no whitelist rule allowed.
        duplicates: how many were left out because another had become identical; each series of a
            classic histogram counts.
        samples, histograms, exemplars: how many of each are left; a histogram that becomes a
            classic one is one, if none of its series was left out.
        only_metadata: whether the request held metadata and no series.
        dropped_examples: of what was dropped, see `Examples`.
        is_empty: whether the request held nothing at all.
    """

    payload: bytes = b""
    received: int = 0
    series: int = 0
    dropped: int = 0
    duplicates: int = 0
    samples: int = 0
    histograms: int = 0
    exemplars: int = 0
    only_metadata: bool = False
    dropped_examples: tuple[bytes, ...] = ()
    is_empty: bool = False


@dataclass(frozen=True, slots=True)
class Collected:
    """The result of transforming a collection with the compiled code.

    Attributes:
        payload: the families that are left, each behind its length.
        families: how many they are.
        samples: how many samples they have.
        received: how many samples there were.
    """

    payload: bytes
    families: int
    samples: int
    received: int
