"""Folders of `compare` into one evidence file: figures, verdicts, drift, gradient ratio, versions and commit."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from unforgotten.errors import DataError
from unforgotten.evaluation import recorded_verdicts
from unforgotten.evaluation.recorded_verdicts import RecordedSuite
from unforgotten.report.evidence.recorded import KEPT, LETTERS, Evidence, EvidenceRun, RecordedComparison, RunExtras
from unforgotten.report.evidence.studies import studies
from unforgotten.runs import atomic, digests, results, strict_read, strict_yaml
from unforgotten.runs.result_types import NamedSpec
from unforgotten.runs.results import Kind, ResultRow

ENVIRONMENT = ("commit", "python", "platform", "cores", "versions")
"""What of environment.json is the same for runs of one checkout on one machine."""
RATIO = "gradient_norm_ratio"
"""Of a line of metrics.jsonl: `method/…` of all terms together, `NAME/…` of one method (training/gradient_ratio.py)."""


def collect(folders: Sequence[Path], command: str | None = None) -> Evidence:
    """All runs of these comparisons, each once. command: what made them, for the reader.

    Raises DataError where a folder is no finished comparison, where replies are missing, where runs of one model and
    task were not asked alike, or where one run has two sets of figures; also what `studies` raises.
    """
    comparisons: list[RecordedComparison] = []
    environments: list[dict[str, Any]] = []
    runs: dict[str, EvidenceRun] = {}
    asked: dict[tuple[str | None, str | None], ResultRow] = {}
    for folder in folders:
        rows, root = results.read(folder / "results.json"), folder.parent
        comparisons.append(RecordedComparison(folder=folder.name, command=command, recipe=_recipe(root, rows)))
        for row in rows:
            recorded_verdicts.same_questions(asked.setdefault((row.model, row.task), row), row)
            run = _run(root, row, len(comparisons) - 1, environments)
            known = runs.setdefault(f"{row.run} {row.task}", run)
            if _figures(known) != _figures(run):
                raise DataError(f"{row.run} has other figures in {folder.name} than in a comparison named before it.")
    studies(list(runs.values()))
    return Evidence(comparisons, environments, list(runs.values()))


def _figures(run: EvidenceRun) -> str:
    verdicts = {kind: dict(suites) for kind, suites in run.extras.verdicts.items()}
    return json.dumps([verdicts, run.extras.drift], sort_keys=True, default=str)


def _run(root: Path, row: ResultRow, comparison: int, environments: list[dict[str, Any]]) -> EvidenceRun:
    if row.run is None:
        raise DataError(f"A row of {results.called(row)} names no run, so its replies cannot be read. Compare again.")
    suites = _suites(root / row.run, row)
    extras = RunExtras(
        comparison=comparison,
        verdicts={kind: {name: _letters(suite) for name, suite in of.items()} for kind, of in suites.items()},
        prompts={
            kind: {name: digests.digest(suite.prompts) for name, suite in of.items()} for kind, of in suites.items()
        },
        prefill=_prefill(root / row.run, row, suites.get("asr", {})),
        **(_trained(root / Path(row.run).parts[0], row, environments) if row.stage == "tuned" else _aligned(row)),
    )
    slim = {field: getattr(row, field) for field in KEPT}
    slim["judges"] = tuple(NamedSpec(spec.name, digests.public(dict(spec.settings))) for spec in row.judges or ())
    return EvidenceRun(ResultRow(**slim), extras)


def _suites(folder: Path, row: ResultRow) -> dict[Kind, Mapping[str, RecordedSuite]]:
    """By kind, under the system prompt that the row's headline figures are of."""
    suites: dict[Kind, Mapping[str, RecordedSuite]] = {}
    for kind in get_args(Kind):
        replies = recorded_verdicts.read(folder, row, (row.headline or {}).get(kind, "default"))
        if of_kind := getattr(replies, kind):
            suites[kind] = of_kind
    return suites


def _prefill(folder: Path, row: ResultRow, plain: Mapping[str, RecordedSuite]) -> dict[str, str] | None:
    """Verdicts on replies whose beginning was forced; None where none was. plain: the same prompts without."""
    if "prefill" not in (row.conditions or {}):
        return None
    forced = recorded_verdicts.read(folder, row, "prefill").asr
    for name, suite in forced.items():
        if name not in plain or suite.prompts != plain[name].prompts:
            raise DataError(f"{row.run}, {name}: other prompts were asked with a forced beginning. Measure it again.")
    return {name: _letters(suite) for name, suite in forced.items()}


def _letters(suite: RecordedSuite) -> str:
    return "".join(LETTERS[verdict] for verdict in suite.verdicts)


def _aligned(row: ResultRow) -> dict[str, Any]:
    weights = row.digests.weights if row.digests else None
    return {"aligned": weights} if row.stage == "aligned" else {}


def _trained(folder: Path, row: ResultRow, environments: list[dict[str, Any]]) -> dict[str, Any]:
    """What only the folder of a trained run has; what was not measured is None."""
    recorded = atomic.read_object(folder / "environment.json")
    facts = {name: recorded[name] for name in ENVIRONMENT if name in recorded}
    if facts not in environments:
        environments.append(facts)
    drift = None
    if (folder / "held_out.json").is_file():
        result = atomic.read_object(folder / "held_out.json").get("result") or {}
        drift = {name: value for name, value in result.items() if name not in ("step", "rows")} or None
    log = strict_read.lines(folder / "metrics.jsonl") if (folder / "metrics.jsonl").is_file() else []
    return {
        "environment": environments.index(facts),
        "aligned": (recorded.get("aligned") or {}).get("digest"),
        "drift": drift,
        "gradient_ratio": gradient_ratio(log),
        "weight": final_weight(log, row.methods or ()),
    }


def gradient_ratio(log: Sequence[Mapping[str, Any]]) -> float | None:
    """The mean over logged lines: of all terms together where they are logged, else the sum of the methods' own."""
    ratios = []
    for line in log:
        own = [value for key, value in line.items() if key.endswith(f"/{RATIO}") and not key.startswith("method/")]
        if own or f"method/{RATIO}" in line:
            ratios.append(float(line.get(f"method/{RATIO}", sum(own))))
    return fmean(ratios) if ratios else None


def final_weight(log: Sequence[Mapping[str, Any]], methods: Sequence[NamedSpec]) -> float | None:
    """λ of the last method that has one: as last logged, else as its settings have it."""
    for spec in reversed(methods):
        logged = [line[f"{spec.name}/weight"] for line in log if f"{spec.name}/weight" in line]
        value = logged[-1] if logged else spec.settings.get("weight")
        if isinstance(value, (int, float)):
            return float(value)
    return None


def _recipe(root: Path, rows: Sequence[ResultRow]) -> dict[str, Any]:
    """The recipe of the first trained run, without what names places or is left at nothing."""
    first = next((row for row in rows if row.stage == "tuned" and row.run), None)
    if first is None:
        return {}
    tree = strict_yaml.load_file(root / Path(str(first.run)).parts[0] / "recipe.yaml")
    plain = {key: value for key, value in (tree or {}).items() if key != "out" and value not in (None, [], {})}
    return dict(digests.public(plain))
