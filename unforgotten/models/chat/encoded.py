"""A row as token ids with a loss on some of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from unforgotten.datasets.base import Message, Row

IGNORED = -100
"""The label of a token outside the loss, as cross-entropy in torch has it."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """One example to train on: up to the last token that the loss sees, since nothing later can matter."""

    input_ids: list[int]
    labels: list[int]
    """The same ids where the assistant speaks, -100 elsewhere; not yet shifted."""
    row: int = 0
    """Index of the row that it came from."""
    source: str = ""
    turn: int | None = None
    """The message that it trains, if the row was split into one example per assistant turn."""
    merges: int = 0
    """Number of boundaries where one token would join prompt and answer, and was split as in generation."""
    cut: bool = False
    """The length limit cut the end of the response, with its end-of-turn token."""
    lost: tuple[str, ...] = ()
    """Parts of the context that the template leaves out, in one or two words each."""

    def within(self, max_length: int | None) -> Encoded | None:
        """The example cut to a length, or None when that leaves nothing to train on."""
        if max_length is None or len(self.input_ids) <= max_length:
            return self
        labels = self.labels[:max_length]
        if all(label == IGNORED for label in labels):
            return None
        return replace(self, input_ids=self.input_ids[:max_length], labels=labels, cut=True)


def answers(messages: Sequence[Message]) -> list[int]:
    """The assistant turns that answer something; one that opens a conversation is context."""
    asked = next((i for i, message in enumerate(messages) if message["role"] in ("user", "tool")), 0)
    return [i for i, message in enumerate(messages) if message["role"] == "assistant" and i >= asked]


def trained_turns(row: Row) -> list[int]:
    """The assistant turns in the loss, by their place in the row's messages."""
    return [i for i in answers(row.messages) if i not in row.context_turns]
