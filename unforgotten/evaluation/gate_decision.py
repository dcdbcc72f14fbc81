"""A gate's decision on a run, read from gate.json. Measuring again without a gate leaves that file in place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from unforgotten.errors import DataError
from unforgotten.runs import atomic, trust

FILE = "gate.json"
OUTCOMES = ("pass", "unclear", "fail")


@dataclass(frozen=True)
class Decided:
    """A decision, and the weights that it is about."""

    outcome: str
    """`pass`, `unclear` or `fail`."""
    lines: tuple[str, ...]
    """A sentence for each limit, and notes."""
    weights: str
    """Digest of the weights that replied."""
    ours: bool = False
    """Did a gate of this user write it? Anybody can write such a file."""


def decided(run: Path) -> Decided | None:
    """The newest decision on a run; None where no gate has decided. Raises DataError for a file that none has written.

    A file without a digest of weights is refused: it would answer for any.
    """
    file = run / FILE
    if not file.exists() and not file.is_symlink():
        return None
    facts = atomic.read_object(file, model=dict, outcome=str, checks=list)
    weights, outcome = facts["model"].get("weights"), facts["outcome"]
    if not isinstance(weights, str) or not weights:
        raise DataError(
            f"{file}: model.weights is missing, so nothing says which weights the gate decided on. Evaluate the run "
            f"again with --gate, or remove {FILE}."
        )
    if outcome not in OUTCOMES:
        raise DataError(f"{file}: outcome is {outcome[:40]!r}, which is none of {', '.join(OUTCOMES)}.")
    lines = [check.get("line") if isinstance(check, dict) else None for check in facts["checks"]]
    notes = facts.get("notes") or []
    lines += notes if isinstance(notes, list) else [None]
    if not all(isinstance(line, str) for line in lines):
        raise DataError(f"{file}: checks and notes are not as a gate writes them. Evaluate the run again with --gate.")
    return Decided(outcome, tuple(map(str, lines)), weights, trust.is_sealed(run, FILE))


def recorded(decision: Decided | None) -> dict[str, object] | None:
    """For a record of what was released; None where no gate of this user has decided."""
    if decision is None or not decision.ours:
        return None
    return {"outcome": decision.outcome, "lines": list(decision.lines), "weights": decision.weights}


def sentence(decision: Decided | None) -> str:
    """What is said before a release."""
    if decision is None:
        return "Note: no gate has decided on these weights. `unforgotten evaluate RUN --gate …` decides."
    if not decision.ours:
        return (
            f"Note: {FILE} says {decision.outcome}, but no gate of this user wrote it so, so it does not count. "
            "Evaluate the run with --gate, or give --trust-recipe."
        )
    return f"Gate: {decision.outcome}, on these very weights. {' '.join(decision.lines)}"
