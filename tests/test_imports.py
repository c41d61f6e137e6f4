"""Which room of telemeter/ may import which: the one table of it, and what holds it.

The table is also the drawing in docs/architecture.md.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import telemeter.convert

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "telemeter"

#: For each room, from top to bottom, the rooms that it may import. All of them stand below it.
MAY_IMPORT: dict[str, str] = {
    "tap": "server agent devtools config web auth convert samples net observe loop",
    "server": "config web store upstream fleet limits auth convert samples net observe loop",
    "agent": "config web auth convert samples net observe loop",
    "devtools": "config web store auth samples observe loop",
    "config": "web store upstream fleet limits auth convert samples net observe loop",
    "web": "store upstream fleet limits auth convert samples net observe loop",
    "store": "convert samples net observe loop",
    "upstream": "auth samples net observe loop",
    "fleet": "convert samples observe loop",
    "limits": "auth net observe loop",
    "auth": "samples net observe loop",
    "convert": "samples",
    "samples": "",
    "net": "observe loop",
    "observe": "loop",
    "loop": "",
}


#: What the rooms that take bytes and give bytes may import besides: no reactor, no I/O, no clock.
PURE_ROOMS = ("convert", "samples")
PURE_IMPORTS = (
    "__future__ array base64 bisect collections dataclasses enum functools hashlib itertools math "
    "re struct typing cramjam google promql_parser re2 snappy cpython cython libc telemeter"
)
#: The engine reads one environment variable, TELEMETER_TRANSCODER; the compiled tables take the key
#: of their hash from `os.urandom`, so that no sender can choose what collides.
PURE_EXCEPTIONS = frozenset(("telemeter.convert.engine -> os", "telemeter.convert._table -> os"))
#: Builtin functions that do what those rooms may not.
IMPURE_BUILTINS = frozenset(("open", "input", "print"))

_CYTHON_IMPORT = re.compile(
    r"^\s*(?:from\s+([\w.]+)\s+c?import|c?import\s+([^#\n]+))", re.MULTILINE
)


def name_of(path: Path) -> str:
    """Return the dotted name of a module."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, Path]:
    """Return all modules of the package by name."""
    return {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def room_of(module: str) -> str:
    """Return the room of a module; empty for `telemeter` itself."""
    return module.split(".")[1] if "." in module else ""


def imports_of(path: Path) -> Iterator[str]:
    """Yield what a module imports, in functions and for type checkers too, by its longest name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (each.name for each in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"{path}: a relative import"
            for each in node.names:
                full = f"{node.module}.{each.name}"
                yield full if is_module(full) else node.module


def is_module(name: str) -> bool:
    """Tell whether this is a module of the package, a compiled one included."""
    path = ROOT.joinpath(*name.split("."))
    return name in modules() or path.with_suffix(".pyi").exists()


def cython_sources(folder: Path) -> list[Path]:
    """Return the sources of compiled modules, and what they include."""
    return [path for kind in ("*.pyx", "*.pxd", "*.pxi") for path in folder.rglob(kind)]


def cython_imports_of(path: Path) -> Iterator[str]:
    """Yield what a Cython source imports."""
    for module, several in _CYTHON_IMPORT.findall(path.read_text()):
        yield from [module] if module else [each.split()[0] for each in several.split(",")]


@cache
def arrows() -> frozenset[tuple[str, str]]:
    """Return who imports whom: pairs of modules of the package."""
    found = set()
    for module, path in modules().items():
        for name in imports_of(path):
            if name.split(".")[0] == "telemeter":
                found.add((module, name))
    for path in cython_sources(PACKAGE):
        found |= {(name_of(path), name) for name in cython_imports_of(path) if "telemeter" in name}
    return frozenset(found)


def allowed(room: str) -> list[str]:
    """Return the rooms that a room may import."""
    return MAY_IMPORT[room].split()


def drawing() -> str:
    """Return the table as docs/architecture.md shows it."""
    width = max(map(len, MAY_IMPORT)) + 2
    lines = [f"{room:{width}}→ {to}" if to else room for room, to in MAY_IMPORT.items()]
    return "\n".join(lines) + "\n"


def test_every_package_is_a_room_of_the_table() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(MAY_IMPORT)


def test_the_table_points_down_only() -> None:
    rooms = list(MAY_IMPORT)
    for room in rooms:
        below = rooms[rooms.index(room) + 1 :]
        # In the order of the table, so that each line reads from top to bottom.
        assert allowed(room) == [each for each in below if each in allowed(room)], room


def test_rooms_import_only_what_the_table_allows() -> None:
    seen = {
        f"{module} -> {name}"
        for module, name in arrows()
        if room_of(module) != room_of(name)
        and room_of(name)
        and room_of(name) not in allowed(room_of(module))
    }
    assert seen == set()


def test_only_the_package_itself_is_imported_from_no_room() -> None:
    assert {name for _, name in arrows() if not room_of(name)} <= {"telemeter"}


def test_no_module_imports_another_that_imports_it_back() -> None:
    graph: dict[str, set[str]] = {module: set() for module in modules()}
    for module, name in arrows():
        if name != "telemeter":
            graph.setdefault(module, set()).add(name)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_pure_rooms_import_nothing_that_acts() -> None:
    seen = set()
    for room in PURE_ROOMS:
        for path in (PACKAGE / room).rglob("*.py"):
            seen |= {(name_of(path), name) for name in imports_of(path)}
        for path in cython_sources(PACKAGE / room):
            seen |= {(name_of(path), name) for name in cython_imports_of(path)}
    exceptions = {
        f"{module} -> {name}"
        for module, name in seen
        if name.split(".")[0] not in PURE_IMPORTS.split()
    }
    assert exceptions == PURE_EXCEPTIONS


def test_the_exceptions_of_pure_rooms_are_told_where_a_reader_looks() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    told = re.findall(r"`convert/(\w+)\.\w+` imports `(\w+)`", " ".join(page.split()))
    assert {f"telemeter.convert.{module} -> {name}" for module, name in told} == PURE_EXCEPTIONS
    for module, _ in told:
        assert f"`{module}`" in (telemeter.convert.__doc__ or "")


@pytest.mark.parametrize("room", PURE_ROOMS)
def test_pure_rooms_read_and_write_nothing(room: str) -> None:
    for path in (PACKAGE / room).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in IMPURE_BUILTINS, f"{path}:{node.lineno}"


def test_the_drawing_is_this_table() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    assert f"```\n{drawing()}```\n" in page, f"expected in docs/architecture.md:\n{drawing()}"
