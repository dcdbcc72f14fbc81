"""A figure over the poison ratio, the rows in memory, or the steps of the training: a course for each method, with
intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from unforgotten.evaluation.statistics import rates
from unforgotten.report.aggregate import Line, words
from unforgotten.report.page import drawing
from unforgotten.report.page.drawing import HEAD, LABEL, LETTER, WIDTH, Figure, cut, start_of
from unforgotten.report.page.facets import Facet, headline
from unforgotten.report.page.palette import LIGHT
from unforgotten.runs.result_types import UNMEASURED, Rate
from unforgotten.runs.results import Kind

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

HEIGHT = 270.0
LINE = 15.0
"""Height of a line of the legend."""
TITLES: dict[Kind, str] = {"asr": "{asr}, %", "refusal": "look-alikes refused, %", "utility": "utility, %"}
NAME = 16
"""Letters of a name in the legend."""
Over = Literal["poison", "memory", "step"]
AXES: dict[Over, tuple[str, str]] = {
    "poison": ("poison", "poison, % of the user's rows"),
    "memory": ("memory", "rows in memory"),
    "step": ("training", "optimizer steps"),
}
"""What a figure is over, and what its axis says."""


@dataclass(frozen=True, slots=True)
class Course:
    """One method's values, from left to right."""

    name: str
    at: Sequence[float]
    rates: Sequence[Rate]


def courses(facets: Sequence[Facet], over: Over, field: Kind) -> list[Course]:
    """Of methods that were run at two places at least."""
    by_method: dict[str, list[tuple[float, Rate]]] = {}
    for facet in facets:
        for line in facet.tuned:
            rate = headline(line, field)
            if rate.value is not None:
                by_method.setdefault(line.name, []).append((float(getattr(line, over) or 0), rate))
    drawn = []
    for name, points in by_method.items():
        points.sort(key=lambda point: point[0])
        if len(points) > 1:
            drawn.append(Course(name, [where for where, _ in points], [rate for _, rate in points]))
    return drawn


def groups(facets: Sequence[Facet], over: Over) -> list[list[Facet]]:
    """Cells that differ in nothing but `over`, where there are several."""
    by_setting: dict[tuple[Any, ...], list[Facet]] = {}
    left_out = 2 if over == "poison" else 3
    for facet in facets:
        key = facet.setting
        by_setting.setdefault((*key[:left_out], *key[left_out + 1 :]), []).append(facet)
    return [group for group in by_setting.values() if len(group) > 1]


def curves(facets: Sequence[Facet], over: Over, names: Sequence[str]) -> list[Figure]:
    """ASR, refusals and utility over the ratio or size, for each group of facets that differ in it alone."""
    figures = []
    for group in groups(facets, over):
        what = _common(group, over)
        for field in TITLES:
            group_courses = courses(group, over, field)
            if group_courses:
                # A task is not learnt before tuning: what θ_safe does of it says nothing here.
                start = None if field == "utility" else next((a for a in group[0].start if a.stage == "aligned"), None)
                called = TITLES[field].format(asr=words(line for facet in group for line in facet.tuned).long)
                figures.append(_picture(group_courses, field, over, what, start, names, called))
    return figures


def over_training(facets: Sequence[Facet], names: Sequence[str]) -> list[Figure]:
    """ASR, refusals and utility at the steps that runs were probed at, for each facet that has such runs."""
    figures = []
    for facet in facets:
        what = facet.title if len(facets) > 1 else ""
        for field in TITLES:
            if probed_courses := [course for line in facet.tuned if (course := probed(line, field))]:
                called = TITLES[field].format(asr=words(facet.tuned).long)
                figures.append(_picture(probed_courses, field, "step", what, None, names, called))
    return figures


def probed(line: Line, field: Kind) -> Course | None:
    """A line's course over its training, at the steps at which all of its seeds were probed."""
    each = [{entry.step: getattr(entry, field) or UNMEASURED for entry in row.probe or ()} for row in line.rows]
    points = []
    for step in sorted(set(each[0]).intersection(*each)):
        rate = rates.over_seeds([seed[step] for seed in each])
        if rate.value is not None:
            points.append((float(step), rate))
    return Course(line.name, *zip(*points, strict=True)) if len(points) > 1 else None


def _common(group: Sequence[Facet], over: Over) -> str:
    """The words of the facets' titles that all of them have."""
    parts = [facet.title.split(", ") for facet in group]
    return ", ".join(word for word in parts[0] if all(word in other for other in parts[1:]))


def _picture(
    courses: Sequence[Course],
    field: Kind,
    over: Over,
    what: str,
    start: Line | None,
    names: Sequence[str],
    called: str,
) -> Figure:
    """Parts by gid: `course:I` of the I-th course, `error:I` or `band:I`, and `level:0` of the aligned model."""
    level = headline(start, field).value if start is not None else None
    rates = [rate for course in courses for rate in course.rates] + ([headline(start, field)] if start else [])
    low, high = (0.0, 100.0) if field != "utility" else drawing.span(rates)
    word, below = AXES[over]
    labels = [cut(course.name, NAME) for course in courses] + (["aligned"] if level is not None else [])
    gutter = min(140.0, max(LETTER * len(label) for label in labels) + 34)
    height = max(HEIGHT, 80 + LINE * len(labels))
    box = (40.0, 36.0, WIDTH - gutter, height - 44)
    with drawing.style():
        plot, axes = drawing.canvas(WIDTH, height, box)
        if what:
            drawing.write(plot, 4, 14, cut(what, HEAD), "head")
        drawing.write(plot, 4, 29 if what else 22, f"{called}{start_of(low)}")
        drawing.write(plot, (box[0] + box[2]) / 2, height - 8, below, side="center")
        _scales(axes, courses, over, low, high, box[2] - box[0])
        ends = [
            (course.rates[-1].value or 0.0, _draw(axes, i, course, over, names)) for i, course in enumerate(courses)
        ]
        if level is not None:
            line = axes.axhline(level, color=LIGHT["soft"], linewidth=1.2, linestyle=(0, (4, 3)), gid="level:0")
            ends.append((level, line))
        # As the courses end, from top to bottom.
        ordered = sorted(zip(ends, labels, strict=True), key=lambda pair: -pair[0][0])
        axes.legend(
            [line for (_, line), _ in ordered], [label for _, label in ordered], loc="upper left", borderpad=0,
            bbox_to_anchor=(1, 1), borderaxespad=0, fontsize=LABEL, labelspacing=0.25, handlelength=1.5,
            handletextpad=0.4,
        )  # fmt: skip
    title = f"{called.removesuffix(', %')} over {word}{f': {what}' if what else ''}"
    tips = {f"course:{i}": course.name for i, course in enumerate(courses)}
    return Figure(drawing.slug(f"{over} {field} {what}"), title, _in_words(courses, over), plot, tips)


def _in_words(courses: Sequence[Course], over: Over) -> str:
    return "; ".join(
        f"{course.name}: "
        + ", ".join(
            f"{_scaled(where, over):g} → {drawing.with_interval(rate)}"
            for where, rate in zip(course.at, course.rates, strict=True)
        )
        for course in courses
    )


def _scaled(where: float, over: Over) -> float:
    """As the axis has it: a poison ratio in percent."""
    return 100 * where if over == "poison" else where


def _scales(axes: Axes, courses: Sequence[Course], over: Over, low: float, high: float, wide: float) -> None:
    places = sorted({_scaled(where, over) for course in courses for where in course.at})
    beyond = 12 / (wide - 24) * (places[-1] - places[0])
    axes.set_xlim(places[0] - beyond, places[-1] + beyond)
    axes.set_ylim(low, high)
    # Steps are many: a line and a number at each would cover one another.
    least = (44 if over == "step" else 24) / (wide - 24) * (places[-1] - places[0])
    shown = places[:1]
    for place in places:
        if place - shown[-1] > least:
            shown.append(place)
    axes.set_xticks(shown, [f"{place:g}" for place in shown])
    axes.set_yticks(drawing.ticks(low, high))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(True)


def _draw(axes: Axes, i: int, course: Course, over: Over, names: Sequence[str]) -> Line2D:
    """A course with its intervals: a band over the steps, else a bar at each place. Returns its line."""
    colour, shape = drawing.look("tuned", course.name, names)
    xs = [_scaled(where, over) for where in course.at]
    lows = [rate.low or 0.0 for rate in course.rates]
    highs = [rate.high or 0.0 for rate in course.rates]
    if over == "step":
        axes.fill_between(xs, lows, highs, color=colour, alpha=0.1, linewidth=0, gid=f"band:{i}")
    else:
        axes.vlines(xs, lows, highs, colors=colour, linewidth=1.1, alpha=0.55, gid=f"error:{i}")
    values = [rate.value or 0.0 for rate in course.rates]
    size = 4.4 if over == "step" else 6.8
    [line] = axes.plot(
        xs, values, color=colour, marker=shape, markersize=size, linewidth=1.8, clip_on=False, gid=f"course:{i}"
    )
    return line
