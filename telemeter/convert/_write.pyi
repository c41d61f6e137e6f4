from collections.abc import Iterable

from telemeter.convert._upload import Rule
from telemeter.convert.results import Written

LIMITS: dict[str, int]

class Prepared:
    def __init__(
        self,
        rules: Iterable[Rule],
        added: list[tuple[str, str]],
        elided: Iterable[str],
        partition: str,
        most_name: int,
        most_value: int,
    ) -> None: ...

def sift(
    body: bytes, prepared: Prepared, cluster: bytes | None, version: int
) -> Written | int | None: ...
