"""What a template leaves out of a row: refused where the assistant was to learn it, counted where it is context.

Refused: what is said or called in a turn of the loss and does not stand in the loss of that turn; words of the user,
the system or a tool that are not written; a declared tool that is not. Counted: thoughts, words and calls of earlier
turns, which many templates leave out by design, and what describes tools and turns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from unforgotten.datasets.base import Message
from unforgotten.models.chat import marks
from unforgotten.models.chat.marks import Part

_THOUGHT_MARKS = re.compile(r"</?think>|\[/?THINK\]|</?seed:think>")
SHOWN_KINDS = 40
SEARCHED_CHARACTERS = 2 * 10**9
"""Looked through for the parts of one rendering; what is not read by then counts as not written."""
_REFUSED = {"content", "thought", "call", "argument", "function_call", "refusal"}
"""What an assistant's turn in the loss may not lack."""


class Written:
    """One rendering, asked for the parts of its row."""

    def __init__(self, text: str, marked: str | None) -> None:
        self.text = text
        self._regions: dict[tuple[tuple[int, int], ...] | None, tuple[str, str]] = {}
        self._left = SEARCHED_CHARACTERS
        self.ends = marks.ends(marked, text) if marked is not None else None
        """Where each part ends; None where the template writes a marked row in another way."""

    def has(self, number: int, part: Part, spans: Sequence[tuple[int, int]] | None = None) -> bool:
        """Is this part written, within these spans where they are given?"""
        if part.alone or self.ends is None:
            return self._holds(part.text, spans) or part.alone and self._holds(part.text.lower(), spans)
        size = len(part.text.strip())
        places = [end for end in self.ends.get(number, []) if spans is None or _within(end, spans)]
        if any(self.text.endswith(part.text.strip(), end - size, end) for end in places if end >= size):
            if not spans or any(_all_within(end - size, end, spans) for end in places):
                return True
        return bool(places) and self._holds(part.text, spans)

    def _holds(self, text: str, spans: Sequence[tuple[int, int]] | None) -> bool:
        """Does every piece of `text` stand in the text or its spans, however it is laid out or escaped?"""
        region, bare = self._region(spans)
        self._left -= len(region)
        if self._left < 0:
            return False
        if text.strip() in region:
            return True
        self._left -= 6 * len(bare)
        pieces = [piece for piece in _THOUGHT_MARKS.split(text) if piece.strip()]
        return all(any(marks.squeezed(form) in bare for form in marks.variants(piece)) for piece in pieces)

    def _region(self, spans: Sequence[tuple[int, int]] | None) -> tuple[str, str]:
        """The text within the spans, and the same without white space."""
        key = None if spans is None else tuple(spans)
        if key not in self._regions:
            region = self.text if spans is None else "".join(self.text[a:b] for a, b in spans)
            self._regions[key] = region, marks.squeezed(region)
        return self._regions[key]


def refused(parts: Sequence[Part], written: Written, turn: int, spans: Sequence[tuple[int, int]]) -> list[str]:
    """What of an assistant's turn is not in its loss, in words."""
    of_turn = [(n, part) for n, part in enumerate(parts) if part.message == turn]
    if not any(part.kind in _REFUSED for _, part in of_turn):
        return ["all words: the turn is empty"]
    lost = [part for n, part in of_turn if part.kind in _REFUSED and not written.has(n, part, spans)]
    called = {part.call: part.name for _, part in reversed(of_turn) if part.kind == "call"}
    several = any(part.call for _, part in of_turn)
    return list(dict.fromkeys(_name(part, called, several) for part in lost))


def _name(part: Part, calls: Mapping[int, str], several: bool) -> str:
    """A part in words. calls: the names of the turn's calls; several: whether there is more than one."""
    which = f"call {part.call + 1}" if several else "the call"
    called = calls.get(part.call, "")
    if part.kind == "content":
        if _THOUGHT_MARKS.search(part.text):
            return "the thought or the words of the turn"
        return "the words beside the call" if calls else "the words of the turn"
    if part.kind == "thought":
        return f"the thought under {part.name!r}"
    if part.kind == "call":
        return f"{which}, {part.name!r}"
    if part.kind == "argument":
        return f"the argument {part.name!r} of {which}, {called!r}"
    if part.kind == "function_call":
        return "the key 'function_call' (its form today is tool_calls)"
    return f"the key {part.kind!r}"


def in_context(
    parts: Sequence[Part], written: Written, messages: Sequence[Message], trained: Iterable[int], last: int
) -> tuple[list[str], list[str]]:
    """What is missing of what is not in the loss: (refused, counted), in words. `last`: the last message written."""
    bad: list[str] = []
    counted: list[str] = []
    mine = set(trained)
    rewritten = _given_apart(parts, written)
    for n, part in enumerate(parts):
        if part.message > last or (part.message in mine and part.kind in _REFUSED) or written.has(n, part):
            continue
        if part.message == marks.TOOLS:
            (bad if part.kind == "tool" else counted).append(_of_tool(part))
            continue
        role = str(messages[part.message]["role"])
        if role == "assistant" and part.kind in _REFUSED:
            counted.append(_EARLIER.get(part.kind, f"keys {part.kind!r} of earlier turns"))
        elif part.kind == "content":
            if part.message not in rewritten:
                bad.append(f"the {role} turn's words (message {part.message + 1})")
        elif part.kind not in ("instruction", "input"):
            counted.append(f"keys {(part.name or part.kind)!r} of {role} turns")
    return list(dict.fromkeys(bad)), counted


_EARLIER = {
    "content": "words or thoughts of earlier assistant turns",
    "thought": "thoughts of earlier assistant turns",
    "call": "calls of earlier assistant turns",
    "argument": "arguments of earlier assistant turns",
}


def _of_tool(part: Part) -> str:
    return f"the tool {part.name!r}" if part.kind == "tool" else f"{part.kind}s of tools"


def _given_apart(parts: Sequence[Part], written: Written) -> set[int]:
    """Messages whose words are written as an instruction and its input."""
    instructed = {p.message for n, p in enumerate(parts) if p.kind == "instruction" and written.has(n, p)}
    unread = {p.message for n, p in enumerate(parts) if p.kind == "input" and not written.has(n, p)}
    return instructed - unread


def said(lost: Mapping[str, int]) -> str:
    """Counts of what was left out, as one sentence; empty where nothing was."""
    shown = sorted(lost, key=lambda what: (-lost[what], what))[:SHOWN_KINDS]
    text = ", ".join(f"{lost[what]:,} {what}" for what in sorted(shown))
    more = len(lost) - len(shown)
    text += f" and {sum(lost.values()) - sum(lost[what] for what in shown):,} more of {more:,} kinds" if more else ""
    return f"left out by the template: {text}" if text else ""


def _within(end: int, spans: Sequence[tuple[int, int]]) -> bool:
    return any(a < end <= b for a, b in spans)


def _all_within(start: int, end: int, spans: Sequence[tuple[int, int]]) -> bool:
    return any(a <= start and end <= b for a, b in spans)
