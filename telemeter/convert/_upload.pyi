from collections.abc import Callable, Iterable, Mapping
from typing import TypeAlias

from telemeter.convert.results import Converted

Condition: TypeAlias = tuple[str, str, bool, Callable[[str], bool] | None]
Rule: TypeAlias = tuple[str | None, list[Condition]]

LIMITS: dict[str, int]

class Prepared:
    def __init__(
        self,
        rules: Iterable[Rule],
        added: list[tuple[str, str]],
        elided: Iterable[str],
        keep_times: bool = False,
    ) -> None: ...

def convert(
    body: bytes,
    prepared: Prepared,
    required: Mapping[str, str],
    now: int,
    max_age: int,
    drift: int,
    limit: int,
) -> Converted | None: ...
