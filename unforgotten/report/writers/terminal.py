"""A table as lines of text. What is wider than the terminal is folded into parts; no figure and no name is cropped.

Each part repeats the columns of names. A title is broken after an underscore where that spares the folding. Where names
take over half of the width, each stands on a line of its own above its figures.

In a pipe or a file (`console.room`) nothing is folded, and a figure's interval stands beside it: a row is one line
there, which `grep` and a log's own search find whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from unforgotten.report.table import Cell, Table
from unforgotten.runs import safe_text as display

if TYPE_CHECKING:
    from rich.text import Text

INDENT = 2
"""Columns before figures that stand below their name."""
PROSE = 24
"""The least width, in columns of the terminal, that words are wrapped to."""
_PIECES = re.compile("[^_]*_+|[^_]+")
UNBOUNDED = 1_000_000
Styled = tuple[str, str]
"""A text on one line, and its style."""


def show(table: Table, console: Any = None) -> None:
    """Prints the table, its caption above and its footnotes below."""
    console = console or display.console()
    for text in lines(table, display.room(console), rule_of(console)):
        console.print(text, soft_wrap=True)
    for note in table.footnotes:
        show_note(note, console)


def rule_of(console: Any) -> str:
    """What the line below the head is drawn with; a terminal without Unicode gets a hyphen."""
    return "-" if console.options.ascii_only else "─"


def show_note(note: str, console: Any, style: str = "dim") -> None:
    """Prints a sentence about a table, wrapped to the terminal."""
    for text in wrapped(display.line(note), display.room(console)):
        console.print(text, style=style, soft_wrap=True, markup=False, highlight=False, emoji=False)


def lines(table: Table, width: int | None = None, rule: str = "─") -> list[Text]:
    """Caption, head and rows. width: of the terminal, in columns; None where a line may have any length."""
    from rich.text import Text

    shown = [Text(part, "bold") for part in wrapped(display.line(table.caption), width)] if table.caption else []
    for i, part in enumerate(_parts(table, width)):
        shown += [Text()] if i else []
        shown += part.lines(rule)
    return shown


# ── which columns stand together ──


def _parts(table: Table, width: int | None) -> list[_Part]:
    if width is None:
        table = replace(table, rows=[[_on_one_line(cell) for cell in row] for row in table.rows])
        width = UNBOUNDED
    columns = range(len(table.columns))
    names = [i for i in columns if table.columns[i].kind == "name"]
    others = [i for i in columns if i not in names]
    for gap, broken in ((2, False), (1, False), (2, True), (1, True)):
        natural = [_natural(table, i, broken) for i in columns]
        least = _least(table, natural)
        if _together(least, gap) <= width:
            return [_Part(table, names, others, _grown(table, least, natural, columns, gap, width), gap, width)]
    natural = [_natural(table, i) for i in columns]
    least = _least(table, natural)
    lead = _together([natural[i] for i in names], 2)
    room, above = width - lead - 2 * bool(names), False
    if names and (lead > width // 2 or max((least[i] for i in others), default=0) > room):
        room, above = width - INDENT, True
    return [
        _Part(table, names, part, _grown(table, least, natural, part, 2, room), 2, width, above)
        for part in _packed(others, least, room)
    ]


def _packed(columns: Sequence[int], widths: Sequence[int], room: int) -> list[list[int]]:
    """Columns in as few parts as the room allows, and these about equally wide."""
    few = _filled(columns, widths, room)
    narrow = max((widths[i] for i in columns), default=0)
    limits = range(narrow, room) if len(few) > 1 else range(0)
    return next((parts for limit in limits if len(parts := _filled(columns, widths, limit)) == len(few)), few)


def _filled(columns: Sequence[int], widths: Sequence[int], room: int) -> list[list[int]]:
    parts: list[list[int]] = [[]]
    for i in columns:
        if parts[-1] and _together([widths[k] for k in (*parts[-1], i)], 2) > room:
            parts.append([])
        parts[-1].append(i)
    return parts


def _together(widths: Sequence[int], gap: int) -> int:
    return sum(widths) + gap * max(0, len(widths) - 1)


def _natural(table: Table, i: int, broken: bool = False) -> int:
    """What a column takes where it is not wrapped. A title is broken at spaces; broken: after underscores too."""
    texts = [line for row in table.rows for line in (_value(row[i]), row[i].brief)]
    title = display.line(table.columns[i].title).split()
    title = [piece for word in title for piece in (_PIECES.findall(word) if broken else [word])]
    return max((_width(text) for text in (*map(display.line, texts), *title)), default=0)


def _least(table: Table, natural: Sequence[int]) -> list[int]:
    """What a column takes at least; only prose is wrapped."""
    return [min(wide, PROSE) if table.columns[i].kind == "prose" else wide for i, wide in enumerate(natural)]


def _grown(
    table: Table, least: Sequence[int], natural: Sequence[int], among: Sequence[int], gap: int, room: int
) -> list[int]:
    """The widths, with what a line has left given to its words."""
    widths = [min(wide, room) if table.columns[i].kind == "prose" else wide for i, wide in enumerate(least)]
    left = room - _together([widths[i] for i in among], gap)
    for i in among:
        if table.columns[i].kind == "prose" and left > 0:
            more = min(left, natural[i] - widths[i])
            widths[i], left = widths[i] + more, left - more
    return widths


# ── one part ──


@dataclass(frozen=True)
class _Part:
    """Some of the columns, drawn."""

    table: Table
    names: Sequence[int]
    others: Sequence[int]
    widths: Sequence[int]
    gap: int
    width: int
    """The terminal's."""
    above: bool = False
    """Whether names stand on lines of their own, above their figures."""

    @property
    def columns(self) -> list[int]:
        """Those that stand side by side."""
        return [*([] if self.above else self.names), *self.others]

    def lines(self, rule: str) -> Iterator[Text]:
        from rich.text import Text

        if self.above:
            yield Text(display.line(self.table.columns[self.names[0]].title), "bold")
        titles = [[(line, "bold") for line in self._title(i)] for i in self.columns]
        yield from self._side_by_side(titles, down=True)
        longest = self._indent + _together([self.widths[i] for i in self.columns], self.gap)
        yield Text(rule * min(longest, self.width), "dim")
        for n, row in enumerate(self.table.rows):
            if self.above:
                style = "bold" if row[self.names[0]].bold else ""
                yield from (Text(text, style) for text in _flowed(self._named(row), self.width))
            yield from self._side_by_side([self._cell(i, row[i]) for i in self.columns])
            if n in self.table.ends and n + 1 < len(self.table.rows):
                yield Text()

    @property
    def _indent(self) -> int:
        return INDENT if self.above else 0

    def _title(self, i: int) -> list[str]:
        return _title_lines(display.line(self.table.columns[i].title), self.widths[i])

    def _cell(self, i: int, cell: Cell) -> list[Styled]:
        value, brief, style = display.line(_value(cell)), display.line(cell.brief), "bold" if cell.bold else ""
        if self.table.columns[i].kind != "prose":
            return [(value, style), *([(brief, "dim")] if brief else [])]
        width = self.widths[i]
        return [*((w, style) for w in wrapped(value, width)), *((w, "dim") for w in wrapped(brief, width) if brief)]

    def _named(self, row: Sequence[Cell]) -> list[str]:
        """What tells the row from others, with its title but for the first; too wide a name stands alone."""
        pieces: list[str] = []
        for i in self.names:
            title, value = display.line(self.table.columns[i].title), display.line(_value(row[i]))
            if not value:
                continue
            piece = value if i == self.names[0] else f"{title} {value}"
            pieces += [piece] if _width(piece) <= self.width or piece == value else [title, value]
        return pieces

    def _side_by_side(self, cells: Sequence[Sequence[Styled]], down: bool = False) -> Iterator[Text]:
        """Cells of one or more lines each. down: whether they stand on the last line and not on the first."""
        height = max(map(len, cells), default=0)
        for k in range(height):
            at = [k - height + len(cell) if down else k for cell in cells]
            yield self._line([cell[j] if 0 <= j < len(cell) else ("", "") for cell, j in zip(cells, at, strict=True)])

    def _line(self, texts: Sequence[Styled]) -> Text:
        from rich.text import Text

        line = Text(" " * self._indent)
        for k, (i, (text, style)) in enumerate(zip(self.columns, texts, strict=True)):
            if len(self.columns) == 1 and self._indent + self.widths[i] > self.width:
                return Text(" " * max(0, min(self._indent, self.width - _width(text)))).append(text, style)
            space = " " * (self.widths[i] - _width(text))
            right = self.table.columns[i].align == "right"
            line.append(" " * self.gap if k else "").append(space if right else "")
            line.append(text, style).append("" if right else space)
        line.rstrip()
        return line


# ── texts ──


def wrapped(text: str, width: int | None, chop: bool = True) -> list[str]:
    """A text's lines, broken at spaces. chop: whether a word longer than a line is broken too; else it stays whole."""
    from rich.cells import chop_cells

    if width is None:
        return [text]
    broken: list[str] = []
    line = ""
    for word in text.split():
        for piece in chop_cells(word, width) if chop and _width(word) > width else [word]:
            if line and _width(line) + 1 + _width(piece) > width:
                broken.append(line)
                line = ""
            line = f"{line} {piece}" if line else piece
    return [*broken, line]


def _title_lines(title: str, width: int) -> list[str]:
    """A title, broken at spaces; a word too wide for its column after underscores."""
    lines = [""]
    for word in title.split():
        for k, piece in enumerate([word] if _width(word) <= width else _PIECES.findall(word)):
            space = " " if lines[-1] and k == 0 else ""
            if lines[-1] and _width(lines[-1] + space + piece) > width:
                lines.append(piece)
            else:
                lines[-1] += space + piece
    return lines


def _flowed(pieces: Sequence[str], width: int) -> list[str]:
    """Pieces side by side, as many as a line holds; none is broken."""
    flowed: list[str] = []
    for piece in pieces:
        if flowed and _width(flowed[-1]) + 2 + _width(piece) <= width:
            flowed[-1] += f"  {piece}"
        else:
            flowed.append(piece)
    return flowed


def _on_one_line(cell: Cell) -> Cell:
    below = cell.interval or cell.brief
    return replace(cell, value=f"{_value(cell)} ({below})", marks="", brief="") if below else cell


def _value(cell: Cell) -> str:
    return f"{cell.value}{cell.marks}"


def _width(text: str) -> int:
    """Columns that a terminal needs; a wide letter takes two."""
    from rich.cells import cell_len

    return cell_len(text)
