"""matplotlib's SVG as a page may hold it: no style attributes, which the page's policy forbids, and no references.

Every fill and stroke stays a light colour that any renderer knows, and has a class beside it, which the style sheet of
`palette` makes dark on a dark screen. A screen reader finds a title and a description, a pointer the tips.
"""

from __future__ import annotations

import html
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping

from unforgotten.report.page.palette import NAMES, sheet
from unforgotten.report.templates import shown

_SVG, _LINK = "{http://www.w3.org/2000/svg}", "{http://www.w3.org/1999/xlink}href"
_FONTS = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',sans-serif"
_UNUSED = ("id", "clip-path", "style", "transform", _LINK)


def text(words: object) -> str:
    """Anyone's words as text of HTML or SVG: no mark-up comes of them, nor what XML cannot hold."""
    return html.escape(shown(words))


def element(drawn: str, name: str, title: str, description: str, tips: Mapping[str, str], alone: bool) -> str:
    """The `svg` element. drawn: matplotlib's file. tips: words of a part by its gid, `KIND:NUMBER`; KIND becomes a
    class. alone: in a file of its own, which has its style sheet with it."""
    root = ET.fromstring(drawn)
    _, _, width, height = (float(number) for number in root.get("viewBox", "").split())
    shapes = {shape.get("id", ""): shape for shape in root.iter(f"{_SVG}path")}
    body = "".join(_written(child, shapes, tips) for child in root if child.tag == f"{_SVG}g")
    used = [name for colour, name in NAMES.items() if colour in body]
    # The name of the language, not an address: nothing is fetched.
    space = 'xmlns="http://www.w3.org/2000/svg" ' if alone else ""
    return (
        f'<svg {space}class="figure" viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" '
        f'font-family="{_FONTS}" stroke-linejoin="round" role="img" aria-labelledby="{name}-t {name}-d">\n'
        f"{f'<style>{sheet(used)}</style>' if alone else ''}"
        f'<title id="{name}-t">{text(title)}</title><desc id="{name}-d">{text(description)}</desc>\n'
        f"{body}</svg>"
    )


def _written(node: ET.Element, shapes: Mapping[str, ET.Element], tips: Mapping[str, str]) -> str:
    tag = node.tag.removeprefix(_SVG)
    if tag == "defs":
        return ""
    look = _looks(node)
    if tag == "use":  # a mark: its shape, at its place
        shape = shapes[node.get(_LINK, "").removeprefix("#")]
        look |= {"d": shape.get("d", ""), "transform": f"translate({node.get('x', '0')} {node.get('y', '0')})"}
        tag = "path"
    elif (turn := node.get("transform", "")) and not turn.startswith("rotate(-0 "):
        look["transform"] = turn
    look |= {key: value for key, value in node.attrib.items() if key not in (*_UNUSED, "x", "y")}
    if tag == "text":
        look |= {"x": node.get("x", ""), "y": node.get("y", "")}
    gid = node.get("id", "")
    if tag == "g" and ":" in gid:
        look["class"] = gid.partition(":")[0]
    tip = f"<title>{text(tips[gid])}</title>" if gid in tips else ""
    inside = tip + (text(node.text) if tag == "text" else "".join(_written(each, shapes, tips) for each in node))
    if tag == "g" and (not look or not inside):
        return inside
    written = "".join(f' {key}="{_rounded(value) if key in _PLACES else text(value)}"' for key, value in look.items())
    end = f">{inside}</{tag}>" if inside else "/>"
    return f"<{tag}{written}{end}" + ("\n" if tag != "title" else "")


_PLACES = ("d", "x", "y", "transform")
_NUMBER = re.compile(r"-?\d+\.\d+")


def _rounded(places: str) -> str:
    """To a twentieth of a pixel, without spaces around the letters of a path: a page holds many of them."""
    short = _NUMBER.sub(lambda match: f"{round(20 * float(match[0])) / 20 + 0.0:.2f}".rstrip("0").rstrip("."), places)
    return re.sub(r"\s*([A-Za-z])\s*", r"\1", short).strip()


def _looks(node: ET.Element) -> dict[str, str]:
    """A style attribute as attributes of their own, with the classes of its colours. Fonts are the figure's."""
    pairs = (part.split(":", 1) for part in node.get("style", "").split(";") if ":" in part)
    look = {key.strip(): value.strip() for key, value in pairs}
    look.pop("font-family", None)
    if node.tag == f"{_SVG}use":  # matplotlib says how a mark looks at its shape too
        look.pop("stroke-linejoin", None)
    classes = [f"{key[0]}-{NAMES[look[key]]}" for key in ("fill", "stroke") if look.get(key) in NAMES]
    return ({"class": " ".join(classes)} if classes else {}) | look
