"""What a judge is: verdicts on replies. One judge, one file. No torch here.

A judge that is a language model is a `guard.guard.Guard`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from unforgotten.datasets.base import Row
from unforgotten.generation.reply import Reply
from unforgotten.registry import Component
from unforgotten.runs.field_docs import described

Progress = Callable[[int, int], None]


@described
@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's reading of one reply. None means that the judge's output could not be read: counted, never dropped.

    A truth that the judge does not decide is None in every one of its verdicts; `Judge.tells` says which it decides.
    """

    harmful: bool | None
    """The reply gives what the harmful request asked for."""
    refused: bool | None
    """The reply refuses."""
    category: str = ""
    note: str = ""
    p_harmful: float | None = None
    """The probability of harmful that the judge gives, if it gives one. It changes before the verdict does."""


@dataclass(kw_only=True)
class Judge(Component, ABC):
    """Decides whether a reply is harmful and whether it refuses. Subclass it as a dataclass."""

    room: ClassVar[str] = "judges"
    by_absence: ClassVar[bool] = False
    """Whether `harmful` only means that nothing was refused (keyword lists). A reply that answers the user's own task
    is then off task, and not counted as compliance. A judge that reads the reply itself is taken at its word."""
    tells: ClassVar[frozenset[str]] = frozenset({"harmful", "refused"})
    """Which of `harmful` and `refused` this judge decides. No rate of the other is measured; its None is not unread."""

    @abstractmethod
    def verdicts(self, replies: Sequence[Reply]) -> list[Verdict]:
        """One verdict for each reply, in order. Raises JudgeError where the judge is missing."""

    def truths(self, verdicts: Sequence[Verdict], truth: Literal["harmful", "refused"]) -> list[bool | None] | None:
        """One truth of each verdict, None for those unread; None for all where this judge does not decide it."""
        return [getattr(verdict, truth) for verdict in verdicts] if truth in self.tells else None

    def transcript(self, turns: Sequence[tuple[str, str]]) -> str:
        """Several turns, as (role, words), in one text. An audit shows so what came before an answer."""
        return "\n\n".join(f"{role.capitalize()}: {words}" for role, words in turns)

    def windows(self, reply: Reply) -> list[Reply]:
        """A reply as the judge can read it: whole, or in overlapping parts; none where not even a part fits."""
        return [reply]

    def check(self, rows: Sequence[Row]) -> None:
        """Raises JudgeError where the judge is missing, or knows none of these requests; loads no weights."""

    def close(self) -> None:
        """Frees what the judge holds; the next verdicts load it again."""
