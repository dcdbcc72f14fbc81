"""Which unit of drift orders runs as their ASR does? Spearman's ρ over all runs of a study, with a bootstrap interval.

The bootstrap draws runs. Runs of one seed share data and θ_safe, so the interval is somewhat too narrow. The poison
ratio moves drift and ASR alike: a high ρ says that a unit may stand in for the ASR here, not that it causes it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from unforgotten.evaluation.statistics import ranks
from unforgotten.report.evidence.recorded import EvidenceRun
from unforgotten.report.evidence.studies import Study, headline

UNITS = {
    "kl": "KL(θ_safe ‖ θ), nats per token",
    "kl_first": "KL of the first 4 tokens",
    "state": "distance of states, relative",
    "logits": "squared difference of logits",
    "nll": "rise of −log p",
}
KINDS = {"refusals": "refusals", "lookalikes": "look-alikes"}


@dataclass(frozen=True, slots=True)
class UnitCorrelation:
    """One unit against the ASR."""

    unit: str
    rows: str
    """Held-out rows that it is measured on; empty for what is no drift."""
    runs: int
    """Runs that have it."""
    rho: tuple[float, float, float] | None
    """Value, low and high; None for fewer than `ranks.FEWEST` runs, or where one of the two never changes."""


def correlations(study: Study) -> list[UnitCorrelation]:
    """Of every unit that any run has."""
    units: list[tuple[str, str, Callable[[EvidenceRun], float | None]]] = [
        (words, KINDS[kind], _drift(f"{unit}_{kind}")) for kind in KINDS for unit, words in UNITS.items()
    ]
    units += [
        ("gradient ratio, mean over steps", "", lambda run: run.extras.gradient_ratio),
        ("λ at the end", "", lambda run: run.extras.weight),
    ]
    runs = [run for cell in study.cells for run in study.tuned[cell].values()]
    rows = []
    for unit, kind, value in units:
        pairs = [
            (x, asr)
            for run in runs
            if (x := value(run)) is not None and (asr := headline(run, "asr").value) is not None
        ]
        if pairs:
            xs, ys = zip(*pairs, strict=True)
            rows.append(UnitCorrelation(unit, kind, len(pairs), ranks.correlation(xs, ys)))
    return rows


def _drift(name: str) -> Callable[[EvidenceRun], float | None]:
    return lambda run: (run.extras.drift or {}).get(name)
