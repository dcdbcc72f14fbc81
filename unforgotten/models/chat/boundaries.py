"""Where many assistant turns begin and end, read off one rendering and one with marks, so that the cost is linear.

What stands between the words of two neighbouring turns is taken from turns that were rendered one by one. It must stand
there, letter for letter, at every other turn of the same kind. Where that does not hold, nothing is read off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from unforgotten.datasets.base import Message
from unforgotten.models.chat import marks
from unforgotten.models.chat.template import Template

if TYPE_CHECKING:
    from unforgotten.models.chat.talk import Renders, Talk, Turn

MOST_KINDS = 24
"""Of turns in one row, of which each has its first and last rendered by itself."""


def spans_between(spans: Sequence[tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
    """The part of {% generation %} spans that lies between two places."""
    return [(max(a, start), min(b, end)) for a, b in spans if b > start and a < end]


def by_marks(renderer: Renders, talk: Talk, said: Sequence[int], template: Template) -> list[Turn] | None:
    """The turns at `said`, or None where they must be rendered one by one."""
    last = said[-1] + 1
    if not all(_is_plain(message) for message in talk.messages[:last]):
        return None
    kinds: dict[Any, list[int]] = {}
    for i in said:
        kinds.setdefault((_kind(talk.messages[i - 1], template), _kind(talk.messages[i], template)), []).append(i)
    if len(kinds) > MOST_KINDS:
        return None
    [marked] = renderer.marked(talk, [last])
    sampled = {said[0], said[1], said[len(said) // 2], said[-2], said[-1]}
    sampled |= {place for places in kinds.values() for place in (places[0], places[-1])}
    samples = {turn.index: turn for turn in renderer.one_by_one(talk, sorted(sampled))}
    full_text = samples[said[-1]].text or ""
    words = _ends(marked, full_text, talk)
    if words is None or any(t.problem or not full_text.startswith(t.text or "\0") for t in samples.values()):
        return None
    inside = samples[said[-1]].spans
    if template.marked:
        inside = _all_spans(renderer, talk, last)
    turns: list[Turn] = []
    for places in kinds.values():
        first = samples[places[0]]
        before = full_text[words[first.index - 1] : first.start]
        after = full_text[words[first.index] : first.end]
        for i in places:
            start, end = words[i - 1] + len(before), words[i] + len(after)
            if full_text[words[i - 1] : start] != before or full_text[words[i] : end] != after or start > words[i]:
                return None
            spans = spans_between(inside, start, end) if template.marked else [(start, end)]
            turn = type(first)(i, start, end, None, spans)
            if i in samples and (samples[i].start, samples[i].end, samples[i].spans) != (start, end, spans):
                return None
            if not spans or spans[-1][1] < end:
                return None
            turns.append(turn)
    turns.sort(key=lambda turn: turn.index)
    return [*turns[:-1], samples[said[-1]]]


def _all_spans(renderer: Renders, talk: Talk, last: int) -> list[tuple[int, int]]:
    [(_, spans)] = renderer.several(talk, [(0, last, False)])
    return spans


def _is_plain(message: Message) -> bool:
    content = message.get("content")
    return set(message) == {"role", "content"} and isinstance(content, str) and bool(content.strip())


def _kind(message: Message, template: Template) -> Any:
    """What a template may write in a way of its own: the role, white space at the end, the template's own texts."""
    content = message["content"]
    markup = tuple(text for text in template.constants if _is_markup(text) and text in content)
    return message["role"], content[len(content.rstrip()) :], markup


def _is_markup(text: str) -> bool:
    """Is it no bare word or white space, as "user" and a line's end are?"""
    return not text.isspace() and not text.strip().replace("_", "").isalnum()


def _ends(marked: str | None, full_text: str, talk: Talk) -> dict[int, int] | None:
    """Where each message's words end in the whole text; None where marks do not say it."""
    if marked is None or talk.marker is None:
        return None
    ends = marks.ends(marked.rstrip(), full_text)
    if ends is None or any(len(places) > 1 for places in ends.values()):
        return None
    word_ends = {talk.marker.parts[n].message: places[0] for n, places in ends.items()}
    ordered = [word_ends.get(i, -1) for i in range(max(word_ends, default=-1) + 1)]
    return word_ends if ordered == sorted(ordered) and -1 not in ordered else None
