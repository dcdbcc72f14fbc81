"""Jinja's templates, which lie beside the code that fills them: `*.html.jinja` for the page, `*.md.jinja` for cards.

Whatever is filled in is harmless where it is shown: escaped in HTML, without mark-up, HTML or address in Markdown. Only
what this package wrote itself is `Markup` and stays as it is. A name that a template does not know is an error.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

from markupsafe import Markup

from unforgotten.runs import safe_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from jinja2 import Environment

_UNWRITABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def html(template: str, **values: object) -> Markup:
    """A part of a page. template: its path in the package, without `.html.jinja`."""
    return Markup(_environment("html").get_template(f"{template}.html.jinja").render(values))


def markdown(template: str, **values: object) -> str:
    """A card. template: its path in the package, without `.md.jinja`."""
    return _environment("md").get_template(f"{template}.md.jinja").render(values)


def shown(value: object) -> str:
    """A value as text that a page can hold: what is invisible or acts becomes a visible escape."""
    return _UNWRITABLE.sub("\N{REPLACEMENT CHARACTER}", safe_text.block(value))


def _plain(value: object) -> object:
    return value if isinstance(value, Markup) else shown(value)


def _line(value: object) -> object:
    return value if isinstance(value, Markup) else safe_text.markdown(value)


@cache
def _environment(kind: str) -> Environment:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    finalize: Callable[[object], object] = {"html": _plain, "md": _line}[kind]
    return Environment(
        loader=PackageLoader("unforgotten", ""), undefined=StrictUndefined, autoescape=kind == "html",
        finalize=finalize, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=kind == "md",
    )  # fmt: skip
