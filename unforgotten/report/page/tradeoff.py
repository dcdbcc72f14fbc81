"""What safety costs: attack success × utility with intervals, refusals as a ring, and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from unforgotten.evaluation.statistics.rates import Rate
from unforgotten.report.aggregate import Line, words
from unforgotten.report.page import drawing
from unforgotten.report.page.drawing import HEAD, LETTER, LINE, WIDTH, Box, Figure, at, cut, start_of, text
from unforgotten.report.page.panels import Cell, headline

HEIGHT = 366
PLOT: Box = (36, 38, 352, 304)
"""Where points stand."""
INSET = 12
"""Between the frame and 0 or 100, so that a mark at the end of a scale stands whole within it."""
CROWD = 8
"""Marks in one picture from which on they are drawn smaller."""
BESIDE = ((12, 0), (-12, 0), (12, -14), (12, 14), (-12, -14), (-12, 14), (0, -17), (0, 18))
"""Where a label may stand, from its mark."""
NEAR, ASIDE = 60, 14
"""Marks so near share a column of labels, which stands at least so far aside of them."""
Corner = tuple[float, ...]
"""What is wanted small: attack success, refusals where asked, and utility below 100."""


@dataclass(slots=True)
class Point:
    """One line of the table, as it stands in the picture."""

    line: Line
    asr: Rate
    utility: Rate
    refusal: Rate
    x: float = 0.0
    y: float = 0.0

    @property
    def box(self) -> Box:
        """What no label may cover."""
        return self.x - 9, self.y - 9, self.x + 9, self.y + 9


def front(corners: Sequence[Corner]) -> list[int]:
    """Which of them no other one beats: none is as small everywhere and smaller somewhere."""
    return [i for i, one in enumerate(corners) if not any(_beats(other, one) for other in corners)]


def _beats(one: Corner, other: Corner) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


def unbeaten(cell: Cell) -> list[Line]:
    """Methods that no other one equals in attack success, refusals and utility while better in one of them."""
    points = [p for p in _points(cell) if p.line.stage == "tuned"]
    return [points[i].line for i in front([_corner(p, True) for p in points])]


def scatter(cell: Cell, names: Sequence[str]) -> Figure | None:
    """The picture of one cell; None where attack success or utility was not measured."""
    points = _points(cell)
    if not any(p.line.stage == "tuned" for p in points):
        return None
    low, high = drawing.span([p.utility for p in points])
    left, top, right, bottom = PLOT
    x = drawing.scale(0, 100, left + INSET, right - INSET)
    y = drawing.scale(low, high, bottom - INSET, top + INSET)
    small = 0.78 if len(points) > CROWD else 1.0
    for p in points:
        p.x, p.y = x(p.asr.value or 0.0), y(p.utility.value or 0.0)
    best = {id(line) for line in unbeaten(cell)}
    xs = [0, 20, 40, 60, 80, 100]
    body = [
        f'<text class="head" x="4" y="14">{text(cut(cell.title, HEAD))}</text>',
        f'<text class="axis" x="4" y="29">↑ utility, %{start_of(low)}</text>',
        *drawing.frame(x, y, PLOT, xs, drawing.ticks(low, high)),
        f'<text class="axis" text-anchor="end" x="{right}" y="{bottom + 32}">← {words(cell.all).long}, %</text>',
        *_legend(bottom + 52, any(p.refusal.value is not None for p in points)),
        *_staircase([p for p in points if p.line.stage == "tuned"], PLOT),
    ]
    # Errors of all lie under the marks of all.
    for p in points:
        body.append(f'<g class="{_class(p.line, names)}">{_cross(p, x, y)}</g>')
    for p in points:
        kind, n = _class(p.line, names), p.line.name
        filled = id(p.line) in best or p.line.stage != "tuned"
        ring = "" if p.refusal.value is None else drawing.ring(p.x, p.y, p.refusal.value / 100, 8.5 * small)
        shape = drawing.mark(p.line.stage, n, p.x, p.y, filled, 4.5 * small)
        body.append(f'<g class="{kind}"><title>{text(_in_words(p))}</title>{ring}{shape}</g>')
    body += _labels(points)
    description = "; ".join(_in_words(p) for p in points)
    return Figure(drawing.slug(f"tradeoff {cell.title}"), f"What safety costs: {cell.title}", description, body, HEIGHT)


def _legend(y: float, refusals: bool) -> list[str]:
    items = [(drawing.mark("", "", 14, y - 4), "unbeaten"), (drawing.mark("", "", 96, y - 4, False), "beaten")]
    if refusals:
        items.append(
            (
                drawing.ring(162, y - 4, 0.3, 7) + drawing.mark("", "", 162, y - 4, r=2),
                "ring: share of look-alikes refused",
            )
        )
    places = (24, 106, 175)
    return [
        f'<g class="mx">{glyph}</g><text class="tick" x="{place}" y="{at(y)}">{words}</text>'
        for (glyph, words), place in zip(items, places, strict=False)
    ]


def _points(cell: Cell) -> list[Point]:
    points = [Point(a, headline(a, "asr"), headline(a, "utility"), headline(a, "refusal")) for a in cell.all]
    return [p for p in points if p.asr.value is not None and p.utility.value is not None]


def _corner(point: Point, refusals: bool) -> Corner:
    asr, utility = point.asr.value or 0.0, point.utility.value or 0.0
    # Where look-alikes were not asked of all, what a model refuses of them tells none from another.
    return (asr, 100 - utility, point.refusal.value or 0.0) if refusals else (asr, 100 - utility)


def _in_words(p: Point) -> str:
    refused = f", refusal {drawing.with_interval(p.refusal)}" if p.refusal.value is not None else ""
    asr = f"{words([p.line]).short} {drawing.with_interval(p.asr)}"
    return f"{p.line.name}: {asr}, utility {drawing.with_interval(p.utility)}{refused}"


def _class(line: Line, names: Sequence[str]) -> str:
    return line.stage if line.stage != "tuned" else drawing.colour(line.name, names)


def _cross(p: Point, x: drawing.Scale, y: drawing.Scale) -> str:
    ends = [p.asr.low, p.asr.high, p.utility.low, p.utility.high]
    a, b, c, d = (end if end is not None else 0.0 for end in ends)
    return f'<path class="error" d="M{at(x(a))} {at(p.y)}H{at(x(b))}M{at(p.x)} {at(y(c))}V{at(y(d))}"/>'


def _staircase(points: Sequence[Point], box: Box) -> list[str]:
    """Beyond this line, to the left and above, no method stands."""
    steps = sorted((points[i] for i in front([_corner(p, False) for p in points])), key=lambda p: (p.x, p.y))
    if len({(p.x, p.y) for p in steps}) < 2:
        return []
    path = f"M{at(steps[0].x)} {at(box[3])}V{at(steps[0].y)}"
    path += "".join(f"H{at(p.x)}V{at(p.y)}" for p in steps[1:])
    return [f'<path class="front" d="{path}H{at(box[2])}"/>']


# ── labels ──


def _labels(points: Sequence[Point]) -> list[str]:
    """Each beside its mark where there is room; the others in a column near them, with a thin line to the mark."""
    taken = [p.box for p in points]
    labels: list[str] = []
    left: list[Point] = []
    # Those with few neighbours first: they have the room, and the crowded ones then see what is left.
    near = {id(p): sum(math.hypot(p.x - q.x, p.y - q.y) < 40 for q in points) for p in points}
    for p in sorted(points, key=lambda p: near[id(p)]):
        if near[id(p)] > 4 or (room := _beside(p, taken)) is None:
            left.append(p)
            continue
        box, anchor, x = room
        taken.append(box)
        labels.append(_label(p, x, box[3] - 3, anchor))
    for group in _clusters(left):
        labels += _column(group, taken)
    return labels


def _label(p: Point, x: float, y: float, anchor: str) -> str:
    quiet = "" if p.line.stage == "tuned" else " quiet"
    return f'<text class="label{quiet}" text-anchor="{anchor}" x="{at(x)}" y="{at(y)}">{text(cut(p.line.name))}</text>'


def _beside(p: Point, taken: Sequence[Box]) -> tuple[Box, str, float] | None:
    wide = LETTER * len(cut(p.line.name))
    for dx, dy in BESIDE:
        anchor = "start" if dx > 0 else "end" if dx < 0 else "middle"
        x = p.x + dx
        start = x if dx > 0 else x - wide if dx < 0 else x - wide / 2
        box = (start, p.y + dy - LINE / 2, start + wide, p.y + dy + LINE / 2)
        inside = box[0] > PLOT[0] and box[2] < WIDTH - 2 and box[1] > PLOT[1] - 8 and box[3] < PLOT[3]
        if inside and not any(drawing.meet(box, other) for other in taken):
            return box, anchor, x
    return None


def _clusters(points: Sequence[Point]) -> list[list[Point]]:
    """Points that are near to one another, directly or by way of others."""
    groups: list[list[Point]] = []
    for p in points:
        near = [g for g in groups if any(math.hypot(p.x - q.x, p.y - q.y) < NEAR for q in g)]
        groups = [g for g in groups if g not in near] + [[p, *(q for g in near for q in g)]]
    return groups


def _column(points: Sequence[Point], taken: list[Box]) -> list[str]:
    """A column of labels where the lines to their marks are shortest; it is then taken."""
    ordered = sorted(points, key=lambda p: (p.y, p.x))
    wide, tall = max(LETTER * len(cut(p.line.name)) for p in ordered), LINE * len(ordered)
    left, right = min(p.x for p in ordered), max(p.x for p in ordered)
    best: tuple[float, Box] | None = None
    # Where no place is free (many models, one corner), the least covered one has to do.
    for x in range(int(PLOT[0]) + 6, max(int(PLOT[0]) + 7, int(WIDTH - 2 - wide)), 8):
        if x - right < ASIDE and left - x - wide < ASIDE:
            continue  # above or below the marks, every line would run through the labels
        for y in range(int(PLOT[1]), max(int(PLOT[1]) + 1, int(PLOT[3] - tall)), 8):
            box = (x - 6.0, float(y), x + wide, y + tall)
            covered = sum(drawing.meet(box, other) for other in taken)
            near = x if x > right else x + wide
            away = sum(math.hypot(near - p.x, y + LINE * (i + 0.5) - p.y) for i, p in enumerate(ordered))
            if best is None or 1e4 * covered + away < best[0]:
                best = (1e4 * covered + away, box)
    if best is None:
        return []
    box = best[1]
    taken.append(box)
    after = box[0] + 6 > right
    edge, gap = (box[0] + 6, -3) if after else (box[2], 3)
    lines, words = [], []
    for i, p in enumerate(ordered):
        height = box[1] + LINE * (i + 0.5)
        lines.append(f'<path class="leader" d="M{at(p.x)} {at(p.y)}L{at(edge + gap)} {at(height)}"/>')
        words.append(_label(p, edge, height + 4, "start" if after else "end"))
    return lines + words
