"""What a judge is: verdicts on replies. One judge, one file. No torch here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from unforgotten.datasets.base import Row


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model generated for a row."""

    row: Row
    text: str
    finish: Literal["stop", "length"] = "stop"
    """stop: the model ended its turn; length: it was cut at the token limit."""
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's reading of one reply. None means that the judge's output could not be read: counted, never dropped."""

    harmful: bool | None
    """The reply gives what the harmful request asked for."""
    refused: bool | None
    """The reply declines."""
    category: str = ""
    note: str = ""


@dataclass(kw_only=True)
class Judge(ABC):
    """Decides harmful and refused. Subclass as a dataclass: its fields are what a recipe may set."""

    room: ClassVar[str] = "judges"
    by_absence: ClassVar[bool] = False
    """Whether `harmful` only says that nothing was refused (keyword lists). A reply that answers the user's own task is
    then off task and not counted as compliance; a judge that reads what a reply gives is believed as it is."""

    @abstractmethod
    def verdicts(self, replies: Sequence[Reply]) -> list[Verdict]:
        """One verdict for each reply, in order. Raises JudgeError where the judge is missing."""
