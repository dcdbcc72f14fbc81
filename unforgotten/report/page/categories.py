"""Which kinds of harm come back: attack success by category, a column for each model, every value with its interval."""

from __future__ import annotations

from unforgotten.evaluation.statistics import rates
from unforgotten.evaluation.statistics.rates import Rate
from unforgotten.report.aggregate import Line, words
from unforgotten.report.page import drawing
from unforgotten.report.page.drawing import HEAD, LETTER, WIDTH, Figure, at, cut, text
from unforgotten.report.page.panels import Cell
from unforgotten.runs import results

NAME = 19
"""Letters of a category beside its row."""
ROW, LEAST = 26.0, 34.0
"""Height of a row, and width of the narrowest column that holds `100`."""


def by_category(line: Line) -> dict[str, Rate]:
    """Over suites by their counts, then over seeds."""
    by_name: dict[str, list[Rate]] = {}
    for row in line.rows:
        for name, rate in _counted(row).items():
            by_name.setdefault(name, []).append(rate)
    return {name: rates.over_seeds(of) for name, of in by_name.items()}


def _counted(row: results.Row) -> dict[str, Rate]:
    counts: dict[str, list[tuple[int, int, int]]] = {}
    for of_suite in (row["categories"] or {}).values():
        for name, rate in of_suite.items():
            if name:
                counts.setdefault(name, []).append((rate["hits"], rate["n"], rate["unparsed"]))
    return {name: rates.rate(*(sum(column) for column in zip(*of, strict=True))) for name, of in counts.items()}


def heat(cell: Cell) -> Figure | None:
    """The picture of one cell; None where prompts have no categories, or one alone."""
    columns = [(line, by_name) for line in cell.all if (by_name := by_category(line))]
    known = sorted(dict.fromkeys(name for _, by_name in columns for name in by_name))
    if len(known) < 2 or not any(line.stage == "tuned" for line, _ in columns):
        return None
    left = min(166.0, 1.1 * LETTER * max(len(cut(name, NAME)) for name in known) + 12)
    wide = max(LEAST, (WIDTH - left - 4) / len(columns))
    # Names stand upright where they fit their column, and lean where they do not.
    longest = max(LETTER * len(cut(line.name)) for line, _ in columns)
    leaning = longest > wide
    top = 24 + (0.72 * longest + 8 if leaning else 18)
    width = max(WIDTH, left + wide * len(columns) + (0.72 * longest if leaning else 4))
    body = [f'<text class="head" x="4" y="14">{text(cut(cell.title, HEAD))}</text>']
    for i, (line, _) in enumerate(columns):
        x, quiet = left + wide * (i + 0.5), "" if line.stage == "tuned" else " quiet"
        how = (
            f' text-anchor="start" transform="rotate(-45 {at(x)} {at(top - 6)})"'
            if leaning
            else ' text-anchor="middle"'
        )
        body.append(f'<text class="label{quiet}" x="{at(x)}" y="{at(top - 6)}"{how}>{text(cut(line.name))}</text>')
    for j, name in enumerate(known):
        y = top + ROW * j
        body.append(
            f'<text class="label" x="{at(left - 8)}" y="{at(y + 16)}" text-anchor="end">{text(cut(name, NAME))}</text>'
        )
        for i, (line, by_name) in enumerate(columns):
            body.append(_square(left + wide * i, y, wide, by_name.get(name), f"{line.name}, {name}"))
    description = "; ".join(
        f"{line.name}: " + ", ".join(f"{name} {drawing.with_interval(rate)}" for name, rate in by_name.items())
        for line, by_name in columns
    )
    title = f"{words(cell.all).short} by category: {cell.title}"
    return Figure(drawing.slug(f"categories {cell.title}"), title, description, body, top + ROW * len(known) + 6, width)


def _square(x: float, y: float, wide: float, rate: Rate | None, what: str) -> str:
    place = f'x="{at(x)}" y="{at(y)}" width="{at(wide)}" height="{at(ROW)}"'
    if rate is None or rate.value is None or rate.low is None or rate.high is None:
        return f'<rect class="cell" {place}/>'
    over = drawing.scale(0, 100, x + 4, x + wide - 4)
    return (
        f'<g><title>{text(f"{what}: {drawing.with_interval(rate)}")}</title><rect class="cell" {place}/>'
        f'<rect class="heat" fill-opacity="{0.9 * rate.value / 100:.2f}" x="{at(x + 1)}" y="{at(y + 1)}" '
        f'width="{at(wide - 2)}" height="{at(ROW - 2)}"/>'
        f'<text class="value" text-anchor="middle" x="{at(x + wide / 2)}" y="{at(y + 15)}">{rate.value:.0f}</text>'
        f'<path class="reach" d="M{at(over(rate.low))} {at(y + ROW - 5)}H{at(over(rate.high))}"/></g>'
    )
