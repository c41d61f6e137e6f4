"""Names of Twisted with an underscore: one module touches them, no other."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]
#: The one module that may.
HOME = "telemeter.loop.twisted_private"
#: Names with an underscore that their libraries document, for lack of better ones.
DOCUMENTED = {"os._exit", "sys._current_frames"}
#: What AMP's `responder` gives a class of commands.
OF_COMMANDS = {"_commandDispatch"}
#: What `namedtuple` documents.
OF_NAMED_TUPLES = {"_replace", "_asdict", "_fields", "_make"}

MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "telemeter").rglob("*.py"))
    if not path.name.endswith("_pb2.py")
]
OTHERS = [each for each in MODULES if each != HOME]


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def private_imports(tree: ast.AST) -> Iterator[str]:
    """Yield what is imported of another package that has an underscore in its name."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            if not name.startswith("telemeter.") and any(map(is_private, name.split("."))):
                yield name


def own_names(tree: ast.AST) -> set[str]:
    """Return all names that a module itself defines, attributes included."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Attribute(ctx=ast.Store()):
                names.add(node.attr)
            case ast.Name(ctx=ast.Store()) | ast.Name(ctx=ast.Del()):
                names.add(node.id)
            case ast.Constant(value=str(text)):  # in __slots__
                names.add(text)
    return names


def foreign_attributes(tree: ast.AST) -> Iterator[str]:
    """Yield the attributes with an underscore that nothing in the module defines."""
    own = own_names(tree) | OF_NAMED_TUPLES
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
            text = ast.unparse(node)
            if text not in DOCUMENTED:
                yield text


def tree_of(module: str) -> ast.AST:
    path = ROOT / module.replace(".", "/")
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(path.read_text())


@pytest.mark.parametrize("module", OTHERS)
def test_no_other_module_imports_or_reads_a_private_name(module: str) -> None:
    tree = tree_of(module)
    assert [*private_imports(tree), *foreign_attributes(tree)] == []


def names_within(cls: type) -> set[str]:
    """Return the private names that a class of Twisted has or gives its objects."""
    names = {name for name in vars(cls) if is_private(name)}
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):
        return names
    return names | {each for each in re.findall(r"\bself\.(_\w+)", source) if is_private(each)}


def collisions(module: ModuleType) -> Iterator[str]:
    """Yield the private names of ours that are Twisted's as well, in a class that both make."""
    for cls in vars(module).values():
        if not inspect.isclass(cls) or cls.__module__ != module.__name__:
            continue
        theirs: set[str] = set()
        for base in cls.__mro__:
            if base.__module__.startswith(("twisted.", "klein.", "treq.")):
                theirs |= names_within(base)
        for name in sorted((names_within(cls) & theirs) - OF_COMMANDS):
            yield f"{cls.__name__}.{name}"


@pytest.mark.parametrize("module", [each for each in OTHERS if not each.endswith("__main__")])
def test_no_other_module_has_a_private_name_of_twisted_by_chance(module: str) -> None:
    assert list(collisions(importlib.import_module(module))) == []


def test_what_this_looks_for_is_found_where_it_may_be() -> None:
    """A test that finds nothing anywhere would hold nothing."""
    tree = tree_of(HOME)
    assert "twisted.web.http._DataLoss" in set(private_imports(tree))
    assert "self._partialHeader" in set(foreign_attributes(tree))
    assert "ClientConnection._giveUp" in set(collisions(importlib.import_module(HOME)))
