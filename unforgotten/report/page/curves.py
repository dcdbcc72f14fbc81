"""A figure over the poison ratio, the rows in memory, or the steps of the training: a course for each method, with
intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from unforgotten.evaluation import scores
from unforgotten.evaluation.statistics import rates
from unforgotten.evaluation.statistics.rates import Rate
from unforgotten.report.aggregate import Line, words
from unforgotten.report.page import drawing
from unforgotten.report.page.drawing import HEAD, LETTER, LINE, WIDTH, Figure, at, cut, start_of, text
from unforgotten.report.page.panels import Cell, headline

HEIGHT = 270
TITLES = {"asr": "{asr}, %", "refusal": "look-alikes refused, %", "utility": "utility, %"}
NAME = 18
"""Letters of a name at the end of its line."""
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


def courses(cells: Sequence[Cell], over: Over, field: str) -> list[Course]:
    """Of methods that were run at two places at least."""
    by_method: dict[str, list[tuple[float, Rate]]] = {}
    for cell in cells:
        for line in cell.tuned:
            rate = headline(line, field)
            if rate.value is not None:
                by_method.setdefault(line.name, []).append((float(getattr(line, over) or 0), rate))
    drawn = []
    for name, points in by_method.items():
        points.sort(key=lambda point: point[0])
        if len(points) > 1:
            drawn.append(Course(name, [where for where, _ in points], [rate for _, rate in points]))
    return drawn


def groups(cells: Sequence[Cell], over: Over) -> list[list[Cell]]:
    """Cells that differ in nothing but `over`, where there are several."""
    by_setting: dict[tuple[Any, ...], list[Cell]] = {}
    left_out = 2 if over == "poison" else 3
    for cell in cells:
        key = cell.setting
        by_setting.setdefault((*key[:left_out], *key[left_out + 1 :]), []).append(cell)
    return [group for group in by_setting.values() if len(group) > 1]


def curves(cells: Sequence[Cell], over: Over, names: Sequence[str]) -> list[Figure]:
    """ASR, refusals and utility over the ratio or size, for each group of cells that differ in it alone."""
    figures = []
    for group in groups(cells, over):
        what = _common(group, over)
        for field in TITLES:
            group_courses = courses(group, over, field)
            if group_courses:
                # A task is not learnt before tuning: what θ_safe does of it says nothing here.
                start = None if field == "utility" else next((a for a in group[0].start if a.stage == "aligned"), None)
                called = TITLES[field].format(asr=words(line for cell in group for line in cell.tuned).long)
                figures.append(_picture(group_courses, field, over, what, start, names, called))
    return figures


def over_training(cells: Sequence[Cell], names: Sequence[str]) -> list[Figure]:
    """ASR, refusals and utility at the steps that runs were probed at, for each cell that has such runs."""
    figures = []
    for cell in cells:
        what = cell.title if len(cells) > 1 else ""
        for field in TITLES:
            if probed_courses := [course for line in cell.tuned if (course := probed(line, field))]:
                called = TITLES[field].format(asr=words(cell.tuned).long)
                figures.append(_picture(probed_courses, field, "step", what, None, names, called))
    return figures


def probed(line: Line, field: str) -> Course | None:
    """A line's course over its training, at the steps at which all of its seeds were probed."""
    each = [{entry["step"]: scores.rate(entry[field]) for entry in row["probe"] or []} for row in line.rows]
    points = []
    for step in sorted(set(each[0]).intersection(*each)):
        rate = rates.over_seeds([seed[step] for seed in each])
        if rate.value is not None:
            points.append((float(step), rate))
    return Course(line.name, *zip(*points, strict=True)) if len(points) > 1 else None


def _common(group: Sequence[Cell], over: Over) -> str:
    """The words of the cells' titles that all of them have."""
    parts = [cell.title.split(", ") for cell in group]
    return ", ".join(word for word in parts[0] if all(word in other for other in parts[1:]))


def _picture(
    courses: Sequence[Course],
    field: str,
    over: Over,
    what: str,
    start: Line | None,
    names: Sequence[str],
    called: str,
) -> Figure:
    level = headline(start, field) if start is not None else None
    labels = [c.name for c in courses] + (["aligned"] if level is not None and level.value is not None else [])
    gutter = min(120.0, max(LETTER * len(cut(name, NAME)) for name in labels) + 16)
    left, top, right, bottom = box = (40.0, 36.0, WIDTH - gutter, HEIGHT - 44.0)
    places = sorted({where for course in courses for where in course.at})
    every = [rate for course in courses for rate in course.rates] + ([level] if level is not None else [])
    low, high = (0.0, 100.0) if field != "utility" else drawing.span(every)
    x = drawing.scale(places[0], places[-1], left + 12, right - 12)
    y = drawing.scale(low, high, bottom, top)
    scaled = 100 if over == "poison" else 1
    word, below = AXES[over]
    body = [
        f'<text class="head" x="4" y="14">{text(cut(what, HEAD))}</text>' if what else "",
        f'<text class="axis" x="4" y="{29 if what else 22}">{called}{start_of(low)}</text>',
        *drawing.frame(x, y, box, [], drawing.ticks(low, high)),
        f'<text class="axis" text-anchor="middle" x="{at((left + right) / 2)}" y="{HEIGHT - 8}">{below}</text>',
    ]
    shown = float("-inf")
    for place in places:
        # Steps are many: a line at each would be a hatching.
        if over != "step" or x(place) - shown > 44:
            body.append(f'<path class="grid" d="M{at(x(place))} {at(top)}V{at(bottom)}"/>')
        if x(place) - shown > (44 if over == "step" else 24):
            shown = x(place)
            body.append(
                f'<text class="tick" text-anchor="middle" x="{at(shown)}" y="{at(bottom + 15)}">'
                f"{scaled * place:g}</text>"
            )
    ends = [y(course.rates[-1].value or 0.0) for course in courses]
    if level is not None and level.value is not None:
        body.append(f'<path class="level aligned" d="M{at(left)} {at(y(level.value))}H{at(right)}"/>')
        ends.append(y(level.value))
    for i, course in enumerate(courses):
        # Side by side, so that intervals at one place do not hide each other.
        aside = (i - (len(courses) - 1) / 2) * min(4.0, 16 / len(courses)) if over != "step" else 0.0
        body.append(_drawn(course, x, y, aside, drawing.colour(course.name, names), banded=over == "step"))
    stops = [x(course.at[-1]) + 7 for course in courses] + [right]
    settled = drawing.spread(ends, top + LINE / 2, bottom - 2)
    for name, was, now, stop in zip(labels, ends, settled, stops, strict=False):
        quiet = " quiet" if name == "aligned" else ""
        if abs(was - now) > 3 or stop < right - 14:
            body.append(f'<path class="leader" d="M{at(stop)} {at(was)}L{at(right + 3)} {at(now)}"/>')
        body.append(f'<text class="label{quiet}" x="{at(right + 5)}" y="{at(now + 4)}">{text(cut(name, NAME))}</text>')
    description = "; ".join(
        f"{course.name}: "
        + ", ".join(
            f"{scaled * where:g} → {drawing.with_interval(rate)}"
            for where, rate in zip(course.at, course.rates, strict=True)
        )
        for course in courses
    )
    title = f"{called.removesuffix(', %')} over {word}"
    return Figure(
        drawing.slug(f"{over} {field} {what}"), f"{title}{f': {what}' if what else ''}", description, body, HEIGHT
    )


def _drawn(course: Course, x: drawing.Scale, y: drawing.Scale, aside: float, kind: str, banded: bool) -> str:
    points = [(x(where) + aside, rate) for where, rate in zip(course.at, course.rates, strict=True)]
    path = "M" + "L".join(f"{at(px)} {at(y(rate.value or 0.0))}" for px, rate in points)
    ends = [(px, y(r.low), y(r.high)) for px, r in points if r.low is not None and r.high is not None]
    if banded:
        edge = [(px, high) for px, _, high in ends] + [(px, low) for px, low, _ in reversed(ends)]
        reach = '<path class="band" d="M' + "L".join(f"{at(px)} {at(py)}" for px, py in edge) + 'Z"/>' if edge else ""
    else:
        reach = '<path class="error" d="' + "".join(f"M{at(px)} {at(low)}V{at(high)}" for px, low, high in ends) + '"/>'
    r = 2.2 if banded else 3.4
    marks = "".join(drawing.mark("tuned", course.name, px, y(rate.value or 0.0), r=r) for px, rate in points)
    return f'<g class="{kind}"><title>{text(course.name)}</title>{reach}<path class="course" d="{path}"/>{marks}</g>'
