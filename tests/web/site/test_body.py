"""Bodies that are kept up to a limit."""

from __future__ import annotations

import pytest

from telemeter.web.site.body import BoundedBody
from telemeter.web.site.refused import Refused


class Body(BoundedBody):
    """A body that says how much too large it is."""

    def too_large(self, size: int) -> Refused:
        return Refused(413, str(size))


@pytest.mark.parametrize("length", [None, 0, 9, 10])
def test_a_length_that_may_be(length: int | None) -> None:
    Body(10).expect(length)


def test_a_length_over_the_limit() -> None:
    with pytest.raises(Refused, match=r"^11$"):
        Body(10).expect(11)


def test_a_body_in_pieces_is_taken_once() -> None:
    body = Body(10)
    for piece in (b"01234", b"", b"56789"):
        body.write(piece)
    assert body.take_body() == b"0123456789"
    assert body.take_body() == b""


def test_the_piece_over_the_limit_is_not_kept() -> None:
    body = Body(10)
    body.write(b"01234567")
    with pytest.raises(Refused, match=r"^11$"):
        body.write(b"890")
    assert body.take_body() == b"01234567"
