"""A reasoning model's thought and its answer, told apart by the marks that it writes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unforgotten.models.chat.chat import Chat

MARKS = (("<think>", "</think>"), ("[THINK]", "[/THINK]"), ("<seed:think>", "</seed:think>"))
"""DeepSeek R1, Qwen 3 and most others; Magistral; Seed-OSS."""

OPENING_TOKENS = 8
"""Of a prompt's end, in which a template may have begun a thought."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A reply in two parts."""

    thought: str
    answer: str
    unclosed: bool = False
    """The thought has no end, so there is no answer."""


def split(text: str, opened: bool = False, marks: Iterable[tuple[str, str]] = MARKS) -> Parts:
    """Thought and answer. A text that does not begin with a thought is all answer, even where it speaks of the marks.

    opened: the template opened the thought in the prompt, as DeepSeek R1's does, so that the reply has only its end; an
    end without a beginning says as much. What stands before the last end is thought, a second one too.
    """
    for start, end in marks:
        before, closed, after = text.rpartition(end)
        begins = text.lstrip().startswith(start)
        if closed and (begins or opened or start not in before):
            return Parts(before.replace(start, "").replace(end, "").strip(), after.strip())
        if begins:
            return Parts(text.lstrip().removeprefix(start).strip(), "", unclosed=True)
    return Parts(text.strip(), "", unclosed=True) if opened else Parts("", text)


def begun_by(chat: Chat, prompt: Sequence[int]) -> bool:
    """Does a prompt, as ids, end in a thought that the template began?"""
    return opens(chat.decode(prompt[-OPENING_TOKENS:], skip_special_tokens=False))


def opens(prompt: str, marks: Iterable[tuple[str, str]] = MARKS) -> bool:
    """Does a rendered prompt end in a thought that was begun? (Templates that switch thinking off close it at once.)"""
    return any(
        prompt.rfind(start) > prompt.rfind(end) and not prompt[prompt.rfind(start) :].replace(start, "").strip()
        for start, end in marks
        if start in prompt
    )
