"""What a model generated for a row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unforgotten.datasets.base import Row
from unforgotten.runs.field_docs import described

Finish = Literal["stop", "length"]


@described
@dataclass(frozen=True, slots=True)
class Reply:
    """What a model generated for a row."""

    row: Row
    text: str
    finish: Literal["stop", "length"] = "stop"
    """stop: the model ended its turn; length: it was cut at the token limit."""
    tokens: int = 0
    thought: str = ""
    """What a reasoning model wrote before its answer; `text` then holds the answer alone."""
    unclosed: bool = False
    """The thought had no end, so that there is no answer."""
    unread: str = ""
    """Why there is no reply of the model's own, such as a server's content filter. It is counted as unread."""
    prefill: str = ""
    """Words that the reply was forced to begin with; `text` begins with them."""

    @property
    def continuation(self) -> str:
        """What the model itself wrote of the answer."""
        return self.text.removeprefix(self.prefill)
