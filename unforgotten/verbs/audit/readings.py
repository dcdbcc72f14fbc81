"""Words as a person reads them: without characters that no one sees, and with those that hide others. Pure Python.

A model learns `ha<U+200B>rm` as it learns `harm`; a judge may not read it so. Every text is therefore judged as it
stands, and where they differ also as

    plain     NFKC; zero-width, bidi and other invisible characters taken out
    parted    the same with a space where they stood, since they may stand for one
    decoded   plain, once escapes (\\uXXXX, \\xXX, \\ooo, \\u{X}, &#X;, %XX) are characters, tags (U+E0020 …) and
              enclosed letters the ASCII that they mirror, and letters stand without marks that no language puts on them

Nothing else is decoded: base64, ROT13, morse and homoglyphs are judged as they stand.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Literal
from urllib.parse import unquote

_FILLERS = "\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
"""Letters and a symbol that are drawn as nothing: Hangul and Khmer fillers, the empty Braille cell."""
_MARKS = ((0x034F, 0x034F), (0x180B, 0x180F), (0xFE00, 0xFE0F), (0xE0000, 0xE0FFF))
"""Combining marks and code points that nothing shows: the joiner U+034F, variation selectors, tags.

The rest of Unicode's Default_Ignorable_Code_Point is of category Cf (DerivedCoreProperties.txt, Unicode 15).
"""
_ESCAPE = re.compile(r"\\+u([0-9a-fA-F]{4})(?:\\+u([0-9a-fA-F]{4}))?")
_OTHER_ESCAPE = re.compile(
    r"\\+x([0-9a-fA-F]{2})|\\+u\{([0-9a-fA-F]{1,6})\}|\\+U([0-9a-fA-F]{8})|&#[xX]([0-9a-fA-F]{1,6});|&#([0-9]{1,7});"
)
_PERCENT = re.compile(r"(?:%[0-9a-fA-F]{2})+")
_OCTAL = re.compile(r"\\+([01][0-7]{2})")
_ENCLOSED = {code: 65 + (code - first) for first in (0x1F150, 0x1F170, 0x1F1E6) for code in range(first, first + 26)}
"""White on black, and as flags: letters that NFKC leaves as they are."""
_MARKED_LETTER = re.compile(r"[A-Za-z\]\[][\u0300-\u036f\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TAG = re.compile("[\U000e0020-\U000e007e]")


@cache
def _invisible(character: str) -> bool:
    code = ord(character)
    if character in _FILLERS or any(low <= code <= high for low, high in _MARKS):
        return True
    kind = unicodedata.category(character)
    # Noncharacters part control tokens here (models/chat/tokens.py), and no font has them.
    unassigned = kind == "Cn" and (0xFDD0 <= code <= 0xFDEF or code & 0xFFFE == 0xFFFE)
    return kind in ("Cf", "Cs") or unassigned or (kind == "Cc" and character not in "\t\n\r")


def invisible(text: str) -> bool:
    """Does a text hold a character that no one sees? ASCII controls but tab and newlines are such."""
    return not _ordinary(text) and any(map(_invisible, set(text)))


def plain(text: str, instead: Literal["", " "] = "") -> str:
    """NFKC, with nothing or a space in place of invisible characters."""
    if _ordinary(text):
        return text
    # Before NFKC, which makes one filler of another; and after, for what it composes.
    seen = unicodedata.normalize("NFKC", _without(text, instead))
    return _without(seen, instead)


def decoded(text: str) -> str:
    """`plain`, once escapes and tag characters say what they stand for."""
    if "\\" in text or "&#" in text or "%" in text:
        text = _PERCENT.sub(lambda match: unquote(match[0], errors="replace"), text)
        text = _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)
        text = _OTHER_ESCAPE.sub(_other_character, _ESCAPE.sub(_character, text))
    if text.isascii():
        return plain(text)
    seen = plain(_TAG.sub(lambda tag: chr(ord(tag[0]) - 0xE0000), text).translate(_ENCLOSED))
    if not _MARKED_LETTER.search(seen):  # composed letters have none left: no language writes the others
        return seen
    return "".join(c for c in unicodedata.normalize("NFKD", seen) if unicodedata.category(c) not in ("Mn", "Me"))


def readings(text: str) -> tuple[str, str, str, str]:
    """As it stands, plain, parted, decoded; mostly all the same."""
    return text, plain(text), plain(text, " "), decoded(text)


class _Instead(dict[int, "int | str"]):
    """A table for str.translate that looks at each character once."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def __missing__(self, code: int) -> int | str:
        self[code] = self._text if _invisible(chr(code)) else code
        return self[code]


_TABLES = {"": _Instead(""), " ": _Instead(" ")}


def _without(text: str, instead: str) -> str:
    return text.translate(_TABLES[instead])


def _ordinary(text: str) -> bool:
    """ASCII without controls, which needs no second look: long conversations are mostly such."""
    return text.isascii() and not _CONTROL.search(text)


def _other_character(match: re.Match[str]) -> str:
    """The character of an escape in one part; itself where it stands for none."""
    code = int(match[5]) if match[5] else int(next(filter(None, match.groups())), 16)
    return chr(code) if 0 < code < 0x110000 and not 0xD800 <= code < 0xE000 else match[0]


def _character(match: re.Match[str]) -> str:
    """The character of one escape, or of two that are a surrogate pair."""
    high, low = int(match[1], 16), int(match[2], 16) if match[2] else 0
    if 0xD800 <= high < 0xDC00 <= low < 0xE000:
        return chr(0x10000 + (high - 0xD800) * 0x400 + low - 0xDC00)
    return "".join(chr(code) for code in (high, low) if code and not 0xD800 <= code < 0xE000)
