"""Rooms import each other in one direction."""

from __future__ import annotations

import ast
from collections import defaultdict
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


# What modules of one kind are asked for by name: commands, methods, benchmarks, parity runners, file formats.
EACH_ITS_OWN = {
    *("DESCRIPTION", "EPILOG", "FORMAT", "METHOD", "RUNNERS", "TITLE", "add_arguments", "begin", "build_network"),
    *("check_layout", "comparisons", "main", "recognise", "remap", "run", "set_phase", "start_as_copy"),
}
FILE_FORMATS = "photo/"
"""Modules for one file format each, spoken of as ``netpbm.read``, ``bmp.read``."""


def named(file: Path) -> set[str]:
    """The public names that a file defines itself."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        found |= {each.id for each in targets if isinstance(each, ast.Name)}
    return {name for name in found if not name.startswith("_")} - EACH_ITS_OWN


def test_no_two_things_share_a_name() -> None:
    places: defaultdict[str, list[str]] = defaultdict(list)
    for file in sorted(PACKAGE.rglob("*.py")):
        for name in named(file):
            places[name].append(file.relative_to(PACKAGE).as_posix())
    shared = {
        name: files
        for name, files in places.items()
        if len(files) > 1 and not all(each.startswith((FILE_FORMATS, "methods/")) for each in files)
    }
    assert not shared
