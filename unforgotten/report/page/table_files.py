"""A comparison's table as Markdown, CSV, JSON and LaTeX, by the standard library alone.

CSV and JSON hold every figure and test; Markdown and LaTeX one row for each model, with the figures that stand for
attack success, refusals and utility.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from unforgotten.report.page.facets import Facet
from unforgotten.report.page.significance import Tested, records
from unforgotten.report.page.tables import of_all
from unforgotten.report.writers import latex as latex_table
from unforgotten.report.writers import markdown as markdown_table
from unforgotten.runs import atomic, results, safe_text

LEGEND = "In percent, with 95 % intervals. {marks}{asr} and refusal (of harmless look-alikes): lower is better."
BOLD = "Bold: clearly better than sft. "
LEADS = "†: clearly better than the worst of its setting, and not clearly different from the best. "
WORSE = "↓: clearly worse than sft. "
PAIRED = (
    "Tests compare models prompt by prompt and seed by seed: McNemar and Tango for a suite, a paired bootstrap for a "
    "mean. They are not corrected for multiple comparisons."
)
P_VALUES = "P: of the difference from sft, by McNemar's exact test; of a mean or of several seeds there is none (--)."


def write(folder: Path, tested: Tested, facets: Sequence[Facet], label: str = "comparison") -> list[Path]:
    """table.md, .csv, .json and .tex in the folder. label: of the LaTeX table."""
    files = {
        "table.md": markdown(tested, facets),
        "table.csv": as_csv(tested),
        "table.json": as_json(tested),
        "table.tex": latex(tested, facets, label),
    }
    for name, text in files.items():
        atomic.put(folder / name, text)
    return [folder / name for name in files]


def as_csv(tested: Tested) -> str:
    """Every figure and test, a line each; what is not known is left empty."""
    rows, out = records(tested), io.StringIO()
    if rows:
        writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: safe_text.csv_cell(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def as_json(tested: Tested) -> str:
    """The same as objects, with the notes."""
    tree: dict[str, Any] = {"schema": 1, "notes": [*notes(tested)], "rows": records(tested)}
    return safe_text.json_text(tree, indent=1) + "\n"


def notes(tested: Tested, whole: bool = True) -> list[str]:
    """What the figures and marks are; not `whole`: of the marks those that could stand there."""
    return [legend(tested, whole), *([PAIRED] if tested.paired else []), *tested.notes]


def legend(tested: Tested, whole: bool = True) -> str:
    """What marks and figures are, by the measure that the judge allows."""
    asr = (
        "ASR (harmful prompts answered)" if tested.words is results.MEASURES["asr"] else tested.words.short.capitalize()
    )
    against, several = (whole or any(e.sft for e in tested.entries)), whole or any(e.worst for e in tested.entries)
    marks = (BOLD if against else "") + (LEADS if several else "") + (WORSE if against else "")
    return LEGEND.format(asr=asr, marks=marks) + (f" {tested.words.caveat}" if tested.words.caveat else "")


def markdown(tested: Tested, facets: Sequence[Facet]) -> str:
    """One line for each model of each setting."""
    table = of_all(tested, facets, notes(tested))
    return "\n".join([*markdown_table.lines(table), "", *markdown_table.footnotes(table)]) + "\n"


def latex(tested: Tested, facets: Sequence[Facet], label: str = "comparison") -> str:
    """A whole table for booktabs: the legend as its caption, a label, and beside each figure the p of its test.

    label: what `\\ref{tab:…}` calls it.
    """
    return latex_table.text(of_all(tested, facets, [*notes(tested), P_VALUES], paper=True), label)
