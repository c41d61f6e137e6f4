"""Content codings of answers (RFC 9110, section 8.4.1): decoded piece by piece, and checked."""

from __future__ import annotations

import re
import zlib
from collections.abc import Iterable, Iterator
from typing import Final

from telemeter.net.errors import ExplainedError

#: The value of Accept-Encoding that says what `decoder_for` decodes.
ACCEPTED: Final = "gzip"

_GZIP: Final = ("gzip", "x-gzip")
_GZIP_WINDOW: Final = 31  # zlib's way to ask for a gzip header and its checks
#: zlib copies what is left of its input with every member: in pieces of this size that stays cheap.
_PIECE: Final = 8 * 1024
#: How much is decoded at once.
_ROOM: Final = 256 * 1024
_SHOWN: Final = 60


class CodingError(ExplainedError):
    """A body is not what its Content-Encoding says, or is in a coding that is not known here."""


class Gunzip:
    """A decoder of gzip (RFC 1952): one or more members, each with its checksum and its length."""

    def __init__(self) -> None:
        self._member = zlib.decompressobj(_GZIP_WINDOW)
        self._members = 0

    def feed(self, data: bytes, most: int) -> Iterator[bytes]:
        """Decode the next bytes of a body, a little at a time.

        Args:
            data: encoded bytes, cut anywhere.
            most: how many decoded bytes are wanted at most, above 0. When there are as many, the
                rest is thrown away: the caller is to end there.

        Raises:
            CodingError: this is no gzip, or it is damaged.
        """
        for start in range(0, len(data), _PIECE):
            piece = data[start : start + _PIECE]
            is_full = False
            while (piece or is_full) and most > 0:
                if self._member.eof:
                    self._members += 1
                    self._member = zlib.decompressobj(_GZIP_WINDOW)
                room = min(most, _ROOM)
                part = self._decompress(piece, room)
                piece = self._member.unused_data or self._member.unconsumed_tail
                # All may have been read without all having been written.
                is_full = len(part) == room and not self._member.eof
                most -= len(part)
                if part:
                    yield part

    def end(self) -> None:
        """Check that the body may end here; raises `CodingError`."""
        if not self._member.eof:
            raise CodingError(
                f"the gzip body is cut off{self._where}: its checksum and length are missing"
            )

    def _decompress(self, piece: bytes, most: int) -> bytes:
        try:
            return self._member.decompress(piece, most)
        except zlib.error as error:
            problem = re.sub(r"^Error -?\d+ while decompressing data: ", "", str(error))
            raise CodingError(f"the gzip body is damaged{self._where}: {problem}") from None

    @property
    def _where(self) -> str:
        return " after its first member" if self._members else ""


def decoder_for(fields: Iterable[bytes]) -> Gunzip | None:
    """Choose what decodes a body.

    Args:
        fields: the values of all Content-Encoding headers.

    Returns:
        A decoder; None: the body is plain.

    Raises:
        CodingError: the coding is not known here, or there are several.
    """
    names = [
        name
        for each in b",".join(fields).decode("latin-1").split(",")
        if (name := each.strip(" \t").lower()) not in ("", "identity")
    ]
    if not names:
        return None
    if len(names) == 1 and names[0] in _GZIP:
        return Gunzip()
    shown = ascii(", ".join(names)[:_SHOWN])
    raise CodingError(f"expected Content-Encoding {ACCEPTED} or none; saw {shown}")
