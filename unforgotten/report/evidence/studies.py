"""The runs of one model on one task: what each setting is called, and pairs of runs that answered the same prompts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from unforgotten.errors import DataError
from unforgotten.evaluation.statistics import paired, rates
from unforgotten.evaluation.statistics.paired import Difference, Verdicts
from unforgotten.report.aggregate import title
from unforgotten.report.evidence.recorded import EvidenceRun
from unforgotten.runs import results
from unforgotten.runs.result_types import UNMEASURED, Rate, as_json
from unforgotten.runs.results import Kind

Seeds = Mapping[int | None, EvidenceRun]
"""The runs of one setting, by seed."""
Cell = tuple[str, float, str | None]
"""A method's name, the poison ratio and the attack."""


@dataclass(slots=True)
class Study:
    """All runs of one model and task."""

    model: str
    task: str
    base: list[EvidenceRun] = field(default_factory=list)
    aligned: list[EvidenceRun] = field(default_factory=list)
    """θ_safe: one for each seed, where the seed decides its alignment."""
    tuned: dict[Cell, dict[int | None, EvidenceRun]] = field(default_factory=dict)
    settings: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """By a method's name here, its methods with their fields."""

    @property
    def title(self) -> str:
        """For headings and pictures."""
        return f"{self.model}, {self.task}" if self.task else self.model

    @property
    def words(self) -> results.Words:
        """What the share of harmful prompts is called: ASR, or non-refusal."""
        rows = [run.row for runs in self.tuned.values() for run in runs.values()]
        return results.words_of([*rows, *(run.row for run in self.aligned)])

    @property
    def cells(self) -> list[Cell]:
        """By attack and ratio; methods in the order of the file."""
        names = list(self.settings)
        return sorted(self.tuned, key=lambda cell: (cell[2] is not None, cell[2] or "", cell[1], names.index(cell[0])))

    def runs(self, method: str, poison: float, attack: str | None = None) -> Seeds:
        """By seed; none where the setting was not run."""
        return self.tuned.get((method, poison, attack), {})

    def start(self, run: EvidenceRun) -> EvidenceRun | None:
        """θ_safe of a run: by its digest, else by its seed; None where it was not measured."""
        if run.extras.aligned is not None:
            same = [other for other in self.aligned if other.extras.aligned == run.extras.aligned]
        else:
            same = [other for other in self.aligned if other.row.seed in (run.row.seed, None)]
        return same[0] if same else None

    def against_start(self, runs: Seeds) -> list[tuple[EvidenceRun, EvidenceRun]]:
        """Each run with its θ_safe; none where one was not measured."""
        pairs = [(run, start) for run in runs.values() if (start := self.start(run)) is not None]
        return pairs if len(pairs) == len(runs) else []


def same_seeds(one: Seeds, other: Seeds) -> list[tuple[EvidenceRun, EvidenceRun]]:
    """Pairs of runs of one seed, of the seeds that both settings have."""
    return [(run, other[seed]) for seed, run in one.items() if seed in other]


def studies(runs: Sequence[EvidenceRun]) -> list[Study]:
    """One for each model and task, in the order of the runs.

    Raises DataError where two runs differ in nothing that the evidence tells: then a pair would be arbitrary. So it
    does where runs were asked other prompts under one name: a mean over them would be of nothing.
    """
    by_place: dict[tuple[str, str], list[EvidenceRun]] = {}
    for run in runs:
        by_place.setdefault((run.row.model or "", run.row.task or ""), []).append(run)
    return [_study(*place, own) for place, own in by_place.items()]


def _study(model: str, task: str, runs: Sequence[EvidenceRun]) -> Study:
    study = Study(model, task)
    tuned = [run for run in runs if run.row.stage == "tuned"]
    for run, name in zip(tuned, _names(tuned), strict=True):
        study.settings.setdefault(name, specs(run))
        by_seed = study.tuned.setdefault((name, run.row.poison or 0.0, run.row.attack), {})
        if run.row.seed in by_seed:
            raise DataError(
                f"{by_seed[run.row.seed].row.run} and {run.row.run} are both {name} on {study.title}, p = "
                f"{run.row.poison or 0:g}, seed {run.row.seed}. Keep comparisons of other settings in another file."
            )
        by_seed[run.row.seed] = run
    for run in runs:
        if run.row.stage != "tuned":
            _add_once(study.aligned if run.row.stage == "aligned" else study.base, run)
    _check_prompts(study.title, runs)
    return study


def _add_once(models: list[EvidenceRun], run: EvidenceRun) -> None:
    """A model that two comparisons measured counts once: it is no second seed. Raises DataError for other verdicts."""
    weights = run.extras.aligned
    same = [
        other for other in models if other.extras.aligned == weights and (weights or other.row.seed == run.row.seed)
    ]
    if not same:
        models.append(run)
    elif same[0].extras.verdicts != run.extras.verdicts:
        raise DataError(
            f"{same[0].row.run} and {run.row.run} are the same {run.row.stage} model with other verdicts. Keep the "
            "comparisons in two files."
        )


def _check_prompts(title_: str, runs: Sequence[EvidenceRun]) -> None:
    asked: dict[tuple[str, str], tuple[str, EvidenceRun]] = {}
    for run in runs:
        for kind, suites in run.extras.prompts.items():
            for suite, prompts in suites.items():
                known, first = asked.setdefault((kind, suite), (prompts, run))
                if known != prompts:
                    raise DataError(
                        f"{first.row.run} and {run.row.run} on {title_} were asked different prompts in {suite}. Keep "
                        "comparisons with other prompts in another file."
                    )


def specs(run: EvidenceRun) -> list[dict[str, Any]]:
    """Its methods with their fields; the last one also with what the memory is."""
    listed = as_json(run.row.methods or ())
    # With spaces, so that no method has a field of the name: DER's own `replay` is another thing.
    memory = {"memory rows": run.row.memory_rows, "memory from": as_json(run.row.replay)}
    return [*listed[:-1], {**listed[-1], **memory}] if listed else []


def _names(runs: Sequence[EvidenceRun]) -> list[str]:
    """`der` for the setting that most runs have, `der(weight=5)` for another: what differs from the first is named."""
    plain = ["+".join(title(str(spec["name"])) for spec in specs(run)) for run in runs]
    keys = [json.dumps(specs(run), sort_keys=True, default=str) for run in runs]
    usual = {
        name: Counter(key for key, other in zip(keys, plain, strict=True) if other == name).most_common(1)[0][0]
        for name in plain
    }
    named = []
    for run, name, key in zip(runs, plain, keys, strict=True):
        changes = [f"{k}={_short(v)}" for _, k, _, v in differing(json.loads(usual[name]), specs(run))]
        named.append(f"{name}({', '.join(changes)})" if key != usual[name] else name)
    return named


def differing(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> list[tuple[int, str, Any, Any]]:
    """Fields in which two lists of the same methods differ: place in the list, field, and both values."""
    return [
        (i, key, a.get(key), b.get(key))
        for i, (a, b) in enumerate(zip(one, other, strict=True))
        for key in dict.fromkeys([*a, *b])
        if a.get(key) != b.get(key)
    ]


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "+".join(value) if isinstance(value, list) else str(value)


# ── figures ──


def headline(run: EvidenceRun, kind: Kind) -> Rate:
    """The mean of the suites, or the task's first measure."""
    known = run.row.rates(kind)
    return known["mean"] if kind != "utility" and "mean" in known else next(iter(known.values()), UNMEASURED)


def rate(runs: Sequence[EvidenceRun], kind: Kind) -> Rate:
    """Of one setting, over its seeds; not measured where one of them was not: the page says how many seeds it is of."""
    each = [headline(run, kind) for run in runs]
    return UNMEASURED if UNMEASURED in each else rates.over_seeds(each)


def difference(
    kind: Kind, pairs: Sequence[tuple[EvidenceRun, EvidenceRun]], confidence: float = 1 - paired.ALPHA
) -> Difference | None:
    """The first's share of hits less the other's, prompts paired within a seed, and then over seeds.

    None without pairs, or where a kind was not asked. Raises DataError where two runs were asked different prompts.
    """
    each = [_verdicts(kind, one, other) for one, other in pairs]
    if not each or not all(each):
        return None
    by_seed = [paired.mean_difference(suites, confidence=confidence) for suites in each]
    crossed = len({str(one.extras.prompts[kind]) for one, _ in pairs}) == 1  # all seeds were asked the same
    return paired.over_seeds(by_seed, confidence, paired.repeated(each) if crossed else 1.0)


def _verdicts(kind: Kind, one: EvidenceRun, other: EvidenceRun) -> list[tuple[Verdicts, Verdicts]]:
    """By suite, or of the task's first measure; empty where one of the two was not asked."""
    ours, theirs = (run.extras.prompts.get(kind, {}) for run in (one, other))
    if not ours or not theirs:
        return []
    suites = list(ours)[:1] if kind == "utility" else list(ours)
    if wrong := [suite for suite in suites if ours[suite] != theirs.get(suite)]:
        raise DataError(f"{one.row.run} and {other.row.run} were asked different prompts in {', '.join(wrong)}.")
    return [(one.verdicts(kind, suite), other.verdicts(kind, suite)) for suite in suites]
