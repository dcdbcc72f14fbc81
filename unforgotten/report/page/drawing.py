"""What all figures share: matplotlib's style, one colour and mark for each method, and the figure as SVG, PNG and PDF.

Units are CSS pixels of a panel 360 wide, which is what a phone shows. A figure is drawn at 72 dots per inch, so that
one of matplotlib's points is one pixel.
"""

from __future__ import annotations

import io
import math
import re
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from unforgotten.report.page import svg
from unforgotten.report.page.palette import LIGHT, METHODS
from unforgotten.runs import safe_text
from unforgotten.runs.result_types import Rate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Plot

WIDTH = 360.0
LETTER = 7.0
"""About the width of a label's letter in the reader's font, which nothing here can measure."""
LONGEST = 24
"""Letters of a name beside its mark."""
HEAD = 46
"""Letters of a figure's heading."""
LABEL, TICK = 11.5, 11.0
"""Font sizes."""
ZOOM = 2
"""Pixels of a PNG to a CSS pixel, as on a good screen."""
SHAPES = ("o", "v", "P", "X", "d", "p", "h", "8")
"""Marks of the methods: the next one where all colours are taken, so that colour and mark together are unique."""
FONTS = ("DejaVu Sans", "Noto Sans CJK SC", "Noto Sans CJK JP", "WenQuanYi Zen Hei", "Noto Sans", "Segoe UI Symbol")
"""matplotlib brings the first. The others write what it cannot, where they are installed."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One picture: a panel of a page, and a file of its own."""

    name: str
    """Of its file, without suffix."""
    title: str
    description: str
    """What it shows, for one who cannot see it."""
    plot: Plot
    tips: Mapping[str, str] = field(default_factory=dict)
    """What a pointer shows over a part of the figure, by the part's gid."""

    @property
    def width(self) -> float:
        """In CSS pixels."""
        return float(72 * self.plot.get_figwidth())

    def svg(self, alone: bool = False) -> str:
        """The element for a page, or a whole file where it is `alone`. The same bytes each time."""
        return svg.element(self._saved("svg").decode(), self.name, self.title, self.description, self.tips, alone)

    def png(self) -> bytes:
        """In the light colours, twice the size."""
        return self._saved("png", dpi=72 * ZOOM)

    def pdf(self) -> bytes:
        """In the light colours, with its fonts."""
        return self._saved("pdf")

    def _saved(self, kind: str, dpi: int = 72) -> bytes:
        # Without dates and versions, so that the same results give the same bytes.
        unsaid = {"svg": "Date", "png": "Software", "pdf": "CreationDate"}[kind]
        out = io.BytesIO()
        with style():
            self.plot.savefig(out, format=kind, dpi=dpi, metadata={unsaid: None})
        return out.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """matplotlib as figures here need it, whatever a user's matplotlibrc says."""
    import matplotlib
    from matplotlib import font_manager

    installed = {entry.name for entry in font_manager.fontManager.ttflist}
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # letters that no font has: they become boxes
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {
                "svg.fonttype": "none",
                "svg.hashsalt": "unforgotten",
                "pdf.fonttype": 42,
                "text.parse_math": False,  # a dollar sign in a name is a dollar sign
                "font.family": [name for name in FONTS if name in installed],
                "font.size": LABEL,
                "text.color": LIGHT["ink"],
                "figure.facecolor": LIGHT["ground"],
                "axes.facecolor": "none",
                "axes.axisbelow": True,
                "grid.color": LIGHT["hair"],
                "grid.linewidth": 1,
                "legend.frameon": False,
            }
        )
        yield


def canvas(width: float, height: float, box: tuple[float, float, float, float]) -> tuple[Plot, Axes]:
    """An empty figure, and axes without a frame in it. box: left, top, right and bottom of the axes, from the top left
    corner. To be called in `style()`."""
    plot = empty(width, height)
    return plot, panel(plot, box)


def empty(width: float, height: float) -> Plot:
    """A figure of this size, for several panels. To be called in `style()`."""
    from matplotlib.figure import Figure as Plot

    return Plot(figsize=(width / 72, height / 72), dpi=72)


def panel(plot: Plot, box: tuple[float, float, float, float]) -> Axes:
    """Axes without a frame in a figure, placed as `canvas` places its own."""
    left, top, right, bottom = box
    width, height = 72 * plot.get_figwidth(), 72 * plot.get_figheight()
    axes: Axes = plot.add_axes((left / width, 1 - bottom / height, (right - left) / width, (bottom - top) / height))
    axes.spines[:].set_visible(False)
    axes.tick_params(bottom=False, left=False, labelcolor=LIGHT["soft"], labelsize=TICK, pad=5)
    return axes


def write(plot: Plot, x: float, y: float, words: str, kind: str = "axis", side: str = "left") -> None:
    """Words at a place of the figure, from its top left corner. kind: head, or axis. side: of the words, at x."""
    look: dict[str, Any] = (
        {"size": 12.5, "weight": "bold"} if kind == "head" else {"size": LABEL, "color": LIGHT["soft"]}
    )
    plot.text(x / (72 * plot.get_figwidth()), 1 - y / (72 * plot.get_figheight()), words, ha=side, **look)


def text(words: object) -> str:
    """Anyone's words as text of a page or a picture: no mark-up comes of them, nor what XML cannot hold."""
    return svg.text(words)


def cut(words: object, most: int = LONGEST) -> str:
    """A name as a picture has room for it, on one line; the picture's description has all of it."""
    plain = " ".join(safe_text.line(words).split())
    room, fits = float(most), 0
    for letter in plain:
        wide = letter in "mwMWQO@%" or unicodedata.east_asian_width(letter) in "WF"
        room -= 1.7 if wide else 1.15 if letter.isupper() else 1.0
        if room < 0:
            return f"{plain[: max(1, fits - 1)]}…"
        fits += 1
    return plain


def slug(words: str) -> str:
    """A name that a file and an id may bear."""
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-") or "all"


def ticks(low: float, high: float) -> list[float]:
    """Five to seven round values."""
    step = next(s for s in (5, 10, 20, 25, 50) if (high - low) / s <= 6)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def span(rates: Sequence[Rate]) -> tuple[float, float]:
    """Multiples of ten around all intervals, at least twenty points apart, between 0 and 100."""
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


def look(stage: str, name: str, names: Sequence[str]) -> tuple[str, str]:
    """Colour and mark of a model, the same in every figure of a page. names: of all methods.

    base is a square, aligned a diamond, sft a triangle. Other methods have a colour and a shape that no other has.
    """
    if stage in ("base", "aligned"):
        return LIGHT["soft"], {"base": "s", "aligned": "D"}[stage]
    if name == "sft":
        return LIGHT["sft"], "^"
    place = [other for other in names if other != "sft"].index(name)
    return LIGHT[METHODS[place % len(METHODS)]], SHAPES[place // len(METHODS) % len(SHAPES)]
