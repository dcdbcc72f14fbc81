"""Markdown that the generated pages share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from unforgotten.report.table import prose as words
from unforgotten.report.table import table_of
from unforgotten.report.writers import markdown
from unforgotten.runs.field_docs import Setting

GENERATED = "*Generated from the docstrings by `make docs`; change them there.*"


def cell(text: str) -> str:
    """A text on one line, in which a bar ends no cell."""
    return " ".join(prose(text).split()).replace("|", "\\|")


def code(text: str) -> str:
    """The same as code."""
    return f"`{' '.join(text.split())}`".replace("|", "\\|")


def prose(text: str) -> str:
    """A text in which `<run>`, outside code, is no HTML."""
    parts = text.split("`")
    return "`".join(part.replace("<", "&lt;") if i % 2 == 0 else part for i, part in enumerate(parts))


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lines of a table; none without a row."""
    cells = [list(row) for row in rows]
    return markdown.lines(table_of([words(title) for title in head], cells), escaped=str) if cells else []


def settings(rows: Iterable[Setting]) -> list[str]:
    """The table of a component's settings."""
    return table(
        ("setting", "type", "default", "meaning"),
        ((code(s.name), code(s.type), code(s.default) if s.default else "required", cell(s.sentence)) for s in rows),
    )
