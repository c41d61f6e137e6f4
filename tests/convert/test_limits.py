"""The limits are those that the compiled modules were built with."""

from __future__ import annotations

from types import ModuleType

import pytest

from telemeter.convert import engine
from telemeter.samples import limits

LIMITS = {name: value for name, value in vars(limits).items() if name.isupper()}


def test_there_are_some() -> None:
    assert len(LIMITS) > 5
    assert all(isinstance(value, int) for value in LIMITS.values())


@pytest.mark.parametrize("name", ["_upload", "_write", "_collect"])
def test_a_compiled_module_has_them(name: str) -> None:
    module: ModuleType | None = getattr(engine, name)
    if module is None:
        assert engine.KIND != "compiled"
    else:
        assert module.LIMITS == LIMITS, (
            f"{name} was built with other limits: pip install --editable '.[dev]'"
        )
