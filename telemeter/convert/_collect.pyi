from collections.abc import Callable, Collection, Mapping

from telemeter.convert.results import Collected

LIMITS: dict[str, int]

class Prepared:
    def __init__(
        self,
        added: Mapping[str, str],
        renames: Mapping[str, str],
        anonymized: Collection[str],
        anonymous: Callable[[str], str],
    ) -> None: ...

def transform(body: bytes, prepared: Prepared, oldest: int) -> Collected | None: ...
