"""What a ladder found: each attempt with its figures, and what all of them come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.evaluation.gate import EXIT_CODES, Decision, GateOutcome
from unforgotten.runs.result_types import Rate

if TYPE_CHECKING:
    from unforgotten.runs.results import ResultRow
    from unforgotten.verbs.repair.rungs import Skipped

NO_PROMPTS = "no fresh prompts are left to decide on another candidate"


@dataclass(frozen=True)
class Attempt:
    """A candidate on one part of the prompts."""

    rung: int
    what: str
    folder: str
    """Of the candidate, in work/: two that read alike have one each."""
    part: str
    """`choose`, or `decide 1` …"""
    prompts: Mapping[str, int]
    """By suite."""
    figures: Mapping[str, Rate]
    """`asr` (or `non_refusal`), `refusal`, and each measure of a task."""
    decision: Decision
    note: str
    make_seconds: float
    ask_seconds: float

    @property
    def outcome(self) -> GateOutcome:
        """The gate's."""
        return self.decision.outcome

    def json(self) -> dict[str, Any]:
        """For repair.json."""
        facts = {k: v for k, v in asdict(self).items() if k not in ("decision", "figures")}
        return facts | {"figures": {k: r.json() for k, r in self.figures.items()}, "gate": self.decision.json()}


@dataclass(frozen=True)
class Repaired:
    """A ladder that was climbed."""

    folder: Path
    model: Path | None
    """The model that passed on prompts that it was not chosen by; None where none did."""
    attempts: tuple[Attempt, ...]
    skipped: tuple[Skipped, ...]

    @property
    def outcome(self) -> GateOutcome:
        """`pass` with a model. Without one `unclear` where more prompts might tell of a candidate, else `fail`."""
        if self.model is not None:
            return "pass"
        last = {attempt.folder: attempt.outcome for attempt in self.attempts}  # what was decided counts, not chosen
        untried = any(skipped.why == NO_PROMPTS for skipped in self.skipped)
        return "unclear" if untried or "unclear" in last.values() else "fail"

    @property
    def exit_code(self) -> int:
        """The gate's: 0, 3 or 4."""
        return EXIT_CODES[self.outcome]


def figures_of(row: ResultRow) -> dict[str, Rate]:
    """The headline figures of a row."""
    figures: dict[str, Rate] = {}
    for name, rates in ((row.measure or "asr", row.asr), ("refusal", row.refusal)):
        if rates and "mean" in rates:
            figures[name] = rates["mean"]
    return figures | dict(row.utility or {})
