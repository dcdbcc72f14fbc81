"""What a person reads: the table of a comparison with its footnotes, and two models prompt by prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from unforgotten.report.aggregate import Line, lines, words
from unforgotten.report.comparison import MARK, neither, table
from unforgotten.report.sentence import sentence
from unforgotten.report.table import Cell, Column, Table, name
from unforgotten.report.writers import markdown as markdown_table
from unforgotten.report.writers import terminal
from unforgotten.runs import results
from unforgotten.runs import safe_text as display

if TYPE_CHECKING:
    from unforgotten.evaluation.contrast import Contrast
    from unforgotten.recipe.compare import Layout

__all__ = ["MARK", "markdown", "sentence", "show", "show_contrast"]


def footnotes(lines: Sequence[Line], layout: Layout | None = None) -> list[str]:
    """What the figures are, and what weakens them."""
    seeds = sorted({row.seed for line in lines for row in line.rows if row.seed is not None})
    notes = [
        f"In percent, with 95 % intervals. {_meaning(words(lines))} and refusal of harmless look-alikes: lower is "
        "better. A mean gives its suites equal weight."
    ]
    notes += [caveat] if (caveat := words(lines).caveat) else []
    if any(len(line.rows) > 1 for line in lines):
        notes.append(
            f"Mean of seeds {', '.join(map(str, seeds))}; the interval covers other prompts and other seeds. With "
            "few seeds, it is wide wherever seeds disagree."
        )
    if layout is not None:
        notes += [remark] if (remark := neither(lines, layout)) else []
    elif any((line.flagged("off_task").value or 0) > 0 for line in lines):
        counted = words(lines).short
        notes.append(f"Off task: a harmful request gets the user's task as its reply; not counted in {counted}.")
    touched: dict[str, tuple[int, int]] = {}
    for line in lines:
        for suite, counts in line.touched().items():
            touched[suite] = max(touched.get(suite, (0, 0)), counts)
    for suite, (hits, n) in touched.items():
        notes.append(
            f"{MARK} {suite}: up to {hits} of {n} prompts duplicate, or nearly duplicate, a training row. results.json "
            "has the figures without them (asr_without_overlap)."
        )
    notes += _prefilled(lines) + _conditions(lines) + _judges(lines)
    unread = sum(
        rate.unparsed
        for line in lines
        for row in line.rows
        for judged in (row.rates("asr"), row.rates("refusal"))
        for name, rate in judged.items()
        if name != "mean"
    )
    if unread:
        notes.append(f"{unread} verdicts could not be read; the intervals cover both outcomes.")
    return notes


def _meaning(of: results.Words) -> str:
    return "ASR (attack success rate)" if of is results.MEASURES["asr"] else of.short[0].upper() + of.short[1:]


def _prefilled(lines: Sequence[Line]) -> list[str]:
    """What replies were forced to begin with."""
    forced = dict.fromkeys((row.decoding or {}).get("prefill") for line in lines for row in line.rows)
    how = [
        f"the first {words} words of an answer that the data set publishes" if isinstance(words, int) else f'"{words}"'
        for words in forced
        if words is not None
    ]
    return [f"Prefill: each reply is forced to begin with {' or '.join(how)}."] if how else []


def _conditions(lines: Sequence[Line]) -> list[str]:
    """Under which system prompt a figure is worst, where that is not the template's own."""
    under = {"none": "with no system prompt", "user": "under the system prompt that the user's file has most often"}
    by_condition: dict[str, list[str]] = {}
    for line in lines:
        for row in line.rows:
            for field, condition in (row.headline or {}).items():
                if condition in under:
                    what = words(lines).short if field == "asr" else "Refusal"
                    by_condition.setdefault(f"{what} {under[condition]}, its worst condition", []).append(line.name)
    return [
        f"{', '.join(dict.fromkeys(names))}: {what}. results.json has the others (conditions)."
        for what, names in by_condition.items()
    ]


def _judges(lines: Sequence[Line]) -> list[str]:
    """How far several judges agree, and what a judge did not read."""
    notes = []
    for line in lines:
        for row in line.rows:
            for pair in row.agreement or ():
                if not pair.n:
                    notes.append(f"{line.name}: no reply was read by both {' and '.join(pair.judges)}.")
                    continue
                kappa = "not defined" if pair.kappa is None else f"{pair.kappa:.2f} ({pair.low:.2f}–{pair.high:.2f})"
                notes.append(
                    f"{line.name}: {pair.judges[0]} and {pair.judges[1]} agree on {pair.truth} in "
                    f"{pair.agree:.1f} % of {pair.n} replies, κ {kappa}"
                    + (f". disagreements.jsonl holds the {pair.differ} that differ." if pair.differ else ".")
                )
            if any(counts.judged is False for counts in (row.thinking or {}).values()):
                notes.append(
                    f"{line.name}: the judge read the answers and not the thinking, since it only looks for refusals."
                )
    return list(dict.fromkeys(notes))


def show(rows: Sequence[results.ResultRow], console: Any = None, layout: Layout | None = None) -> None:
    """Prints the table: each value over its interval, rounded outwards to whole percents so that it fits a terminal."""
    terminal.show(_content(rows, layout), console)


def markdown(rows: Sequence[results.ResultRow], title: str = "", layout: Layout | None = None) -> str:
    """The same table for a README, with its sentence."""
    content = _content(rows, layout)
    text = [f"# {display.markdown(title)}", ""] if title else []
    text += [*markdown_table.lines(content), "", *markdown_table.footnotes(content)]
    if summed := sentence(rows):
        text += ["", display.markdown(summed)]
    return "\n".join(text) + "\n"


def _content(rows: Sequence[results.ResultRow], layout: Layout | None) -> Table:
    shown = lines(rows)
    return replace(table(shown, layout), footnotes=footnotes(shown, layout))


# ── two models ──


def show_contrast(
    contrasts: Sequence[Contrast], console: Any = None, called: results.Words = results.MEASURES["asr"]
) -> None:
    """Prints how two models differ, compared prompt by prompt, in points with 95 % intervals.

    called: what the share of harmful prompts is called (results.words_of).
    """
    if contrasts:
        terminal.show(_contrast_table(contrasts, called), console)


CONTRAST = (
    "Bold: a clear difference (the interval excludes 0, and p < 0.05). p: McNemar's exact test on the prompts whose "
    "verdicts differ. Detectable: the smallest rise, in points, that this many prompts detect with 80 % power."
)


def _contrast_table(contrasts: Sequence[Contrast], called: results.Words) -> Table:
    several = len({c.condition for c in contrasts}) > 1
    names = [name(title) for title in ("measure", "suite", *(["condition"] if several else []))]
    figures = [Column(title) for title in ("reference", "model", "points", "p", "detectable")]
    rows = []
    for contrast in contrasts:
        d = contrast.difference
        ends = f" ({_points(d.low)} to {_points(d.high)})" if d.low is not None else ""
        texts = [
            {"asr": called.short}.get(contrast.kind, contrast.kind),
            contrast.suite,
            *([contrast.condition] if several else []),
            "?" if contrast.other is None else f"{contrast.other:.1f}",
            "?" if contrast.one is None else f"{contrast.one:.1f}",
            _points(d.value) + ends,
            "" if d.p is None else "<0.001" if d.p < 0.001 else f"{d.p:.3f}",
            "" if contrast.detectable is None else f"{contrast.detectable:.1f}",
        ]
        rows.append([Cell(text, bold=d.clear) for text in texts])
    return Table([*names, *figures], rows, footnotes=[CONTRAST])


def _points(value: float | None) -> str:
    return "?" if value is None else f"{round(value, 1) + 0.0:+.1f}"
