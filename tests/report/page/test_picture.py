"""Figures as PNG, by a renderer that is no browser: in colour, with their words, and refused where it is not there."""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.report.page.conftest import STORY
from unforgotten.errors import UnsupportedError
from unforgotten.report.page import picture
from unforgotten.report.page.drawing import Figure
from unforgotten.report.page.page import page

Make = Callable[..., Path]


def pixels(data: bytes) -> tuple[int, int, list[bytes]]:
    """Width, height and the pixels (RGBA) of a PNG, decoded by its own rules."""
    width, height, depth, kind = struct.unpack(">IIBB", data[16:26])
    assert data[:8] == b"\x89PNG\r\n\x1a\n" and (depth, kind) == (8, 6)
    at, packed = 8, b""
    while at < len(data):
        size, name = struct.unpack(">I4s", data[at : at + 8])
        packed += data[at + 8 : at + 8 + size] if name == b"IDAT" else b""
        at += 12 + size
    raw, before, found = zlib.decompress(packed), bytearray(4 * width), list[bytes]()
    for row in range(height):
        start = row * (4 * width + 1)
        how, line = raw[start], bytearray(raw[start + 1 : start + 1 + 4 * width])
        for i in range(4 * width):
            a, b, c = (line[i - 4] if i >= 4 else 0), before[i], (before[i - 4] if i >= 4 else 0)
            nearest = min((a, b, c), key=lambda v: abs(a + b - c - v))
            line[i] = (line[i] + (0, a, b, (a + b) // 2, nearest)[how]) & 255
        found += [bytes(line[i : i + 4]) for i in range(0, 4 * width, 4)]
        before = line
    return width, height, found


def test_a_picture_has_its_ground_its_colours_and_its_words() -> None:
    pytest.importorskip("resvg_py")
    mark = '<g class="m0"><rect class="mark full" x="10" y="10" width="8" height="8"/></g>'
    word = '<text class="label" x="2" y="35">words</text>'
    width, height, found = pixels(picture.png(Figure("one", "t", "d", [mark, word], 40, 60)))
    assert (width, height) == (120, 80), "twice the size"
    assert found[0] == bytes.fromhex("fbfaf6ff") and found[28 * 120 + 28] == bytes.fromhex("0067a8ff")
    dark = [i for i, p in enumerate(found) if max(p[:3]) < 80]
    assert dark and min(dark) // 120 > 45, "the word, and where it should be"


def test_a_report_leaves_png_beside_svg_where_asked(comparison: Make) -> None:
    pytest.importorskip("resvg_py")
    folder = comparison(STORY)
    out = page(folder, png=True)
    figures = out.parent / "figures"
    assert {f.stem for f in figures.glob("*.svg")} == {f.stem for f in figures.glob("*.png")} != set()
    page(folder)
    assert not list(figures.glob("*.png")), "those of before may show other figures"


def test_nothing_is_left_that_renderers_do_not_know() -> None:
    text = picture.flat(Figure("one", "t", "d", [], 40, 60).svg(alone=True))
    assert "var(" not in text and "--" not in text and "@media" not in text and ".ground{fill:#fbfaf6}" in text
    assert text.count("{") == text.count("}")


def test_without_the_renderer_it_says_what_to_install(comparison: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resvg_py", None)
    folder = comparison({**STORY})
    with pytest.raises(UnsupportedError, match=r"unforgotten\[png\]"):
        page(folder, png=True)
    assert not (folder / "figures").exists(), "and it says so before anything is written"


def test_a_font_that_is_not_there_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("resvg_py")
    monkeypatch.setattr(picture, "_WORD", '<text y="8" style="font-family:\'No Such Font\';font-size:9px">M</text>')
    with pytest.raises(UnsupportedError, match="finds none of these fonts"):
        picture.check()
