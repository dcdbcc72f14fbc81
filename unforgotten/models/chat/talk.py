"""A conversation as it is rendered, and the assistant's turns in its text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from unforgotten.datasets.base import Message
from unforgotten.models.chat.marks import Marker

Tools = list[dict[str, Any]] | None


@dataclass(frozen=True, slots=True)
class Turn:
    """One assistant turn, rendered; `problem` says why it cannot be trained on, if it cannot."""

    index: int
    start: int
    """How many characters of `text` are the prefix: what generation would be given."""
    end: int
    """How many characters `text` has: from the conversation's first one up to and including this turn's end."""
    text: str | None
    """None where it is how the whole conversation's text begins."""
    spans: list[tuple[int, int]]
    """The characters of `text` that the loss sees."""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Talk:
    """A row as the template is given it, and the same with a mark behind each of its parts."""

    messages: list[Message]
    tools: Tools
    controls: int
    """Control tokens that its authors wrote, neutralised."""
    name: str
    marker: Marker | None
    """None where the row's text holds marks already."""


class Renders(Protocol):
    """What reading off boundaries needs of a renderer (`chat.render.Renderer`)."""

    def marked(self, talk: Talk, counts: Sequence[int], generation_prompt: bool = False) -> list[str | None]:
        """The marked rendering of so many of the messages, for each of `counts`."""

    def several(self, talk: Talk, jobs: Sequence[tuple[int, int, bool]]) -> list[Any]:
        """Renderings: (text, spans) of each."""

    def one_by_one(self, talk: Talk, said: Sequence[int]) -> list[Turn]:
        """Turns, from two renderings for each."""
