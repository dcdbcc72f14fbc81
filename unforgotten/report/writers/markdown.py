"""A table as Markdown (GitHub's and the Hub's)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from unforgotten.report.table import Cell, Column, Table, table_of
from unforgotten.runs import safe_text


def lines(table: Table, escaped: Callable[[object], str] = safe_text.markdown) -> list[str]:
    """Caption, head and rows. escaped: makes a text harmless; texts of our own may hold mark-up and need none."""
    text = [f"**{escaped(table.caption)}**", ""] if table.caption else []
    text.append(_row([escaped(column.title) for column in table.columns]))
    text.append(_row(["---:" if column.align == "right" else "---" for column in table.columns]))
    return [*text, *(_row([cell_text(cell, escaped) for cell in row]) for row in table.rows)]


def footnotes(table: Table) -> list[str]:
    """Each on a line of its own."""
    return [f"{safe_text.markdown(note)}  " for note in table.footnotes]


def tables(text: str) -> Iterator[tuple[int, int, Table]]:
    """Each table of a Markdown text as it was before `lines` wrote it, with its first line and the line after it.

    Bold, intervals and marks are words of the value; the first column is that of names.
    """
    from markdown_it import MarkdownIt

    tokens = MarkdownIt().enable("table").parse(text)
    opened = [i for i, token in enumerate(tokens) if token.type == "table_open"]
    closed = [i for i, token in enumerate(tokens) if token.type == "table_close"]
    for start, end in zip(opened, closed, strict=True):
        inside = tokens[start:end]
        right = ["right" in str(token.attrs.get("style", "")) for token in inside if token.type == "th_open"]
        texts = ["".join(c.content for c in token.children or []) for token in inside if token.type == "inline"]
        titles, *rows = [texts[i : i + len(right)] for i in range(0, len(texts), len(right))]
        columns = [Column(title, align="right" if r else "left") for title, r in zip(titles, right, strict=True)]
        first, after = tokens[start].map or (0, 0)
        yield first, after, table_of([replace(columns[0], kind="name"), *columns[1:]], rows)


def cell_text(cell: Cell, escaped: Callable[[object], str] = safe_text.markdown) -> str:
    """`**7.0**† (3.4–13.7)`."""
    value = f"**{escaped(cell.value)}**" if cell.bold else escaped(cell.value)
    interval = escaped(f" ({cell.interval})") if cell.interval else ""
    return f"{value}{cell.marks}{interval}"


def _row(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
