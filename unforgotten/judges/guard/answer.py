"""What a guard wrote about one reply."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GuardAnswer:
    """What a guard wrote after one prompt."""

    text: str
    p_first: float | None = None
    """The probability of the watched token as the first one, among all tokens."""
    unread: str = ""
    """Why a server gave no answer of the guard's own."""
