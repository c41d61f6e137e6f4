"""What the parent and a worker say to each other."""

from __future__ import annotations

from telemeter.server.workers.control import Setup, decode_files, encode_files, short

SETUP = Setup(
    workers=3,
    arguments=["--listen", "127.0.0.1:1", "--label", "a=\udcff"],
    files={"key": bytes(range(256)), "grün": b""},
    key=b"\x00\xff",
    table_key=b"",
)


def test_a_setup_arrives_as_it_was() -> None:
    assert Setup.decode(SETUP.encode()) == SETUP


def test_a_setup_shows_no_secrets() -> None:
    shown = repr(SETUP)
    assert "workers=3" in shown
    for name in ("files", "key=", "table_key"):
        assert name not in shown


def test_files_arrive_as_they_were() -> None:
    assert decode_files(encode_files(SETUP.files)) == SETUP.files


def test_a_text_is_cut_to_what_a_value_holds() -> None:
    assert short(ValueError("why")) == "why"
    assert len(short("ä" * 100_000).encode()) < 65_536
