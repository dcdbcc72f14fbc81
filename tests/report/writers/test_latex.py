"""A LaTeX table is whole: every cell is escaped, groups are parted, and no name ends a line of its own."""

from __future__ import annotations

import re

from unforgotten.report.table import Cell, Column, Table, name
from unforgotten.report.writers import latex

FIGURE = Cell("7.0", "3.4–13.7", bold=True, marks="†")


def test_a_table_with_its_caption_and_groups() -> None:
    rows = [[Cell("sft"), Cell("73.0")], [Cell("der"), FIGURE], [Cell("ema"), Cell("–")]]
    table = Table([name("model"), Column("ASR %")], rows, frozenset([1, 2]), ["All in %."], "Table 1.")
    assert latex.text(table, "own_table").splitlines() == [
        r"% Needs \usepackage{booktabs}.",
        r"\begin{table}",
        r"\centering",
        r"\caption{Table 1. All in \%.}",
        r"\label{tab:own-table}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"model & ASR \% \\",
        r"\midrule",
        r"sft & 73.0 \\",
        r"der & \textbf{7.0}$^\dagger$ (3.4--13.7) \\",
        r"\midrule",
        r"ema & -- \\",
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def test_no_name_is_a_command() -> None:
    table = Table([name("[1cm]"), Column("*")], [[Cell("a&b_%#{}$~^\\"), Cell("[x]\n<y>")]])
    body = latex.text(table).splitlines()[7:-3]
    assert body[0] == r"{}[1cm] & {}* \\"
    assert body[2] == (
        r"a\&b\_\%\#\{\}\$\textasciitilde{}\textasciicircum{}\textbackslash{} & {}[x] \textless{}y\textgreater{} \\"
    )
    assert not re.search(r"(\\\\|\\midrule)\s*[\[*]", latex.text(table))
