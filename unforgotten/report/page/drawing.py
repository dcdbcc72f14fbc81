"""The pieces of a figure, as SVG text: scales, ticks, marks, and labels that keep out of each other's way.

Units are CSS pixels of a panel 360 wide, which is what a phone shows: no text shrinks there. Colours are classes of
figure.css, which a figure's own file carries along.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources

from unforgotten.evaluation.statistics.rates import Rate
from unforgotten.runs import console

WIDTH = 360
LINE = 13.5
"""Between the baselines of two labels."""
LETTER = 7.0
"""About the width of a letter of a label, which nothing here can measure; rather too much than too little."""
LONGEST = 24
"""Letters of a name beside its mark; a panel is about twice as wide."""
HEAD = 46
"""Letters of a panel's heading."""
COLOURS = 6
"""Methods that have a colour of their own, after sft; labels name all of them, so that no colour has to be told."""

_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

Scale = Callable[[float], float]
Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One picture: a panel of a page, and a file of its own."""

    name: str
    """Of its file, without suffix."""
    title: str
    description: str
    """What it shows, for one who cannot see it."""
    body: Sequence[str]
    height: float
    width: float = WIDTH

    def svg(self, alone: bool = False) -> str:
        """The element; with its colours and a ground where it is `alone` in a file."""
        head = f'viewBox="0 0 {at(self.width)} {at(self.height)}" width="{at(self.width)}" height="{at(self.height)}"'
        own, ground = "", ""
        if alone:
            # The name of the language, not an address: nothing is fetched.
            head = f'xmlns="http://www.w3.org/2000/svg" {head}'
            own = f"<style>{css('figure.css')}</style>"
            ground = f'<rect class="ground" width="{at(self.width)}" height="{at(self.height)}"/>'
        label = f'role="img" aria-labelledby="{self.name}-t {self.name}-d"'
        words = (
            f'<title id="{self.name}-t">{text(self.title)}</title>'
            f'<desc id="{self.name}-d">{text(self.description)}</desc>'
        )
        return "\n".join([f'<svg class="figure" {head} {label}>', own + words + ground, *self.body, "</svg>"])


def css(name: str) -> str:
    """A style sheet of this room."""
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def text(words: object) -> str:
    """Anyone's words as text of a page or a picture: no mark-up comes of them, nor what XML cannot hold."""
    return html.escape(_UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", console.block(words)), quote=True)


def cut(words: object, most: int = LONGEST) -> str:
    """A name as a picture has room for it, on one line; the picture's own words for the blind have it whole."""
    plain = " ".join(console.line(words).split())
    room, fits = float(most), 0
    for letter in plain:
        wide = letter in "mwMWQO@%" or unicodedata.east_asian_width(letter) in "WF"
        room -= 1.7 if wide else 1.15 if letter.isupper() else 1.0
        if room < 0:
            return f"{plain[: max(1, fits - 1)]}…"
        fits += 1
    return plain


def at(number: float) -> str:
    """A coordinate: a tenth of a pixel is enough."""
    return f"{round(number, 1) + 0.0:.1f}".removesuffix(".0")


def slug(words: str) -> str:
    """A name that a file and an id may bear."""
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") or "all"


def scale(low: float, high: float, start: float, end: float) -> Scale:
    """Linear, from values to pixels."""
    return lambda value: start + (value - low) / (high - low) * (end - start)


def ticks(low: float, high: float) -> list[float]:
    """Five to seven round values."""
    step = next(s for s in (5, 10, 20, 25, 50) if (high - low) / s <= 6)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def span(rates: Sequence[Rate]) -> tuple[float, float]:
    """Whole tens about all the intervals, no fewer than twenty points, between 0 and 100."""
    lows, highs = [r.low for r in rates if r.low is not None], [r.high for r in rates if r.high is not None]
    low = 10.0 * math.floor(min(lows, default=0) / 10)
    high = 10.0 * math.ceil(max(highs, default=100) / 10)
    while high - low < 20:
        high, low = min(100.0, high + 10), max(0.0, low - 10)
    return low, high


def start_of(low: float) -> str:
    """Says so where an axis does not start at 0."""
    return "" if low == 0 else f" (from {low:g})"


def short(value: float | None) -> str:
    """A percentage as tables have it."""
    return "?" if value is None else "100" if value > 99.95 else f"{value:.1f}"


def with_interval(rate: Rate) -> str:
    """A value with its interval."""
    return f"{short(rate.value)} ({short(rate.low)} to {short(rate.high)})" if rate.low is not None else "not measured"


def frame(x: Scale, y: Scale, box: Box, xs: Sequence[float], ys: Sequence[float]) -> list[str]:
    """Hair lines at the ticks, and their figures."""
    left, top, right, bottom = box
    made = [f'<path class="grid" d="M{at(left)} {at(y(v))}H{at(right)}"/>' for v in ys]
    made += [f'<path class="grid" d="M{at(x(v))} {at(top)}V{at(bottom)}"/>' for v in xs]
    made += [f'<text class="tick" text-anchor="end" x="{at(left - 6)}" y="{at(y(v) + 4)}">{v:g}</text>' for v in ys]
    made += [f'<text class="tick" text-anchor="middle" x="{at(x(v))}" y="{at(bottom + 15)}">{v:g}</text>' for v in xs]
    return made


def colour(name: str, names: Sequence[str]) -> str:
    """The class of a method's colour, the same all over the page."""
    others = [n for n in names if n != "sft"]
    if name == "sft":
        return "sft"
    return f"m{others.index(name)}" if name in others[:COLOURS] else "mx"


def mark(stage: str, name: str, x: float, y: float, filled: bool = True, r: float = 4.5) -> str:
    """Base a square, aligned a diamond, sft a triangle, methods discs: told apart without colours."""
    full = "full" if filled else "open"
    if stage == "base":
        return f'<rect class="mark {full}" x="{at(x - r)}" y="{at(y - r)}" width="{at(2 * r)}" height="{at(2 * r)}"/>'
    if stage == "aligned":
        s = r * 1.3
        d = f"M{at(x)} {at(y - s)}L{at(x + s)} {at(y)}L{at(x)} {at(y + s)}L{at(x - s)} {at(y)}Z"
        return f'<path class="mark {full}" d="{d}"/>'
    if name == "sft":
        d = f"M{at(x)} {at(y - 1.2 * r)}L{at(x + 1.15 * r)} {at(y + r)}H{at(x - 1.15 * r)}Z"
        return f'<path class="mark {full}" d="{d}"/>'
    return f'<circle class="mark {full}" cx="{at(x)}" cy="{at(y)}" r="{at(r)}"/>'


def ring(x: float, y: float, share: float, r: float = 8.5) -> str:
    """A faint ring, and `share` (0 to 1) of it full: an arc from 12 o'clock, clockwise."""
    track = f'<circle class="track" cx="{at(x)}" cy="{at(y)}" r="{at(r)}"/>'
    if share >= 0.9995:
        return track.replace("track", "ring")
    if share <= 0:
        return track
    angle = 2 * math.pi * share
    end = f"{at(x + r * math.sin(angle))} {at(y - r * math.cos(angle))}"
    return f'{track}<path class="ring" d="M{at(x)} {at(y - r)}A{at(r)} {at(r)} 0 {int(share > 0.5)} 1 {end}"/>'


def spread(wanted: Sequence[float], low: float, high: float, gap: float = LINE) -> list[float]:
    """Places as near to the wanted ones as may be, in their order, `gap` apart, between low and high."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    groups: list[tuple[float, int]] = []  # first place of a group, and how many stand in it
    for i in order:
        place, many = wanted[i], 1
        while groups and groups[-1][0] + groups[-1][1] * gap > place:
            before, n = groups.pop()
            # Two groups that meet settle where their members' wishes average out.
            place, many = (before * n + (place - n * gap) * many) / (n + many), n + many
        groups.append((place, many))
    settled = [first + k * gap for first, many in groups for k in range(many)]
    for k in range(len(settled)):
        settled[k] = max(settled[k], low if k == 0 else settled[k - 1] + gap)
    if settled and settled[-1] > high:
        for k in reversed(range(len(settled))):
            settled[k] = min(settled[k], high if k == len(settled) - 1 else settled[k + 1] - gap)
    places = [0.0] * len(wanted)
    for i, place in zip(order, settled, strict=True):
        places[i] = place
    return places


def meet(one: Box, other: Box) -> bool:
    """Whether two boxes have a point in common."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
