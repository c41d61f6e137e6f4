from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

Condition: TypeAlias = tuple[str, str, bool, Callable[[str], bool] | None]
Rule: TypeAlias = tuple[str | None, list[Condition]]

class Plan:
    def __init__(
        self, rules: Iterable[Rule], added: list[tuple[str, str]], elided: Iterable[str]
    ) -> None: ...

def convert(
    body: bytes,
    plan: Plan,
    required: Mapping[str, str],
    now: int,
    max_age: int,
    drift: int,
    limit: int,
) -> tuple[bytes, int, int, int, int, int, int, int, int, int, tuple[bytes, ...]] | None: ...
