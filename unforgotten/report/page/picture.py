"""A figure as PNG, for where SVG does not go: slides, issues, word processors. Light, twice the size, no browser."""

from __future__ import annotations

import re

from unforgotten.errors import UnsupportedError
from unforgotten.report.page.drawing import Figure

INSTALL = "pip install 'unforgotten[png]'"
ZOOM = 2.0
"""Pixels to a CSS pixel, as on a good screen."""


FONTS = (
    *("Segoe UI", "Roboto", "Helvetica Neue", "Helvetica", "Arial", "Liberation Sans", "Noto Sans", "Open Sans"),
    *("Ubuntu", "Cantarell", "DejaVu Sans", "FreeSans"),
)
"""Looked for by name, one after another: the renderer does not know what a system takes for sans-serif."""


def check() -> None:
    """Raises UnsupportedError where the renderer is not installed, or finds no font to write with."""
    try:
        import resvg_py  # noqa: F401
    except ImportError:
        raise UnsupportedError(f"--png needs resvg_py, which is not installed: {INSTALL}.") from None
    word, nothing = (_drawn(f'<svg xmlns="{_SVG}" width="9" height="9">{content}</svg>') for content in (_WORD, ""))
    if word == nothing:
        raise UnsupportedError(f"--png finds none of these fonts, so it could write nothing: {', '.join(FONTS)}.")


_SVG = "http://www.w3.org/2000/svg"
_FAMILY = "font-family:" + ",".join(f"'{font}'" for font in FONTS) + ",sans-serif"
_WORD = f'<text y="8" style="{_FAMILY};font-size:9px">M</text>'


def png(figure: Figure) -> bytes:
    """The picture's bytes, with this machine's fonts."""
    return _drawn(flat(figure.svg(alone=True)))


def _drawn(svg: str) -> bytes:
    import resvg_py

    return bytes(resvg_py.svg_to_bytes(svg_string=svg, zoom=ZOOM))


def flat(svg: str) -> str:
    """The same in light colours, without what renderers do not know: custom properties, media queries, system-ui."""
    svg = re.sub(r"@media[^{]*\{(?:[^{}]*\{[^{}]*\})*[^{}]*\}", "", svg)
    named = dict(re.findall(r"(--[\w-]+):([^;}]+)", svg))
    svg = re.sub(r"--[\w-]+:[^;}]+;?", "", svg)
    svg = re.sub(r"font-family:[^;}]+", _FAMILY, svg)
    return re.sub(r"var\((--[\w-]+)\)", lambda match: named[match[1]], svg)
