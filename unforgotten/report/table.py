"""One table, whoever writes it: a terminal, Markdown, the page's HTML or LaTeX (report/writers)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Column:
    """What stands above the cells, and how they are set."""

    title: str
    kind: Literal["name", "figure", "prose"] = "figure"
    """A name says which row this is: its columns come first, and each part of a folded table repeats them. Names and
    figures are never broken; prose is wrapped at spaces."""
    align: Literal["left", "right"] = "right"
    meaning: str = ""
    """What the figures count, where the title alone does not say it; a page shows it when asked."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A value, its interval and its marks."""

    value: str = ""
    interval: str = ""
    """As it is written in brackets: `63.6–80.7`."""
    brief: str = ""
    """What a terminal prints below the value: the interval in whole percents, rounded outwards."""
    bold: bool = False
    marks: str = ""


@dataclass(frozen=True, slots=True)
class Table:
    """Columns, rows of cells, and what is said above and below them. Raises ValueError where a row has other cells."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    ends: frozenset[int] = frozenset()
    """Rows after which a group ends."""
    footnotes: Sequence[str] = ()
    caption: str = ""

    def __post_init__(self) -> None:
        for i, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise ValueError(f"row {i} has {len(row)} cells for {len(self.columns)} columns")


def name(title: str, align: Literal["left", "right"] = "left") -> Column:
    """A column that tells one row from another."""
    return Column(title, "name", align)


def prose(title: str) -> Column:
    """A column of words."""
    return Column(title, "prose", "left")


def table_of(columns: Sequence[Column], rows: Sequence[Sequence[str]], caption: str = "") -> Table:
    """A table of plain texts."""
    return Table(columns, [[Cell(text) for text in row] for row in rows], caption=caption)
