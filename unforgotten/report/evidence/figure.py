"""ASR, over-refusal and utility over the poison ratio: a row of three panels for each model, θ_safe a dashed line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, get_args

from unforgotten.report.evidence.parts import MAIN
from unforgotten.report.evidence.studies import Study, rate
from unforgotten.report.page import drawing
from unforgotten.report.page.drawing import HEAD, LABEL, Figure, cut
from unforgotten.report.page.palette import LIGHT
from unforgotten.runs.result_types import Rate
from unforgotten.runs.results import Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

METHODS = ("sft", "der", MAIN)
"""Those that are drawn, where they were run."""
WIDTH, ROW = 880.0, 250.0
TOP, BOTTOM = 34.0, 26.0
"""Pixels for the legend above the rows and the axis' words below them."""
LEFT, GAP = 40.0, 46.0
DODGE = 0.6
"""Percent of poison between the marks of two methods, so that their intervals stand side by side."""
TITLES: dict[Kind, str] = {"refusal": "look-alikes refused, %", "utility": "utility, %"}
ALIGNED = "θ_safe"


def drawn(studies: Sequence[Study]) -> Figure | None:
    """The picture; None where no study has one of its methods at two ratios.

    Parts by gid: `course:N` and `error:N` of a method in a panel, and `level:N` of θ_safe; N = 10 · panel + method.
    """
    rows = [(study, courses) for study in studies if (courses := _courses(study))]
    if not rows:
        return None
    height = TOP + ROW * len(rows) + BOTTOM
    wide = (WIDTH - LEFT - 2 * GAP - 12) / 3
    handles: dict[str, Line2D] = {}
    tips: dict[str, str] = {}
    with drawing.style():
        plot = drawing.empty(WIDTH, height)
        for i, (study, courses) in enumerate(rows):
            top = TOP + ROW * i
            drawing.write(plot, 4, top + 18, cut(study.title, HEAD), "head")
            places = sorted({x for points in courses.values() for x, _ in points})
            for j, kind in enumerate(get_args(Kind)):
                left = LEFT + j * (wide + GAP)
                axes = drawing.panel(plot, (left, top + 54, left + wide, top + ROW - 26))
                level = rate(study.aligned, kind)
                own = {method: courses.get((method, kind), []) for method in METHODS}
                low, high = _span(kind, [value for points in own.values() for _, value in points], level)
                words = study.words.long if kind == "asr" else TITLES[kind]
                title = (f"{words}, %" if kind == "asr" else words) + drawing.start_of(low)
                drawing.write(plot, left - 30, top + 40, title)
                _scales(axes, places, low, high)
                handles |= _panel(axes, own, level, 10 * (3 * i + j), f"{study.title}, {kind}", tips)
        drawing.write(plot, WIDTH / 2, height - 8, "poison, % of the user's rows", side="center")
        order = [name for name in (*METHODS, ALIGNED) if name in handles]
        plot.legend(
            [handles[name] for name in order], order, loc="upper right", bbox_to_anchor=(1, 1), ncols=len(order),
            fontsize=LABEL, handlelength=2, handletextpad=0.5, columnspacing=1.6, borderpad=0.5,
        )  # fmt: skip
    title = "Safety and utility over the poison ratio"
    return Figure("real", title, "; ".join(tips.values()), plot, tips)


def _courses(study: Study) -> dict[tuple[str, Kind], list[tuple[float, Rate]]]:
    """By method and kind: ratio in percent and rate over seeds, from left to right; at two ratios at least."""
    courses: dict[tuple[str, Kind], list[tuple[float, Rate]]] = {}
    for method, poison, attack in study.cells:
        for kind in get_args(Kind) if method in METHODS and attack is None else ():
            value = rate(list(study.runs(method, poison).values()), kind)
            if value.value is not None:
                courses.setdefault((method, kind), []).append((100 * poison, value))
    return {key: points for key, points in courses.items() if len(points) > 1}


def _scales(axes: Axes, places: Sequence[float], low: float, high: float) -> None:
    beyond = 0.08 * (places[-1] - places[0])
    axes.set_xlim(places[0] - beyond, places[-1] + beyond)
    axes.set_ylim(low - 0.02 * (high - low), high + 0.02 * (high - low))
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.set_yticks(drawing.ticks(low, high))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(True)


def _span(kind: Kind, rates: Sequence[Rate], level: Rate) -> tuple[float, float]:
    low, high = drawing.span([*rates, *([level] if level.value is not None else [])])
    return (0.0, 100.0) if kind == "asr" else (0.0, high) if kind == "refusal" else (low, high)


def _panel(
    axes: Axes,
    courses: Mapping[str, Sequence[tuple[float, Rate]]],
    level: Rate,
    number: int,
    what: str,
    tips: dict[str, str],
) -> dict[str, Line2D]:
    """Draws a panel, adds its words to `tips`, and returns its lines by name."""
    lines: dict[str, Line2D] = {}
    if level.value is not None:
        lines[ALIGNED] = axes.axhline(
            level.value, color=LIGHT["soft"], linewidth=1.3, linestyle=(0, (4, 3)), gid=f"level:{number}"
        )
        tips[f"level:{number}"] = f"{what}: {ALIGNED} {drawing.with_interval(level)}"
    low, high = axes.get_xlim()
    for k, method in enumerate(METHODS):
        if not (points := courses[method]):
            continue
        colour, shape = drawing.look("tuned", method, METHODS)
        shift = (k - 1) * DODGE * (high - low) / 35
        xs = [x + shift for x, _ in points]
        axes.vlines(
            xs, [r.low or 0.0 for _, r in points], [r.high or 0.0 for _, r in points], colors=colour, linewidth=1.3,
            alpha=0.6, gid=f"error:{number + k}",
        )  # fmt: skip
        [lines[method]] = axes.plot(
            xs, [r.value or 0.0 for _, r in points], color=colour, marker=shape, markersize=6.4, linewidth=1.8,
            clip_on=False, gid=f"course:{number + k}",
        )  # fmt: skip
        values = ", ".join(f"{x:g} % → {drawing.with_interval(r)}" for x, r in points)
        tips[f"course:{number + k}"] = f"{what}: {method} {values}"
    return lines
