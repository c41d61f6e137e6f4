"""The configuration reaches all timeouts, and no other module has one of its own."""

from __future__ import annotations

import ast
import re
from dataclasses import fields
from pathlib import Path

import pytest

from telemeter.loop.timeouts import TIMEOUTS, Timeouts

PACKAGE = Path(__file__).parents[2] / "telemeter"
#: The program that asks a running daemon to reload is none itself, and has no configuration.
WITHOUT_CONFIGURATION = {"tap/reload_command.py"}
SOURCES = {
    str(path.relative_to(PACKAGE)): path.read_text()
    for path in sorted(PACKAGE.rglob("*.py"))
    if not path.name.endswith("_pb2.py") and path.name != "timeouts.py"
}


@pytest.mark.parametrize("name", [field.name for field in fields(Timeouts)])
def test_each_is_used_and_explained(name: str) -> None:
    assert getattr(TIMEOUTS, name) > 0
    assert any(re.search(rf"(timeouts|TIMEOUTS)\.{name}\b", text) for text in SOURCES.values())
    assert f"\n        {name}: " in (Timeouts.__doc__ or "")


@pytest.mark.parametrize("path", sorted(SOURCES.keys() - WITHOUT_CONFIGURATION))
def test_no_module_has_one_of_its_own(path: str) -> None:
    """What is given to `addTimeout` or as `timeout=` is never a number or a constant."""
    tree = ast.parse(SOURCES[path])
    for call in [node for node in ast.walk(tree) if isinstance(node, ast.Call)]:
        given = [word.value for word in call.keywords if word.arg in ("timeout", "seconds")]
        if isinstance(call.func, ast.Attribute) and call.func.attr == "addTimeout":
            given += call.args[:1]
        for value in given:
            assert not isinstance(value, ast.Constant), ast.unparse(call)
            is_constant = isinstance(value, ast.Name) and value.id.strip("_").isupper()
            assert not is_constant, ast.unparse(call)
