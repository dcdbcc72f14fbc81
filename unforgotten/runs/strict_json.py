"""JSON as the standard has it, and no more: what Python's parser lets through beyond that is refused by name.

A key that stands twice in one object, NaN and Infinity, numbers beyond any float or of thousands of digits, nesting
without end: each would be read by one program as one thing and by the next as another.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Mapping
from typing import Any, BinaryIO

from unforgotten.runs.bounds import bounds, over

BLANK = re.compile(r"[ \t\r\n]*")  # JSON's own white space: str.strip() would also take U+2028 and the like
_MOST_BITS = 1 << 12
PIECE = 1 << 16


class Unfit(ValueError):
    """A value that JSON does not have, or that two readers take for two things."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Unfit(f"the key {twice[:60]!r} stands twice in one object")
    return mapping


def _constant(name: str) -> Any:
    raise Unfit(f"{name} is no JSON")


def _float(text: str) -> float:
    if math.isinf(number := float(text)):
        raise Unfit(f"the number {text[:20]} is too large")
    return number


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float)


def loads(text: str) -> Any:
    """The value of a JSON text. Raises ValueError or RecursionError; `broken` says what they mean."""
    if text.startswith("\ufeff"):
        raise Unfit("begins with a byte order mark (BOM), as where files were joined")
    value = DECODER.decode(text)
    if deeper(value, text):
        raise Unfit(f"nested too deeply: {over('depth', bounds().depth)}")
    return value


def broken(error: Exception) -> str:
    """What was wrong with a JSON text, in words."""
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON at column {error.colno}: {error.msg}"
    if isinstance(error, RecursionError):
        return "broken JSON: nested too deeply"
    return str(error) if isinstance(error, Unfit) else "a number has more digits than can be read"


def deeper(value: Any, text: str | None = None) -> bool:
    """Whether a value is nested beyond the limit; `text`, where it came from, spares most of them the walk."""
    most = bounds().depth
    if text is not None and text.count("[") + text.count("{") <= most:
        return False
    level = [value]
    for _ in range(most + 1):
        level = [v for each in level for v in _inside(each) if isinstance(v, (Mapping, list, tuple))]
        if not level:
            return False
    return True


def _inside(value: Any) -> Any:
    return value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()


def more_values(value: Any, most: int) -> bool:
    """Does a value hold more than so many texts, numbers, truths, nulls and empty lists and objects?

    What the text of a call's arguments holds counts as what it is the text of.
    """
    todo, n, commas = [value], 0, 0
    while todo and n <= most:
        each = todo.pop()
        if isinstance(each, Mapping) and each:
            todo += each.values()
            if isinstance(text := each.get("arguments"), str):
                commas += text.count(",")
                if commas >= most // 2:  # short ones are not read twice
                    todo.append(_parsed(text))
        elif isinstance(each, (list, tuple)) and each:
            todo += each
        else:
            n += 1
    return n > most


def _parsed(text: str) -> Any:
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


def unfit(value: Any) -> str:
    """Why a value cannot stand in JSON, or in a text to train on; empty where it can. Keys are looked at too.

    Lone surrogates and NUL are refused: neither can be written to a file, or is read alike everywhere.
    """
    if deeper(value):
        return f"nested too deeply: {over('depth', bounds().depth)}"
    todo = [value]
    while todo:
        each = todo.pop()
        if isinstance(each, str):
            if wrong := _unfit_text(each):
                return wrong
        elif isinstance(each, Mapping):
            if odd := [key for key in each if not isinstance(key, str)]:
                return f"the key {odd[0]!r} is no text"
            todo += each.keys()
            todo += each.values()
        elif isinstance(each, (list, tuple)):
            todo += each
        elif isinstance(each, float):
            if not math.isfinite(each):
                return f"{each} is no JSON"
        elif isinstance(each, int):
            if each.bit_length() > _MOST_BITS:
                return "a number has more digits than can be read"
        elif each is not None:
            return f"a value of type {type(each).__name__} is no JSON"
    return ""


def _unfit_text(text: str) -> str:
    if "\0" in text:
        return "holds the character NUL (U+0000)"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "holds half a character (a lone surrogate such as \\ud83d)"
    return ""


class TooLong(Exception):
    """A value of JSON that is longer than a row may be."""


class Window:
    """The text of a stream, a row of it and a piece at most: values of JSON are taken from its start."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self._decode = stream, codecs.getincrementaldecoder("utf-8-sig")()
        self._text, self._at, self._ended = "", 0, False
        self._passed, self._counted = 0, 0  # newlines of the text up to where they were counted
        self._line, self._start_of_line = 1, 0  # of the text's first character; where its line starts, mostly before it
        self.first = b""
        """The first byte that is no white space, known even where what follows is no UTF-8."""

    @property
    def line(self) -> int:
        """The number of the line in which the next character stands, from 1."""
        self._passed += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line + self._passed

    def column_of(self, error: json.JSONDecodeError) -> json.JSONDecodeError:
        """The error as of the whole file: its `lineno` and `colno` count from there."""
        before = self._text[: error.pos]
        error.lineno = self._line + before.count("\n")
        error.colno = error.pos - before.rfind("\n") if "\n" in before else error.pos + 1 - self._start_of_line
        return error

    def next(self) -> str:
        """The next character; empty at the end."""
        return self._text[self._at : self._at + 1]

    def skip(self) -> None:
        """Passes the next character."""
        self._at += 1

    def blank(self) -> None:
        """Passes white space."""
        while True:
            self._at = BLANK.match(self._text, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._text) or not self._fill(1):
                return

    def value(self) -> Any:
        """The value that stands next. Raises ValueError or RecursionError where it is broken, TooLong."""
        wanted, most = PIECE, bounds().row_bytes
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
                if end < len(self._text) or self._ended:
                    if end - self._at > most:
                        raise TooLong
                    if deeper(value, self._text[self._at : end]):
                        raise RecursionError
                    self._at = end
                    return value
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self._text) - 12
                if self._ended or not cut:
                    raise self.column_of(error) from None
            if len(self._text) - self._at > most:
                raise TooLong
            wanted *= 2
            self._fill(wanted)

    def _fill(self, wanted: int) -> bool:
        """Reads on until `wanted` characters are there; whether any came. What is passed is let go."""
        passed = self._text[: self._at]
        if "\n" in passed:
            self._line += passed.count("\n")
            self._start_of_line = passed.rfind("\n") + 1 - len(passed)
        else:
            self._start_of_line -= len(passed)
        parts = [self._text[self._at :]]
        self._at, n, before = 0, len(parts[0]), len(parts[0])
        self._passed = self._counted = 0
        while n < wanted and not self._ended:
            piece = self._stream.read(PIECE)
            self._ended = not piece
            self.first = self.first or piece.removeprefix(codecs.BOM_UTF8).lstrip()[:1]
            parts.append(self._decode.decode(piece, final=self._ended))
            n += len(parts[-1])
        self._text = "".join(parts)
        return n > before


def kind_of(value: Any) -> str:
    """What a JSON value is, in JSON's words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)
