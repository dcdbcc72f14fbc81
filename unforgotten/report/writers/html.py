"""A table as HTML: names are headings of their rows, an interval stands small below its figure. All text is escaped."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup, escape

from unforgotten.report.table import Cell, Column, Table
from unforgotten.runs import safe_text


def markup(table: Table, row_classes: Sequence[str] = ()) -> Markup:
    """The element `table`. row_classes: the class of each row, for the style sheet; without them rows have none."""
    caption = Markup("<caption>{}</caption>").format(_text(table.caption)) if table.caption else ""
    head = Markup("").join(_head(column) for column in table.columns)
    body = Markup("").join(
        Markup("<tr{}>{}</tr>").format(
            Markup(' class="{}"').format(_text(row_classes[i])) if row_classes else "",
            Markup("").join(_cell(column, cell) for column, cell in zip(table.columns, row, strict=True)),
        )
        for i, row in enumerate(table.rows)
    )
    return Markup("<table>{}<thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(caption, head, body)


def _head(column: Column) -> Markup:
    meaning = Markup(' title="{}"').format(_text(column.meaning)) if column.meaning else ""
    return Markup('<th scope="col"{}>{}</th>').format(meaning, _text(column.title))


def _cell(column: Column, cell: Cell) -> Markup:
    value = Markup("<b>{}</b>").format(_text(cell.value)) if cell.bold else _text(cell.value)
    marks = Markup("<sup>{}</sup>").format(_text(cell.marks)) if cell.marks else ""
    lines = Markup("<br>").join(map(_text, cell.interval.split("\n")))
    below = Markup("<small>{}</small>").format(lines) if cell.interval else ""
    tags = ('<th scope="row">', "</th>") if column.kind == "name" else ("<td>", "</td>")
    return Markup(tags[0]) + value + marks + below + Markup(tags[1])


def _text(text: str) -> Markup:
    """Escaped, and what is invisible made visible."""
    return escape(safe_text.block(text))
