"""What a verb says while it works: a function that takes a sentence."""

from __future__ import annotations

from collections.abc import Callable

Say = Callable[[str], None]


def quiet(text: str) -> None:
    """Says nothing."""
