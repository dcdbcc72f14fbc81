"""Splits a text that is too long for a guard into overlapping parts that fit.

Each part shares half of its text with the next one. So every passage up to half a part stands whole in one of them.
"""

from __future__ import annotations

from collections.abc import Callable

Size = Callable[[str, str], int]
"""Tokens of the prompt that a request and a reply make."""


def utf8_bytes(request: str, text: str) -> int:
    """A size where there is no tokenizer: no tokenizer makes more tokens than there are bytes."""
    return len(request.encode("utf-8", "replace")) + len(text.encode("utf-8", "replace"))


def windows(request: str, text: str, room: int, size: Size) -> list[tuple[str, str]]:
    """(request, text) of every part: `size` of each is at most `room`. Empty where not even one character fits.

    A request that takes more than half of the room is split as well. Each of its parts is then paired with each part of
    the text.
    """
    if size(request, text) <= room:
        return [(request, text)]
    least = size("", "")
    share = max(least, (least + room) // 2)
    # A short text leaves the rest of the room to the request.
    requests = pieces(request, lambda part: size(part, text) <= room or size(part, "") <= share)
    parts: list[tuple[str, str]] = []
    for part in requests:

        def fits(piece: str, part: str = part) -> bool:
            return size(part, piece) <= room

        parts += [(part, piece) for piece in pieces(text, fits)]
    return parts


def pieces(text: str, fits: Callable[[str], bool]) -> list[str]:
    """Parts of a text for which `fits` holds, each beginning in the middle of the one before; none if nothing does."""
    if fits(text):
        return [text]
    parts: list[str] = []
    start, guess = 0, 1024
    while start < len(text):
        n = _longest(text[start:], guess, fits)
        if n == 0:
            return []
        parts.append(text[start : start + n])
        if start + n >= len(text):
            break
        start, guess = start + max(1, n // 2), n
    return parts


def _longest(text: str, guess: int, fits: Callable[[str], bool]) -> int:
    """Characters of a beginning that fits, nearly the longest one. Its own size is checked, however tokens merge."""
    low, high = 0, min(guess, len(text))
    while high < len(text) and fits(text[:high]):
        low, high = high, min(2 * high, len(text))
    if fits(text[:high]):
        return high
    while high - low > max(1, low // 64):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(text[:middle]) else (low, middle)
    return low
