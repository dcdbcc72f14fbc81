"""A comparison's table as Markdown, CSV, JSON and LaTeX, by the standard library alone.

CSV and JSON hold every figure and test; Markdown and LaTeX one line for each model, with the figures that stand for
attack success, refusals and utility. Bold: clearly better than sft. †: clearly better than the worst of its setting,
and not clearly apart from the best. ↓: clearly worse than sft.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unforgotten.report.page.drawing import short
from unforgotten.report.page.facets import Facet
from unforgotten.report.page.significance import KINDS, Entry, Tested, records
from unforgotten.runs import atomic, console, results

LEGEND = "In percent, with 95 % intervals. {marks}{asr} and refusal (of harmless look-alikes): lower is better."
BOLD = "Bold: clearly better than sft. "
LEADS = "†: clearly better than the worst of its setting, and not clearly apart from the best. "
WORSE = "↓: clearly worse than sft. "
PAIRED = (
    "Tests are prompt by prompt and seed by seed (McNemar and Tango for a suite, paired bootstrap for a mean); each "
    "stands for itself, without a correction for how many there are."
)
_LATEX = {
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


@dataclass(frozen=True, slots=True)
class Printed:
    """One figure as it is written."""

    value: str
    interval: str
    bold: bool
    marks: str


def printed(entry: Entry | None) -> Printed | None:
    """What a table says of a figure; None where nothing was measured."""
    if entry is None:
        return None
    rate, bold, marks = entry.rate, False, ""
    if entry.line.stage == "tuned":
        bold = entry.sft is not None and entry.sft.verdict == "better"
        marks = "†" if entry.leads else ""
        marks += "↓" if entry.sft is not None and entry.sft.verdict == "worse" else ""
    return Printed(short(rate.value), f"{short(rate.low)}–{short(rate.high)}", bold, marks)


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
        writer.writerows({key: console.csv_cell(value) for key, value in row.items()} for row in rows)
    return out.getvalue()


def as_json(tested: Tested) -> str:
    """The same as objects, with the notes."""
    tree: dict[str, Any] = {"schema": 1, "notes": [*notes(tested)], "rows": records(tested)}
    return console.json_text(tree, indent=1) + "\n"


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
    kinds = _kinds(tested)
    lines = [
        "| " + " | ".join(["setting", "model", *(tested.titles[k] for k in kinds)]) + " |",
        "|" + " --- |" * (len(kinds) + 2),
    ]
    for facet, name, figures in _lines(tested, facets, kinds):
        texts = [_markdown(printed(entry)) for entry in figures]
        lines.append("| " + " | ".join([_plain(facet.title), _plain(name), *texts]) + " |")
    return "\n".join([*lines, "", *(f"{console.markdown(note)}  " for note in notes(tested))]) + "\n"


def latex(tested: Tested, facets: Sequence[Facet], label: str = "comparison") -> str:
    """A whole table for booktabs: the legend as its caption, a label, and beside each figure the p of its test.

    label: what `\\ref{tab:…}` calls it.
    """
    kinds = _kinds(tested)
    pairs = [tested.titles[k] + end for k in kinds for end in ("", " P")]
    lines = [
        "% Needs \\usepackage{booktabs}.",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{escaped(' '.join([*notes(tested), P_VALUES]))}}}",
        rf"\label{{tab:{re.sub('[^A-Za-z0-9-]+', '-', label).strip('-') or 'comparison'}}}",
        rf"\begin{{tabular}}{{lrl{'rr' * len(kinds)}}}",
        r"\toprule",
        " & ".join(["setting", "poison $p$", "model", *(escaped(title) for title in pairs)]) + r" \\",
    ]
    before = None
    for facet, name, entries in _lines(tested, facets, kinds):
        if facet is not before:
            lines.append(r"\midrule")
        poison = "" if (ratio := facet.setting[2]) is None else f"{ratio:g}"
        where = [escaped(facet.title), poison] if facet is not before else ["", ""]
        figures = [text for entry in entries for text in (_latex(printed(entry)), _p_value(entry))]
        lines.append(" & ".join([*where, escaped(name), *figures]) + r" \\")
        before = facet
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"


P_VALUES = "P: of the difference from sft, by McNemar's exact test; of a mean or of several seeds there is none (--)."


def _p_value(one: Entry | None) -> str:
    p = one.sft.difference.p if one and one.sft and one.sft.difference else None
    return "--" if p is None else r"\textless{}0.001" if p < 0.001 else f"{p:.3f}"


def escaped(words: str) -> str:
    """Anyone's words as LaTeX text."""
    plain = console.line(" ".join(words.split()))
    # After a line's end LaTeX takes these for its own: \\[width], \\*, \midrule[width].
    return ("{}" if plain[:1] in ("[", "*") else "") + "".join(_LATEX.get(c, c) for c in plain)


def _kinds(tested: Tested) -> list[str]:
    return [k for k in KINDS if any(e.kind == k for e in tested.entries)]


def _lines(
    tested: Tested, facets: Sequence[Facet], kinds: Sequence[str]
) -> list[tuple[Facet, str, list[Entry | None]]]:
    return [
        (facet, line.name, [tested.headline(line, facet, kind) for kind in kinds])
        for facet in facets
        for line in facet.all
    ]


def _plain(words: str) -> str:
    return console.markdown(" ".join(words.split()))


def _markdown(figure: Printed | None) -> str:
    if figure is None:
        return "–"
    value = f"**{figure.value}**" if figure.bold else figure.value
    return f"{value}{figure.marks} ({figure.interval})"


def _latex(figure: Printed | None) -> str:
    if figure is None:
        return "--"
    value = rf"\textbf{{{figure.value}}}" if figure.bold else figure.value
    return f"{value}{escaped(figure.marks)} ({escaped(figure.interval)})"
