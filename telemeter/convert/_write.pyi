from collections.abc import Iterable

from telemeter.convert._upload import Rule

class Plan:
    def __init__(self, rules: Iterable[Rule], elided: Iterable[str], partition: str) -> None: ...

def sift(
    body: bytes, plan: Plan, cluster: bytes | None, version: int
) -> tuple[bytes, int, int, int, int, int, int, int, bool, tuple[bytes, ...], bool] | None: ...
