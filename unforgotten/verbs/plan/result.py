"""What a plan says: stages, downloads, and what stands in the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from unforgotten.verbs.plan import costs

if TYPE_CHECKING:
    from unforgotten.verbs.plan.inventory import DatasetSize


@dataclass(frozen=True)
class Stage:
    """One training, or the questions put to one model. What its shape does not tell is None."""

    title: str
    rows: int
    tokens: float
    steps: int = 0
    seconds: float | None = None
    memory: int | None = None
    disk: int | None = None


@dataclass(frozen=True)
class Needed:
    """What the Hub, PyPI or a server must give."""

    what: str
    name: str
    terms: str = ""
    url: str = ""
    size: int | None = None
    cached: bool = False


@dataclass
class Plan:
    """The whole, in the order in which it would be done."""

    name: str
    stages: list[Stage] = field(default_factory=list)
    sets: list[DatasetSize] = field(default_factory=list)
    needed: list[Needed] = field(default_factory=list)
    machine: costs.Machine | None = None
    notes: list[str] = field(default_factory=list)
    count: dict[str, int] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Of all stages whose time is known."""
        return sum(stage.seconds or 0.0 for stage in self.stages)

    @property
    def disk(self) -> int:
        """Of all stages and downloads whose size is known."""
        return sum(s.disk or 0 for s in self.stages) + sum(n.size or 0 for n in self.needed if not n.cached)
