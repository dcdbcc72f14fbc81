"""A figure over the poison ratio, or over the rows in memory: one course for each method, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from unforgotten.page import drawing
from unforgotten.page.cells import Cell, headline
from unforgotten.page.drawing import LETTER, LINE, WIDTH, Figure, at, start_of, text
from unforgotten.statistics.rates import Rate
from unforgotten.summary import Line

HEIGHT = 270
TITLES = {"asr": "harmful prompts answered (ASR), %", "refusal": "look-alikes refused, %", "utility": "utility, %"}
Over = Literal["poison", "memory"]


@dataclass(frozen=True, slots=True)
class Course:
    """One method's values, from left to right."""

    name: str
    at: Sequence[float]
    rates: Sequence[Rate]


def courses(cells: Sequence[Cell], over: Over, field: str) -> list[Course]:
    """Of methods that were run at two places at least."""
    found: dict[str, list[tuple[float, Rate]]] = {}
    for cell in cells:
        for line in cell.tuned:
            rate = headline(line, field)
            if rate.value is not None:
                found.setdefault(line.name, []).append((float(getattr(line, over) or 0), rate))
    made = []
    for name, told in found.items():
        told.sort(key=lambda one: one[0])
        if len(told) > 1:
            made.append(Course(name, [where for where, _ in told], [rate for _, rate in told]))
    return made


def groups(cells: Sequence[Cell], over: Over) -> list[list[Cell]]:
    """Cells that differ in nothing but `over`, where there are several."""
    found: dict[tuple[Any, ...], list[Cell]] = {}
    left_out = 2 if over == "poison" else 3
    for cell in cells:
        key = cell.setting
        found.setdefault((*key[:left_out], *key[left_out + 1 :]), []).append(cell)
    return [group for group in found.values() if len(group) > 1]


def curves(cells: Sequence[Cell], over: Over, names: Sequence[str]) -> list[Figure]:
    """ASR, refusals and utility over the ratio or size, for each group of cells that differ in it alone."""
    made = []
    for group in groups(cells, over):
        what = _common(group, over)
        for field in TITLES:
            found = courses(group, over, field)
            if found:
                # A task is not learnt before tuning: what θ_safe does of it says nothing here.
                start = None if field == "utility" else next((a for a in group[0].start if a.stage == "aligned"), None)
                made.append(_picture(found, field, over, what, start, names))
    return made


def _common(group: Sequence[Cell], over: Over) -> str:
    """The words of the cells' titles that all of them have."""
    parts = [cell.title.split(", ") for cell in group]
    return ", ".join(word for word in parts[0] if all(word in other for other in parts[1:]))


def _picture(
    found: Sequence[Course], field: str, over: Over, what: str, start: Line | None, names: Sequence[str]
) -> Figure:
    level = headline(start, field) if start is not None else None
    labels = [c.name for c in found] + (["aligned"] if level is not None and level.value is not None else [])
    gutter = min(120.0, max(LETTER * len(name) for name in labels) + 16)
    left, top, right, bottom = box = (40.0, 36.0, WIDTH - gutter, HEIGHT - 44.0)
    places = sorted({where for course in found for where in course.at})
    rates = [rate for course in found for rate in course.rates] + ([level] if level is not None else [])
    low, high = (0.0, 100.0) if field != "utility" else drawing.span(rates)
    x = drawing.scale(places[0], places[-1], left + 12, right - 12)
    y = drawing.scale(low, high, bottom, top)
    scaled = 100 if over == "poison" else 1
    below = "poison, % of the user's rows" if over == "poison" else "rows in memory"
    body = [
        f'<text class="head" x="4" y="14">{text(what)}</text>' if what else "",
        f'<text class="axis" x="4" y="{29 if what else 22}">{TITLES[field]}{start_of(low)}</text>',
        *drawing.frame(x, y, box, [], drawing.ticks(low, high)),
        f'<text class="axis" text-anchor="middle" x="{at((left + right) / 2)}" y="{HEIGHT - 8}">{below}</text>',
    ]
    shown = float("-inf")
    for place in places:
        body.append(f'<path class="grid" d="M{at(x(place))} {at(top)}V{at(bottom)}"/>')
        if x(place) - shown > 24:
            shown = x(place)
            body.append(
                f'<text class="tick" text-anchor="middle" x="{at(shown)}" y="{at(bottom + 15)}">'
                f"{scaled * place:g}</text>"
            )
    ends = [y(course.rates[-1].value or 0.0) for course in found]
    if level is not None and level.value is not None:
        body.append(f'<path class="level aligned" d="M{at(left)} {at(y(level.value))}H{at(right)}"/>')
        ends.append(y(level.value))
    for i, course in enumerate(found):
        # Side by side, so that intervals at one place do not hide each other.
        aside = (i - (len(found) - 1) / 2) * min(4.0, 16 / len(found))
        body.append(_drawn(course, x, y, aside, drawing.colour(course.name, names)))
    stops = [x(course.at[-1]) + 7 for course in found] + [right]
    settled = drawing.spread(ends, top + LINE / 2, bottom - 2)
    for name, was, now, stop in zip(labels, ends, settled, stops, strict=False):
        quiet = " quiet" if name == "aligned" else ""
        if abs(was - now) > 3 or stop < right - 14:
            body.append(f'<path class="leader" d="M{at(stop)} {at(was)}L{at(right + 3)} {at(now)}"/>')
        body.append(f'<text class="label{quiet}" x="{at(right + 5)}" y="{at(now + 4)}">{text(name)}</text>')
    told = "; ".join(
        f"{course.name}: "
        + ", ".join(
            f"{scaled * where:g} → {drawing.told(rate)}" for where, rate in zip(course.at, course.rates, strict=True)
        )
        for course in found
    )
    title = f"{TITLES[field].removesuffix(', %')} over {'poison' if over == 'poison' else 'memory'}"
    return Figure(drawing.slug(f"{over} {field} {what}"), f"{title}{f': {what}' if what else ''}", told, body, HEIGHT)


def _drawn(course: Course, x: drawing.Scale, y: drawing.Scale, aside: float, kind: str) -> str:
    points = [(x(where) + aside, rate) for where, rate in zip(course.at, course.rates, strict=True)]
    path = "M" + "L".join(f"{at(px)} {at(y(rate.value or 0.0))}" for px, rate in points)
    errors = "".join(
        f"M{at(px)} {at(y(rate.low))}V{at(y(rate.high))}"
        for px, rate in points
        if rate.low is not None and rate.high is not None
    )
    marks = "".join(drawing.mark("tuned", course.name, px, y(rate.value or 0.0), r=3.4) for px, rate in points)
    return (
        f'<g class="{kind}"><title>{text(course.name)}</title><path class="error" d="{errors}"/>'
        f'<path class="course" d="{path}"/>{marks}</g>'
    )
