"""Rooms import each other in one direction."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import reflectzoo

PACKAGE = Path(reflectzoo.__file__).parent


def room_of(module: str) -> str:
    """The package right below ``reflectzoo`` that a module stands in, each method by itself; or the file."""
    parts = module.split(".")
    return ".".join(parts[1:3]) if parts[1:2] == ["methods"] else ".".join(parts[1:2])


def imported(file: Path) -> set[str]:
    """Modules of the zoo that a file imports, anywhere in it, but for those that only a type checker reads."""
    found: set[str] = set()
    nodes: list[ast.AST] = [ast.parse(file.read_text(encoding="utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        nodes.extend(ast.iter_child_nodes(node))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("reflectzoo."):
            found.add(str(node.module))
        elif isinstance(node, ast.Import):
            found |= {each.name for each in node.names if each.name.startswith("reflectzoo.")}
    return found


def graph() -> dict[str, set[str]]:
    rooms: dict[str, set[str]] = {}
    for file in PACKAGE.rglob("*.py"):
        module = ".".join(("reflectzoo", *file.relative_to(PACKAGE).with_suffix("").parts)).removesuffix(".__init__")
        here = room_of(module)
        rooms.setdefault(here, set()).update(room_of(each) for each in imported(file))
    # The public face and the command line hand on to every room.
    return {here: there - {here, ""} for here, there in rooms.items() if here not in ("", "__main__")}


def test_no_circle() -> None:
    tuple(TopologicalSorter(graph()).static_order())  # raises CycleError with the circle in it


def test_no_method_imports_another() -> None:
    rooms = graph()
    for here in (each for each in rooms if each.startswith("methods.")):
        assert not [each for each in rooms[here] if each.startswith("methods.")], here
