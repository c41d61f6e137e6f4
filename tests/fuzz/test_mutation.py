"""Inputs made by chance: always the same ones, within bounds, and of all kinds."""

from __future__ import annotations

from fuzz.mutation import Mutator


def made(count: int, *inputs: bytes, longest: int = 100, seed: int = 1) -> list[bytes]:
    mutator = Mutator(inputs, [b"word"], longest, seed)
    return [mutator.make() for _ in range(count)]


def test_a_seed_decides_on_everything() -> None:
    assert made(50, b"abc") == made(50, b"abc")
    assert made(50, b"abc") != made(50, b"abc", seed=2)


def test_no_input_is_too_long() -> None:
    assert max(map(len, made(5000, b"a" * 90))) == 100


def test_out_of_nothing() -> None:
    inputs = made(2000)
    assert b"" in inputs
    assert any(b"word" in data for data in inputs)


def test_all_kinds_of_changes() -> None:
    inputs = made(3000, b"abcdefgh", b"12345678")
    assert any(len(data) == 8 and data not in (b"abcdefgh", b"12345678") for data in inputs)
    assert any(0 < len(data) < 8 for data in inputs)
    assert any(b"word" in data for data in inputs)
    assert any(b"abc" in data and b"678" in data for data in inputs)
    assert any(len(data) > 60 for data in inputs)
