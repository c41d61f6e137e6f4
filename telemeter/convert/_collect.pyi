from collections.abc import Callable, Collection, Mapping

MOST_NAMES: int

class Plan:
    def __init__(
        self,
        added: Mapping[str, str],
        renames: Mapping[str, str],
        anonymized: Collection[str],
        anonymous: Callable[[str], str],
    ) -> None: ...

def transform(body: bytes, plan: Plan, oldest: int) -> tuple[bytes, int, int, int] | None: ...
