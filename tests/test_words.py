"""Names say what they hold: `found` and `told` fit anything, and are no names here; a class name has one meaning."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

HOUSE = Path(__file__).parent.parent
PACKAGE = HOUSE / "unforgotten"
ROOMS = ("unforgotten", "tests", "docs", "benchmarks", "examples")
EMPTY = {"found", "told"}


def identifiers(tree: ast.AST) -> Iterator[str]:
    """Of variables, arguments, attributes, functions and classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.arg):
            yield node.arg
        elif isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name


def test_no_name_is_empty() -> None:
    assert set(identifiers(ast.parse("def told(x, found): return x.told"))) == {"told", "x", "found"}
    files = [path for room in ROOMS for path in sorted((HOUSE / room).rglob("*.py"))]
    assert len(files) > 500
    where = [
        f"{path.relative_to(HOUSE)}: {name}"
        for path in files
        for name in identifiers(ast.parse(path.read_text(encoding="utf-8")))
        if name in EMPTY
    ]
    assert where == []


def test_a_class_name_has_one_meaning() -> None:
    places: dict[str, list[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(str(path.relative_to(PACKAGE)))
    assert {name: files for name, files in places.items() if len(files) > 1} == {}
