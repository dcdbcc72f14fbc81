"""Figures as PNG and PDF: in colour, with their words, and left beside the page where asked."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from tests.report.page.conftest import STORY, simple
from unforgotten.report.page import tradeoff
from unforgotten.report.page.drawing import Figure
from unforgotten.report.page.facets import facets
from unforgotten.report.page.page import page

Make = Callable[..., Path]


def figure() -> Figure:
    [facet] = facets([simple("sft", 50, 100), simple("der", 20, 40)])
    drawn = tradeoff.scatter(facet, ["sft", "der"])
    assert drawn is not None
    return drawn


def test_a_png_has_its_ground_its_colours_and_its_words() -> None:
    image = Image.open(io.BytesIO(figure().png())).convert("RGB")
    assert image.size == (720, 732), "twice the size"
    assert image.getpixel((0, 0)) == (0xFB, 0xFA, 0xF6)
    # der: 20 % from the left, 40 % from below, of axes whose 0 and 100 stand at 48 and 340, and at 292 and 50.
    low, high = 30, 100  # utility: tens around 31 (Wilson of 40 in 100) and 100
    x, y = 48 + 0.2 * 292, 292 - (40 - low) / (high - low) * 242
    assert image.getpixel((round(2 * x), round(2 * y))) == (0x00, 0x67, 0xA8)
    heading = image.crop((8, 8, 200, 30))
    assert heading.convert("L").getextrema()[0] < 60, "the heading is written"


def test_a_pdf_is_one_page_of_the_same_size() -> None:
    data = figure().pdf()
    assert data.startswith(b"%PDF-") and data.count(b"/MediaBox") == 1 and b"/MediaBox [ 0 0 360 366 ]" in data


def test_a_report_leaves_png_and_pdf_beside_svg_where_asked(comparison: Make) -> None:
    folder = comparison(STORY)
    out = page(folder, png=True, pdf=True)
    figures = out.parent / "figures"
    drawn = {f.stem for f in figures.glob("*.svg")}
    assert drawn == {f.stem for f in figures.glob("*.png")} == {f.stem for f in figures.glob("*.pdf")} != set()
    page(folder)
    assert not [*figures.glob("*.png"), *figures.glob("*.pdf")], "those of before may show other figures"


def test_a_users_matplotlibrc_changes_nothing_and_stays_as_it_was() -> None:
    import matplotlib

    plain = figure().svg()
    with matplotlib.rc_context({"font.size": 30, "axes.grid": True, "svg.fonttype": "path", "lines.linewidth": 9}):
        assert figure().svg() == plain
        assert matplotlib.rcParams["font.size"] == 30


def test_letters_that_no_font_has_make_no_warning(recwarn: pytest.WarningsRecorder) -> None:
    [facet] = facets([simple("sft", 50, 100), simple("\u4e16\u754c\U0001fae8", 20, 40)])
    drawn = tradeoff.scatter(facet, ["sft", "\u4e16\u754c\U0001fae8"])
    assert drawn is not None and drawn.png() and "\u4e16\u754c" in drawn.svg() and not recwarn.list


def test_matplotlib_is_loaded_only_where_something_is_drawn() -> None:
    import subprocess

    code = "import sys; from unforgotten.report.page import page; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
