"""Words as a person reads them: without characters that no one sees, and with those that hide others. Pure Python.

A model learns `ha<U+200B>rm` as it learns `harm`; a judge may not read it so. Every text is therefore judged as it
stands, and where they differ also as

    plain     NFKC; zero-width, bidi and other invisible characters taken out
    parted    the same with a space where they stood, since they may stand for one
    decoded   plain, once \\uXXXX escapes are characters, and tag characters (U+E0020 …) the ASCII that they mirror

Nothing else is decoded: base64, ROT13, morse and homoglyphs are judged as they stand.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache
from typing import Literal

_FILLERS = "\u115f\u1160\u17b4\u17b5\u2800\u3164\uffa0"
"""Letters and a symbol that are drawn as nothing: Hangul and Khmer fillers, the empty Braille cell."""
_MARKS = ((0x034F, 0x034F), (0x180B, 0x180F), (0xFE00, 0xFE0F), (0xE0000, 0xE0FFF))
"""Combining marks and code points that nothing shows: the joiner U+034F, variation selectors, tags.

The rest of Unicode's Default_Ignorable_Code_Point is of category Cf (DerivedCoreProperties.txt, Unicode 15).
"""
_ESCAPE = re.compile(r"\\+u([0-9a-fA-F]{4})(?:\\+u([0-9a-fA-F]{4}))?")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_TAG = re.compile("[\U000e0020-\U000e007e]")


@cache
def _invisible(character: str) -> bool:
    code = ord(character)
    if character in _FILLERS or any(low <= code <= high for low, high in _MARKS):
        return True
    kind = unicodedata.category(character)
    # Noncharacters part control tokens here (chat/tokens.py), and no font has them.
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
    return plain(_TAG.sub(lambda tag: chr(ord(tag[0]) - 0xE0000), _ESCAPE.sub(_character, text)))


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


def _character(match: re.Match[str]) -> str:
    """The character of one escape, or of two that are a surrogate pair."""
    high, low = int(match[1], 16), int(match[2], 16) if match[2] else 0
    if 0xD800 <= high < 0xDC00 <= low < 0xE000:
        return chr(0x10000 + (high - 0xD800) * 0x400 + low - 0xDC00)
    return "".join(chr(code) for code in (high, low) if code and not 0xD800 <= code < 0xE000)
