from collections.abc import Callable, Collection, Mapping

from telemeter.convert.results import Collected

LIMITS: dict[str, int]

class Plan:
    def __init__(
        self,
        added: Mapping[str, str],
        renames: Mapping[str, str],
        anonymized: Collection[str],
        anonymous: Callable[[str], str],
    ) -> None: ...

def transform(body: bytes, plan: Plan, oldest: int) -> Collected | None: ...
