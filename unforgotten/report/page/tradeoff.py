"""What safety costs: attack success against utility with intervals, refusals as a ring, and the Pareto front."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from unforgotten.report.aggregate import Line, words
from unforgotten.report.page import drawing
from unforgotten.report.page.drawing import HEAD, LABEL, TICK, WIDTH, Figure, cut, start_of
from unforgotten.report.page.facets import Facet, headline
from unforgotten.report.page.palette import LIGHT
from unforgotten.runs.result_types import Rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.lines import Line2D

HEIGHT = 366.0
BOX = (36.0, 38.0, 352.0, 304.0)
"""Left, top, right and bottom of the axes."""
INSET = 12.0
"""Pixels between the frame and 0 or 100, so that a mark at the end of a scale stands inside the frame."""
CROWD = 8
"""From this many marks in one picture on, they are drawn smaller."""
MARK, RING = 9.0, 17.0
"""Diameters in pixels."""
NEAR = 16.0
"""Pixels from a mark within which its label needs no line to it."""
Corner = tuple[float, ...]
"""What should be small: attack success, 100 − utility, and refusals where they were asked."""


@dataclass(frozen=True, slots=True)
class Point:
    """One line of the table, as it stands in the picture."""

    line: Line
    asr: Rate
    utility: Rate
    refusal: Rate

    @property
    def place(self) -> tuple[float, float]:
        """Attack success and utility, in percent."""
        return self.asr.value or 0.0, self.utility.value or 0.0


def front(corners: Sequence[Corner]) -> list[int]:
    """Indices of the corners that no other beats: none is as small everywhere and smaller somewhere."""
    return [i for i, corner in enumerate(corners) if not any(_beats(other, corner) for other in corners)]


def _beats(one: Corner, other: Corner) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True)) and one != other


def unbeaten(facet: Facet) -> list[Line]:
    """Methods that no other equals in attack success, refusals and utility while it is better in one of them."""
    points = [p for p in _points(facet) if p.line.stage == "tuned"]
    return [points[i].line for i in front([_corner(p, True) for p in points])]


def scatter(facet: Facet, names: Sequence[str]) -> Figure | None:
    """The picture of one facet; None where attack success or utility was not measured.

    Parts by gid: `mark:I`, `error:I` and `ring:I` of the I-th point, `label:I`, and `front:0`.
    """
    points = _points(facet)
    if not any(p.line.stage == "tuned" for p in points):
        return None
    low, high = drawing.span([p.utility for p in points])
    with drawing.style():
        plot, axes = drawing.canvas(WIDTH, HEIGHT, BOX)
        drawing.write(plot, 4, 14, cut(facet.title, HEAD), "head")
        drawing.write(plot, 4, 29, f"↑ utility, %{start_of(low)}")
        drawing.write(plot, BOX[2], BOX[3] + 32, f"← {words(facet.all).long}, %", side="right")
        _scales(axes, low, high)
        _front(axes, [p for p in points if p.line.stage == "tuned"])
        best = {id(line) for line in unbeaten(facet)}
        for i, p in enumerate(points):
            _draw(axes, i, p, p.line.stage != "tuned" or id(p.line) in best, names, len(points) > CROWD)
        _label(axes, points, ["east", "west"] if len(points) > CROWD else ["east", "west", "south", "north"])
        _explain(axes, any(p.refusal.value is not None for p in points))
    tips = {f"mark:{i}": _in_words(p) for i, p in enumerate(points)}
    description = "; ".join(tips.values())
    name, title = drawing.slug(f"tradeoff {facet.title}"), f"What safety costs: {facet.title}"
    return Figure(name, title, description, plot, tips)


def _points(facet: Facet) -> list[Point]:
    points = [Point(a, headline(a, "asr"), headline(a, "utility"), headline(a, "refusal")) for a in facet.all]
    return [p for p in points if p.asr.value is not None and p.utility.value is not None]


def _corner(point: Point, refusals: bool) -> Corner:
    asr, utility = point.place
    # Where look-alikes were not asked of all, what a model refuses of them tells none from another.
    return (asr, 100 - utility, point.refusal.value or 0.0) if refusals else (asr, 100 - utility)


def _in_words(p: Point) -> str:
    refused = f", refusal {drawing.with_interval(p.refusal)}" if p.refusal.value is not None else ""
    asr = f"{words([p.line]).short} {drawing.with_interval(p.asr)}"
    return f"{p.line.name}: {asr}, utility {drawing.with_interval(p.utility)}{refused}"


# ── its parts ──


def _scales(axes: Axes, low: float, high: float) -> None:
    beyond = INSET / (BOX[2] - BOX[0] - 2 * INSET), INSET / (BOX[3] - BOX[1] - 2 * INSET)
    axes.set_xlim(-100 * beyond[0], 100 + 100 * beyond[0])
    axes.set_ylim(low - (high - low) * beyond[1], high + (high - low) * beyond[1])
    axes.set_xticks([0, 20, 40, 60, 80, 100])
    axes.set_yticks(drawing.ticks(low, high))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.grid(True)


def _draw(axes: Axes, i: int, p: Point, filled: bool, names: Sequence[str], crowded: bool) -> None:
    """Interval, ring and mark of a point."""
    x, y = p.place
    colour, shape = drawing.look(p.line.stage, p.line.name, names)
    small = 0.78 if crowded else 1.0
    faint: dict[str, Any] = {"colors": colour, "linewidth": 1.1, "alpha": 0.55, "gid": f"error:{i}"}
    axes.hlines(y, p.asr.low or 0.0, p.asr.high or 0.0, **faint)
    axes.vlines(x, p.utility.low or 0.0, p.utility.high or 0.0, **faint)
    if p.refusal.value is not None:
        _ring(axes, i, p, RING * small, colour)
    [mark] = axes.plot([x], [y], gid=f"mark:{i}", zorder=4)
    _shape(mark, shape, MARK * small, colour, filled)


def _shape(mark: Line2D, shape: str, size: float, colour: str, filled: bool = True) -> None:
    mark.set(marker=shape, markersize=size, color=colour, linestyle="none", markeredgewidth=1.6)
    mark.set_markerfacecolor(colour if filled else LIGHT["ground"])


def _ring(axes: Axes, i: int, p: Point, size: float, colour: str) -> None:
    """A faint ring, and the share of refusals of it full: an arc from 12 o'clock, clockwise."""
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path
    from matplotlib.transforms import Affine2D, ScaledTranslation

    share = (p.refusal.value or 0.0) / 100
    radius = Affine2D().scale(size / 2 / 72) + axes.figure.dpi_scale_trans
    around = radius + ScaledTranslation(*p.place, cast(Any, axes.transData))
    for part, path, width, alpha in (
        ("track", Path.unit_circle(), 1.0, 0.3),
        ("ring", Path.arc(90 - 360 * share, 90) if share < 1 else Path.unit_circle(), 2.4, 0.8),
    ):
        if part == "track" or share > 0:
            patch = PathPatch(path, transform=around, fill=False, ec=colour, lw=width, alpha=alpha, gid=f"{part}:{i}")
            axes.add_artist(patch)
            patch.set_zorder(3)


def _front(axes: Axes, points: Sequence[Point]) -> None:
    """No method stands beyond this line, to the left and above."""
    steps = sorted({points[i].place for i in front([_corner(p, False) for p in points])})
    if len(steps) > 1:
        xs = [steps[0][0], *(x for x, _ in steps), axes.get_xlim()[1]]
        ys = [axes.get_ylim()[0], *(y for _, y in steps), steps[-1][1]]
        axes.plot(
            xs, ys, drawstyle="steps-post", color=LIGHT["ink"], linewidth=1.2, alpha=0.75, gid="front:0",
            linestyle=(0, (1, 2.5)), dash_capstyle="round", zorder=1.5,
        )  # fmt: skip


def _label(axes: Axes, points: Sequence[Point], sides: list[str]) -> None:
    """Each name near its mark, where it covers no other name or mark, with a thin line where it is further away.

    sides: of the mark, the better ones first. In a crowd, lines straight up and down would cover one another."""
    import textalloc

    ordered = sorted(enumerate(points), key=lambda pair: -pair[1].place[1])
    xs, ys = zip(*(p.place for _, p in ordered), strict=True)
    colours = [LIGHT["ink" if p.line.stage == "tuned" else "soft"] for _, p in ordered]
    ground = {"boxstyle": "square,pad=0.05", "facecolor": LIGHT["ground"], "edgecolor": "none", "alpha": 0.8}
    places, _, labels, lines = textalloc.allocate(
        axes, xs, ys, [cut(p.line.name) for _, p in ordered], x_scatter=xs, y_scatter=ys, va="bottom", zorder=5,
        scatter_sizes=[RING / 2] * len(xs), text_scatter_sizes=[RING / 2 + 1] * len(xs), textsize=LABEL,
        textcolor=colours, linecolor=LIGHT["soft"], linewidth=0.7, direction=sides,
        min_distance=0.006, max_distance=0.8, margin=0.003, nbr_candidates=800, avoid_crossing_label_lines=True,
        bbox=ground, plot_kwargs={"alpha": 0.7, "zorder": 2},
    )  # fmt: skip
    for (i, p), place, label, line in zip(ordered, places, labels, lines, strict=True):
        if line is not None and math.dist(*axes.transData.transform(line.get_xydata())) < NEAR:
            line.remove()
        if place is None:  # no room at all: a name that covers another is better than none
            label = axes.text(*p.place, cut(p.line.name), va="bottom")
        label.set_gid(f"label:{i}")


def _explain(axes: Axes, refusals: bool) -> None:
    """The legend of what marks and rings mean; names stand beside the marks."""
    from matplotlib.legend_handler import HandlerTuple
    from matplotlib.lines import Line2D
    from matplotlib.path import Path

    grey = LIGHT["soft"]
    marks = [Line2D([], []) for _ in range(3)]
    for mark, size, filled in zip(marks, (MARK, MARK, 4.0), (True, False, True), strict=True):
        _shape(mark, "o", size, grey, filled)
    track = Line2D([], [], marker="o", markersize=14, markeredgewidth=1, alpha=0.3)
    ring = Line2D([], [], marker=Path.arc(-18, 90), markersize=14, markeredgewidth=2.4, alpha=0.8)
    for circle in (track, ring):
        circle.set(markeredgecolor=grey, markerfacecolor="none", linestyle="none")
    handles: list[Any] = [marks[0], marks[1], *([(track, ring, marks[2])] if refusals else [])]
    axes.figure.legend(
        handles, ["unbeaten", "beaten", "ring: share of look-alikes refused"][: len(handles)],
        handler_map={tuple: HandlerTuple(ndivide=1)}, loc="lower left", bbox_to_anchor=(0, 0), ncols=3,
        fontsize=TICK, labelcolor=LIGHT["soft"], handlelength=1, handletextpad=0.4, columnspacing=1, borderpad=0.3,
    )  # fmt: skip
