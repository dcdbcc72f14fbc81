"""What a person reads: a table, and two models side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unforgotten.report.aggregate import Line, lines, sentence, words
from unforgotten.report.table import MARK, neither, table
from unforgotten.runs import console as display
from unforgotten.runs import results

if TYPE_CHECKING:
    from unforgotten.evaluation.contrast import Contrast
    from unforgotten.recipe.compare import Layout

PLAIN: Any = {"markup": False, "highlight": False, "emoji": False}
"""What a note is to a console that is not ours: words alone."""

__all__ = ["MARK", "markdown", "sentence", "show", "show_contrast"]


def footnotes(lines: Sequence[Line], layout: Layout | None = None) -> list[str]:
    """What the figures are, and what makes them less than they look."""
    seeds = sorted({row["seed"] for line in lines for row in line.rows if row["seed"] is not None})
    notes = [
        f"In percent, with 95 % intervals. {_meaning(words(lines))} and refusal (of harmless look-alikes): lower is "
        "better. A mean weighs its suites equally."
    ]
    notes += [caveat] if (caveat := words(lines).caveat) else []
    if any(len(line.rows) > 1 for line in lines):
        notes.append(
            f"Mean of seeds {', '.join(map(str, seeds))}; the interval counts other prompts and other seeds. With "
            "few seeds, it is wide wherever seeds disagree."
        )
    if layout is not None:
        notes += [remark] if (remark := neither(lines, layout)) else []
    elif any((line.flagged("off_task").value or 0) > 0 for line in lines):
        counted = words(lines).short
        notes.append(f"Off task: harmful requests answered with the user's task instead; not counted in {counted}.")
    touched: dict[str, tuple[int, int]] = {}
    for line in lines:
        for suite, counts in line.touched().items():
            touched[suite] = max(touched.get(suite, (0, 0)), counts)
    for suite, (hits, n) in touched.items():
        notes.append(
            f"{MARK} {suite}: up to {hits} of {n} prompts are copies or near copies of rows trained on; results.json "
            "has the figures without them (asr_without_overlap)."
        )
    notes += _conditions(lines) + _judges(lines)
    unread = sum(
        rate["unparsed"]
        for line in lines
        for row in line.rows
        for field in ("asr", "refusal")
        for name, rate in (row[field] or {}).items()
        if name != "mean"
    )
    if unread:
        notes.append(f"{unread} verdicts could not be read; the intervals cover both readings of them.")
    return notes


def _meaning(of: results.Words) -> str:
    return "ASR (attack success rate)" if of is results.MEASURES["asr"] else of.short[0].upper() + of.short[1:]


def _conditions(lines: Sequence[Line]) -> list[str]:
    """Which system prompts made the headline, where it was not the template's own."""
    under = {"none": "with no system prompt", "user": "under the system prompt that the user's file has most often"}
    by_condition: dict[str, list[str]] = {}
    for line in lines:
        for row in line.rows:
            for field, condition in (row["headline"] or {}).items():
                if condition in under:
                    what = words(lines).short if field == "asr" else "Refusal"
                    by_condition.setdefault(f"{what} is that {under[condition]}", []).append(line.name)
    return [
        f"{what}, the worst, for {', '.join(dict.fromkeys(names))}; results.json has the others (conditions)."
        for what, names in by_condition.items()
    ]


def _judges(lines: Sequence[Line]) -> list[str]:
    """How far several judges agree, and what a judge was not asked."""
    notes = []
    for line in lines:
        for row in line.rows:
            for pair in row["agreement"] or []:
                if not pair["n"]:
                    notes.append(f"{line.name}: no reply was read by both {' and '.join(pair['judges'])}.")
                    continue
                kappa = (
                    "not defined"
                    if pair["kappa"] is None
                    else f"{pair['kappa']:.2f} ({pair['low']:.2f}–{pair['high']:.2f})"
                )
                notes.append(
                    f"{line.name}: {pair['judges'][0]} and {pair['judges'][1]} agree on {pair['truth']} in "
                    f"{pair['agree']:.1f} % of {pair['n']} replies, κ {kappa}"
                    + (f"; {pair['differ']} that differ are in disagreements.jsonl." if pair["differ"] else ".")
                )
            if any(counts.get("judged") is False for counts in (row["thinking"] or {}).values()):
                notes.append(
                    f"{line.name}: its answers were judged and not its thoughts, since the judge only looks for "
                    "refusals."
                )
    return list(dict.fromkeys(notes))


def show(rows: Sequence[results.Row], console: Any = None, layout: Layout | None = None) -> None:
    """Prints the table: each value over its interval, rounded outwards to whole percents so that it fits a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    console = console or display.console()
    shown = lines(rows)
    content = table(shown, layout)
    roomy = console.width > 12 * len(content.titles)
    drawn = Table(
        box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1) if roomy else 0, show_edge=False, pad_edge=False
    )
    for i, title in enumerate(content.titles):
        named = title in ("model", "method", "task")
        heading = title.replace(" ", "\n", 1).replace("_", "_\n")
        longest = max(len(cells[i].value) for cells in content.body)
        side: Any = "left" if named else "right"
        drawn.add_column(Text(display.block(heading)), justify=side, no_wrap=not named, min_width=min(longest, 16))
    for cells, ends in zip(content.body, content.ends, strict=True):
        texts = [Text(display.line(c.value)).append(f"\n{c.brief}" if c.brief else "", style="dim") for c in cells]
        drawn.add_row(*texts, end_section=ends)
    console.print(drawn)
    for note in footnotes(shown, layout):
        console.print(note, style="dim", **PLAIN)


def markdown(rows: Sequence[results.Row], title: str = "", layout: Layout | None = None) -> str:
    """The same table for a README, with its sentence."""
    shown = lines(rows)
    content = table(shown, layout)
    text = [f"# {display.markdown(title)}", ""] if title else []
    text += ["| " + " | ".join(map(display.markdown, content.titles)) + " |", "|" + " --- |" * len(content.titles)]
    for cells in content.body:
        texts = [c.value + (f" ({c.interval})" if c.interval else "") for c in cells]
        text.append("| " + " | ".join(map(display.markdown, texts)) + " |")
    text += ["", *(f"{display.markdown(note)}  " for note in footnotes(shown, layout))]
    if summed := sentence(rows):
        text += ["", display.markdown(summed)]
    return "\n".join(text) + "\n"


# ── two models ──


def show_contrast(
    contrasts: Sequence[Contrast], console: Any = None, called: results.Words = results.MEASURES["asr"]
) -> None:
    """Prints what two models differ in, prompt by prompt, in points with 95 % intervals.

    called: what the share of harmful prompts is called (results.words_of).
    """
    from rich.table import Table
    from rich.text import Text

    if not contrasts:
        return
    console = console or display.console()
    several = len({c.condition for c in contrasts}) > 1
    drawn = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    for title in ("", "suite", *(["system prompt"] if several else []), "reference", "model", "points", "p", "shows"):
        drawn.add_column(title, justify="left" if title in ("", "suite", "system prompt") else "right")
    for contrast in contrasts:
        d = contrast.difference
        ends = f" ({_points(d.low)} to {_points(d.high)})" if d.low is not None else ""
        drawn.add_row(
            {"asr": called.short}.get(contrast.kind, contrast.kind),
            Text(display.line(contrast.suite)),
            *([contrast.condition] if several else []),
            "?" if contrast.other is None else f"{contrast.other:.1f}",
            "?" if contrast.one is None else f"{contrast.one:.1f}",
            _points(d.value) + ends,
            "" if d.p is None else "<0.001" if d.p < 0.001 else f"{d.p:.3f}",
            "" if contrast.detectable is None else f"{contrast.detectable:.1f}",
            style="bold" if d.clear else "",
        )
    console.print(drawn)
    note = (
        "Bold: a difference that may be spoken of. p: McNemar's exact test on prompts whose verdicts differ. shows: "
        "the smallest rise, in points, that so many prompts show in 4 of 5 cases."
    )
    console.print(note, style="dim", **PLAIN)


def _points(value: float | None) -> str:
    return "?" if value is None else f"{round(value, 1) + 0.0:+.1f}"


# ── what an upload holds ──
