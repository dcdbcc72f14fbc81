"""The tables of a comparison: for the page one for each facet, for Markdown and LaTeX one of all.

Bold: clearly better than sft. †: clearly better than the worst of its setting, and not clearly different from the
best. ↓: clearly worse than sft.
"""

from __future__ import annotations

from collections.abc import Sequence

from unforgotten.report.aggregate import names_in
from unforgotten.report.page.drawing import short
from unforgotten.report.page.facets import Facet
from unforgotten.report.page.significance import KINDS, Entry, Tested
from unforgotten.report.table import Cell, Column, Table, name

NOTHING = Cell("–")
"""Where nothing was measured."""


def figure(entry: Entry | None) -> Cell:
    """One figure with its interval and marks."""
    if entry is None:
        return NOTHING
    rate, bold, marks = entry.rate, False, ""
    if entry.line.stage == "tuned":
        bold = entry.sft is not None and entry.sft.verdict == "better"
        marks = "†" if entry.leads else ""
        marks += "↓" if entry.sft is not None and entry.sft.verdict == "worse" else ""
    return Cell(short(rate.value), f"{short(rate.low)}–{short(rate.high)}", bold=bold, marks=marks)


def of_facet(facet: Facet, tested: Tested, caption: str = "") -> Table:
    """A row for each model of one setting: a figure for each kind, and how its ASR differs from sft's."""
    kinds = [k for k in KINDS if any(tested.headline(line, facet, k) for line in facet.all)]
    against = any(e.sft for e in tested.entries if e.facet is facet and e.kind == "asr")
    columns = [name("model"), *(Column(f"{tested.titles[k]}\N{NO-BREAK SPACE}{_better(k)}") for k in kinds)]
    columns += [Column(f"{tested.titles['asr']} − sft")] if against else []
    rows = [
        [
            Cell(line.name),
            *(figure(tested.headline(line, facet, kind)) for kind in kinds),
            *([_less(tested.headline(line, facet, "asr"))] if against else []),
        ]
        for line in facet.all
    ]
    return Table(columns, rows, caption=caption)


def _better(kind: str) -> str:
    return "↑" if kind == "utility" else "↓"


def _less(entry: Entry | None) -> Cell:
    if entry is None or entry.sft is None:
        return Cell()
    verdict, d = entry.sft.verdict, entry.sft.difference
    if d is None or d.value is None:
        return Cell(verdict or "not clear", "by intervals")
    p = "" if d.p is None else f"\np {'< 0.001' if d.p < 0.001 else f'= {d.p:.3f}'}"
    interval = f"{points(d.low)} to {points(d.high)}{p}"
    # Marked as the figures beside it.
    return Cell(points(d.value), interval, bold=verdict == "better", marks="↓" if verdict == "worse" else "")


def points(value: float | None) -> str:
    """A difference, with its sign as printers set it."""
    return "?" if value is None else f"{round(value, 1) + 0.0:+.1f}".replace("-", "−")


def of_suites(facet: Facet, tested: Tested) -> Table | None:
    """Every suite and measure that `of_facet` leaves out; None where there is none."""
    keys = [(k, s) for k in KINDS for s in names_in(facet.all, k) if s != "mean"]
    by = {(id(e.line), e.kind, e.suite): e for e in tested.entries if e.facet is facet}
    keys = [key for key in keys if any((e := by.get((id(line), *key))) and not e.headline for line in facet.all)]
    columns = [name("model"), *(Column(f"{tested.titles[k]} {suite}") for k, suite in keys)]
    rows = [[Cell(line.name), *(figure(by.get((id(line), *key))) for key in keys)] for line in facet.all]
    return Table(columns, rows) if keys else None


def of_all(tested: Tested, facets: Sequence[Facet], notes: Sequence[str], paper: bool = False) -> Table:
    """A row for each model of each setting.

    paper: as LaTeX prints it: a setting is named once, with its poison ratio, and each figure has the p of its test.
    """
    kinds = [k for k in KINDS if any(e.kind == k for e in tested.entries)]
    columns = [name("setting"), *([name("poison ratio", "right")] if paper else []), name("model")]
    for kind in kinds:
        columns += [Column(tested.titles[kind]), *([Column(f"{tested.titles[kind]} P")] if paper else [])]
    rows: list[list[Cell]] = []
    ends = set()
    for facet in facets:
        for i, line in enumerate(facet.all):
            where = [facet.title, *([_poison(facet)] if paper else [])]
            row = [Cell("" if paper and i else text) for text in where] + [Cell(line.name)]
            for kind in kinds:
                entry = tested.headline(line, facet, kind)
                row += [figure(entry), *([_p_value(entry)] if paper else [])]
            rows.append(row)
        ends.add(len(rows) - 1)
    return Table(columns, rows, frozenset(ends), notes)


def _poison(facet: Facet) -> str:
    return "" if (ratio := facet.setting[2]) is None else f"{ratio:g}"


def _p_value(entry: Entry | None) -> Cell:
    p = entry.sft.difference.p if entry and entry.sft and entry.sft.difference else None
    return NOTHING if p is None else Cell("<0.001" if p < 0.001 else f"{p:.3f}")
