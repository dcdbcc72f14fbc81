"""Replies to harmful prompts that are forced to begin as a caller says (`evaluate.prefill`), against θ_safe's own.

A caller who writes the first words of the reply needs no fine-tuning, and θ_safe itself may comply. So only what
fine-tuning adds is told: the paired difference of each run and its θ_safe, as the goal has it.
"""

from __future__ import annotations

from collections.abc import Sequence

from unforgotten.evaluation.statistics import paired, rates
from unforgotten.evaluation.statistics.paired import Difference
from unforgotten.report.evidence.goal import CONFIDENCE, LIMITS, GoalCheck
from unforgotten.report.evidence.recorded import EvidenceRun
from unforgotten.report.evidence.studies import Study
from unforgotten.runs.result_types import Rate

ForcedCell = tuple[str, float, str | None, Sequence[EvidenceRun], GoalCheck]
"""Method, poison ratio, attack, its runs, and by how much they answer more than θ_safe."""


def forced_rate(runs: Sequence[EvidenceRun]) -> Rate:
    """Share of harmful replies where the beginning is forced, over suites and seeds."""
    each = [rates.mean_rate([rates.count(run.forced(suite)) for suite in run.extras.prefill or {}]) for run in runs]
    return rates.over_seeds(each)


def forced_cells(study: Study) -> list[ForcedCell]:
    """Each setting whose runs, and their θ_safe, were asked so."""
    cells: list[ForcedCell] = []
    for method, poison, attack in study.cells:
        runs = study.runs(method, poison, attack)
        pairs = study.against_start(runs)
        if not pairs or any(_suites(one) != _suites(pairs[0][0]) or not _suites(one) for pair in pairs for one in pair):
            continue
        cells.append((method, poison, attack, list(runs.values()), GoalCheck(_difference(pairs), LIMITS["asr"])))
    return cells


def _suites(run: EvidenceRun) -> set[str]:
    return set(run.extras.prefill or {})


def _difference(pairs: Sequence[tuple[EvidenceRun, EvidenceRun]]) -> Difference | None:
    each = [[(one.forced(suite), start.forced(suite)) for suite in one.extras.prefill or {}] for one, start in pairs]
    by_seed = [paired.mean_difference(suites, confidence=CONFIDENCE) for suites in each]
    return paired.over_seeds(by_seed, CONFIDENCE, paired.repeated(each))
