"""The evidence file: of each run its figures, its verdict on each prompt, and how it was made. No reply, no prompt.

    {"schema": 1, "comparisons": [...], "environments": [...], "runs": [...]}

`verdicts` has a letter for each prompt of a suite: 1 a hit, 0 none, ? a verdict that could not be read. `prompts` has a
digest of the suite's requests, so that two runs are paired only where they were asked the same.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, get_args

from pydantic import ConfigDict, TypeAdapter, ValidationError

from unforgotten.errors import DataError
from unforgotten.evaluation.statistics import rates
from unforgotten.evaluation.statistics.paired import Verdicts
from unforgotten.runs import atomic, results, strict_read
from unforgotten.runs.result_types import NonNegative, Number, Rate, Text, as_json
from unforgotten.runs.results import Kind, ResultRow

SCHEMA = 1
KEPT = (
    *("method", "methods", "task", "poison", "attack", "seed", "stage", "asr", "refusal", "utility", "cost", "model"),
    *("memory_rows", "replay", "judges", "measure", "headline", "decoding", "run", "flags"),
)
"""Fields of a row of results.json that the file has. Notes, digests and categories stay in the run's folder."""
LETTERS: dict[bool | None, str] = {True: "1", False: "0", None: "?"}
BITS = {letter: verdict for verdict, letter in LETTERS.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class RunExtras:
    """What a run's evidence has beside its row of results.json."""

    comparison: NonNegative
    """Index of the comparison that it was read from."""
    environment: NonNegative | None = None
    """Index of versions, commit and hardware; None for models that no run trained."""
    aligned: Text | None = None
    """The digest of θ_safe, where it is known."""
    verdicts: Mapping[Kind, Mapping[str, Text]]
    """By kind and suite (or measure of the task), a letter for each prompt."""
    prompts: Mapping[Kind, Mapping[str, Text]]
    """By kind and suite, a digest of the requests in their order."""
    prefill: Mapping[Text, Text] | None = None
    """By harm suite, a letter for each prompt whose reply was forced to begin as `evaluate.prefill` says."""
    drift: Mapping[str, Number] | None = None
    """How far the saved weights are from θ_safe on held-out safety rows, by unit and kind (training/drift.py)."""
    gradient_ratio: Number | None = None
    """Norm of the methods' gradient over that of the user's: mean over logged steps."""
    weight: Number | None = None
    """λ at the end of the run."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True, slots=True)
class EvidenceRun:
    """One measured model: its row of results.json, and its extras."""

    row: ResultRow
    extras: RunExtras

    def verdicts(self, kind: Kind, suite: str) -> Verdicts:
        """(n,) in the prompts' order."""
        return [BITS[letter] for letter in self.extras.verdicts[kind][suite]]

    def forced(self, suite: str) -> Verdicts:
        """(n,) of the replies whose beginning was forced."""
        return [BITS[letter] for letter in (self.extras.prefill or {})[suite]]

    def json(self) -> dict[str, Any]:
        """As the file has it: what is null is left out."""
        row = {field: as_json(value) for field in KEPT if (value := getattr(self.row, field)) is not None}
        more = {field.name: as_json(getattr(self.extras, field.name)) for field in fields(self.extras)}
        return row | {name: value for name, value in more.items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedComparison:
    """One folder of `compare`."""

    folder: Text
    command: Text | None = None
    """What made it, as the person who keeps the file says."""
    recipe: Mapping[str, Any]
    """Of its first run, without local paths."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that one file has."""

    comparisons: Sequence[RecordedComparison]
    environments: Sequence[Mapping[str, Any]]
    runs: Sequence[EvidenceRun]


def write(path: Path, evidence: Evidence) -> None:
    """A run on a line, so that a change of one is a change of a line."""
    parts = {
        "comparisons": [as_json(each) for each in evidence.comparisons],
        "environments": list(evidence.environments),
        "runs": [run.json() for run in evidence.runs],
    }
    lists = [
        f'"{name}": [\n' + ",\n".join(json.dumps(item, ensure_ascii=False) for item in items) + "\n]"
        for name, items in parts.items()
    ]
    text = f'{{"schema": {SCHEMA},\n' + ",\n".join(lists) + "}\n"
    _evidence(json.loads(text), path)
    atomic.put(path, text)


def read(path: Path) -> Evidence:
    """The file. Raises DataError where it is none, or where verdicts and figures do not agree."""
    try:
        tree = strict_read.value(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from None
    return _evidence(tree, path)


def _evidence(tree: Any, path: Path) -> Evidence:
    """What the JSON of a file holds. path: for messages. Raises DataError as `read` does."""
    if not isinstance(tree, dict) or tree.get("schema") != SCHEMA:
        raise DataError(f"{path} is no evidence file of schema {SCHEMA}. `python docs/evidence.py` writes one.")
    try:
        comparisons = [_comparison().validate_python(item) for item in tree["comparisons"]]
        environments = [_environment().validate_python(item) for item in tree["environments"]]
        runs = [_run(item) for item in tree["runs"]]
        _check_together(runs, len(comparisons), len(environments))
        return Evidence(comparisons, environments, runs)
    except ValidationError as error:
        first = error.errors()[0]
        raise DataError(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise DataError(f"{path} is no evidence file: {error}.") from None


def _run(item: Mapping[str, Any]) -> EvidenceRun:
    row = results.row_of(dict.fromkeys(results.FIELDS) | {k: v for k, v in item.items() if k in KEPT})
    extras = _extras().validate_python({k: v for k, v in item.items() if k not in KEPT})
    for kind in get_args(Kind):
        _check_figures(row, extras, kind)
    for suite, letters in (extras.prefill or {}).items():
        if unknown := set(letters) - set(BITS):
            raise ValueError(f"{row.run}, {suite}, prefill: {''.join(sorted(unknown))!r} is no verdict")
        if len(letters) != len(asked := extras.verdicts.get("asr", {}).get(suite, "")):
            raise ValueError(
                f"{row.run}, {suite}: {len(letters)} verdicts with a forced beginning, {len(asked)} without one"
            )
    return EvidenceRun(row, extras)


def _check_figures(row: ResultRow, extras: RunExtras, kind: Kind) -> None:
    """Raises ValueError where a figure of the row is another one than the verdicts give, or has none to give it."""
    figures = row.rates(kind)
    mean = None if kind == "utility" else figures.get("mean")
    asked = [suite for suite, rate in figures.items() if rate is not mean and rate.hits is not None]
    letters, prompts = extras.verdicts.get(kind, {}), extras.prompts.get(kind, {})
    if not set(asked) == set(letters) == set(prompts):
        named = (f"{what} of {', '.join(suites) or 'none'}" for what, suites in
                 (("figures", asked), ("verdicts", letters), ("prompts", prompts)))  # fmt: skip
        raise ValueError(f"{row.run}, {kind}: it has {'; '.join(named)}")
    counted = {}
    for suite in asked:
        if unknown := set(letters[suite]) - set(BITS):
            raise ValueError(f"{row.run}, {suite}: {''.join(sorted(unknown))!r} is no verdict")
        counted[suite] = rates.count(BITS[letter] for letter in letters[suite])
        _check_rate(row, suite, counted[suite], figures[suite], f"{counted[suite].n} verdicts")
    if mean is not None:
        _check_rate(row, f"mean of {kind}", rates.mean_rate(list(counted.values())), mean, f"{len(counted)} suites")


def _check_rate(row: ResultRow, what: str, counted: Rate, given: Rate, of: str) -> None:
    if counted.hits != given.hits:
        raise ValueError(f"{row.run}, {what}: {counted.hits} hits in {of}, {given.hits} in the row")
    if counted.rounded() != given.rounded():
        raise ValueError(f"{row.run}, {what}: {of} give {counted.json()}, the row has {given.json()}")


def _check_together(runs: Sequence[EvidenceRun], comparisons: int, environments: int) -> None:
    """Raises ValueError where a run names a place that is not there, or where prompts and verdicts do not go together.

    A digest stands for a list of prompts, so all verdicts on it are as many.
    """
    numbers: dict[str, int] = {}
    for run in runs:
        extras = run.extras
        if extras.comparison >= comparisons or (extras.environment or 0) >= max(1, environments):
            raise ValueError(f"{run.row.run} names a comparison or an environment that the file does not have")
        for kind, suites in extras.verdicts.items():
            for suite, letters in suites.items():
                n = numbers.setdefault(extras.prompts[kind][suite], len(letters))
                if n != len(letters):
                    raise ValueError(f"{run.row.run}, {suite}: {len(letters)} verdicts, where other runs have {n}")


@cache
def _extras() -> TypeAdapter[RunExtras]:
    return TypeAdapter(RunExtras)


@cache
def _comparison() -> TypeAdapter[RecordedComparison]:
    return TypeAdapter(RecordedComparison)


@cache
def _environment() -> TypeAdapter[Mapping[str, Any]]:
    return TypeAdapter(dict[str, Text | int | None | dict[str, Text]])
