"""Which kinds of harm come back: attack success by category, a column for each model, every value with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unforgotten.evaluation.statistics import rates
from unforgotten.report.aggregate import Line, words
from unforgotten.report.page import drawing
from unforgotten.report.page.drawing import HEAD, LABEL, LETTER, TICK, WIDTH, Figure, cut
from unforgotten.report.page.facets import Facet
from unforgotten.report.page.palette import LIGHT
from unforgotten.runs import results
from unforgotten.runs.result_types import Rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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


def _counted(row: results.ResultRow) -> dict[str, Rate]:
    counts: dict[str, list[tuple[int, int, int]]] = {}
    for of_suite in (row.categories or {}).values():
        for name, rate in of_suite.items():
            if name:
                counts.setdefault(name, []).append((rate.hits or 0, rate.n or 0, rate.unparsed))
    return {name: rates.rate(*(sum(column) for column in zip(*of, strict=True))) for name, of in counts.items()}


def heat(facet: Facet) -> Figure | None:
    """The picture of one facet; None where prompts have no categories, or one alone.

    Parts by gid: `cell:I` and `reach:I`, counted row by row.
    """
    columns = [(line, by_name) for line in facet.all if (by_name := by_category(line))]
    known = sorted(dict.fromkeys(name for _, by_name in columns for name in by_name))
    if len(known) < 2 or not any(line.stage == "tuned" for line, _ in columns):
        return None
    left = min(166.0, 1.1 * LETTER * max(len(cut(name, NAME)) for name in known) + 12)
    wide = max(LEAST, (WIDTH - left - 4) / len(columns))
    # Names stand level where they fit their column, and lean where they do not.
    longest = max(LETTER * len(cut(line.name)) for line, _ in columns)
    leaning = 0.72 * longest if longest > wide else 0.0
    top = 24 + (leaning + 8 if leaning else 18)
    right, bottom = left + wide * len(columns), top + ROW * len(known)
    tips: dict[str, str] = {}
    with drawing.style():
        plot, axes = drawing.canvas(max(WIDTH, right + (leaning or 4)), bottom + 6, (left, top, right, bottom))
        drawing.write(plot, 4, 14, cut(facet.title, HEAD), "head")
        _scales(axes, [line for line, _ in columns], known, bool(leaning))
        for row, name in enumerate(known):
            for column, (line, by_name) in enumerate(columns):
                i = row * len(columns) + column
                rate = by_name.get(name)
                _square(axes, i, column, row, rate)
                if rate is not None:
                    tips[f"cell:{i}"] = f"{line.name}, {name}: {drawing.with_interval(rate)}"
    description = "; ".join(
        f"{line.name}: " + ", ".join(f"{name} {drawing.with_interval(rate)}" for name, rate in by_name.items())
        for line, by_name in columns
    )
    title = f"{words(facet.all).short} by category: {facet.title}"
    return Figure(drawing.slug(f"categories {facet.title}"), title, description, plot, tips)


def _scales(axes: Axes, lines: Sequence[Line], names: Sequence[str], leaning: bool) -> None:
    """A unit is a column or a row; the first row is on top."""
    axes.set_xlim(0, len(lines))
    axes.set_ylim(len(names), 0)
    axes.tick_params(labeltop=True, labelbottom=False, labelsize=LABEL, labelcolor=LIGHT["ink"])
    turn: dict[str, Any] = {"rotation": 45, "rotation_mode": "anchor", "ha": "left"} if leaning else {}
    axes.set_xticks([i + 0.5 for i in range(len(lines))], [cut(line.name) for line in lines], **turn)
    axes.set_yticks([i + 0.5 for i in range(len(names))], [cut(name, NAME) for name in names])
    for label, line in zip(axes.get_xticklabels(), lines, strict=True):
        label.set_color(LIGHT["ink" if line.stage == "tuned" else "soft"])


def _square(axes: Axes, i: int, x: int, y: int, rate: Rate | None) -> None:
    """A square as full of colour as its value is high, the value, and the interval as a line from 0 to 100."""
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y), 1, 1, facecolor=LIGHT["hair"], alpha=0.35, linewidth=0))
    if rate is not None and rate.value is not None and rate.low is not None and rate.high is not None:
        heat = Rectangle((x, y), 1, 1, facecolor=LIGHT["heat"], alpha=0.9 * rate.value / 100, linewidth=0)
        heat.set_gid(f"cell:{i}")
        axes.add_patch(heat)
        axes.text(x + 0.5, y + 0.58, f"{rate.value:.0f}", ha="center", fontsize=TICK, gid=f"value:{i}")
        low, high = (x + 0.1 + 0.8 * end / 100 for end in (rate.low, rate.high))
        axes.hlines(y + 0.8, low, high, colors=LIGHT["ink"], linewidth=1.2, alpha=0.6, gid=f"reach:{i}")
    edge = Rectangle((x, y), 1, 1, facecolor="none", edgecolor=LIGHT["ground"], linewidth=2, clip_on=False)
    axes.add_patch(edge)
