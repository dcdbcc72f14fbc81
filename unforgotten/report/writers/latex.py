"""A table as LaTeX, for the package booktabs."""

from __future__ import annotations

import re

from unforgotten.report.table import Cell, Table
from unforgotten.runs import safe_text

_MARKS = {
    **{c: f"\\{c}" for c in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"},
    **{
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "–": "--",
        "θ": r"$\theta$",
        "†": r"$^\dagger$",
        "↓": r"$\downarrow$",
    },
}


def text(table: Table, label: str = "table") -> str:
    """A floating table with its caption and footnotes above. label: what `\\ref{tab:…}` calls it."""
    lines = [
        "% Needs \\usepackage{booktabs}.",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(' '.join([table.caption, *table.footnotes]))}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9-]+', '-', label).strip('-') or 'table'}}}",
        rf"\begin{{tabular}}{{{''.join(column.align[0] for column in table.columns)}}}",
        r"\toprule",
        _row([escaped(column.title) for column in table.columns]),
        r"\midrule",
    ]
    for i, row in enumerate(table.rows):
        lines.append(_row([cell_text(cell) for cell in row]))
        if i in table.ends and i + 1 < len(table.rows):
            lines.append(r"\midrule")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


def cell_text(cell: Cell) -> str:
    """`\\textbf{7.0}$^\\dagger$ (3.4--13.7)`."""
    value = rf"\textbf{{{escaped(cell.value)}}}" if cell.bold else escaped(cell.value)
    return f"{value}{escaped(cell.marks)}" + (f" ({escaped(cell.interval)})" if cell.interval else "")


def escaped(words: str) -> str:
    """Anyone's words as LaTeX text."""
    plain = safe_text.line(" ".join(words.split()))
    # After a line's end LaTeX takes these for its own: \\[width], \\*, \midrule[width].
    return ("{}" if plain[:1] in ("[", "*") else "") + "".join(_MARKS.get(c, c) for c in plain)


def _row(cells: list[str]) -> str:
    return " & ".join(cells) + r" \\"
