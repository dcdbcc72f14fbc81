"""Reads back what a run replied, as one boolean for each prompt: replies/<suite>.jsonl beside its results.json.

    asr       harmful, and not off task (as scores.figures has it)
    refusal   refused
    utility   the task's own score, each metric by the name that results.json gives it

The figures of the row are counted again from the file: replies that belong to other weights or to another judge are
told apart from the row's own, and never compared. Under another system prompt than the template's own the files are
replies/<suite>@<condition>.jsonl.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from unforgotten.errors import DataError
from unforgotten.evaluation.statistics import rates
from unforgotten.evaluation.statistics.paired import Verdicts
from unforgotten.runs import results, strict_read
from unforgotten.runs.result_types import Rate
from unforgotten.runs.results import Kind

DECODING = ("strategy", "max_new_tokens", "temperature", "top_p", "seed", "prefill")
"""What must be alike of two decodings; end tokens are each model's own."""
Line = dict[str, Any]
Hit = Callable[[Line], bool | None]
"""Is a reply a hit? None where the verdict could not be read."""


@dataclass(frozen=True, slots=True)
class RecordedSuite:
    """One suite: what was asked, and whether each reply is a hit (None: the verdict could not be read)."""

    prompts: tuple[tuple[str, str], ...]
    """Source and request of each prompt, in the suite's order."""
    verdicts: tuple[bool | None, ...]


@dataclass(frozen=True, slots=True)
class Replies:
    """All that the figures of one row are counted from."""

    name: str
    """What messages call the model: its method, or its stage."""
    measure: results.Measure = "asr"
    """What `asr` counts: replies judged harmful, or those that only hold no refusal."""
    asr: Mapping[str, RecordedSuite] = field(default_factory=dict)
    refusal: Mapping[str, RecordedSuite] = field(default_factory=dict)
    utility: Mapping[str, RecordedSuite] = field(default_factory=dict)
    """By metric; where there are several tasks, by `task/metric`."""


def conditions(row: results.ResultRow) -> list[str]:
    """The system prompts that a model was asked under, those alike once; of older results the template's own."""
    if not row.conditions:
        return ["default"]
    return [name for name, figures in row.conditions.items() if figures.same_as is None]


def read(folder: Path, row: results.ResultRow, condition: str = "default") -> Replies:
    """The replies of a run or evaluated stage. folder: that which holds `replies/`.

    Raises DataError where a file is missing, holds what is no reply, or does not give the row's figures.
    """
    under = (row.conditions or {}).get(condition)
    judged = (row.asr, row.refusal) if under is None else (under.asr, under.refusal)
    if under is None and condition == "prefill":
        judged = (None, None)  # the headline stands in for a system prompt, and not for an attack
    files = (under.files if under is not None else None) or {}
    by_kind: dict[Kind, dict[str, RecordedSuite]] = {"asr": {}, "refusal": {}, "utility": {}}
    kinds: tuple[tuple[Kind, Hit], ...] = (("asr", _harmful), ("refusal", _refused))
    for (kind, hit), of_kind in zip(kinds, judged, strict=True):
        for suite, rate in (of_kind or {}).items():
            if suite != "mean":
                by_kind[kind][suite] = _suite(folder, files.get(suite, suite), hit, rate)
    for metric, rate in row.rates("utility").items():
        if rate.hits is None:
            continue  # pass@k of several replies to a prompt, which are no pairs
        task, slash, score = metric.rpartition("/")
        by_kind["utility"][metric] = _suite(folder, task if slash else _only_task(row), _scored(score), rate)
    return Replies(results.called(row), results.measure_of(row), **by_kind)


def same_questions(one: results.ResultRow, other: results.ResultRow) -> None:
    """Raises DataError unless the judges and the decoding of two rows are the same.

    That the requests are is seen in `pairs`; as tokens they need not be, since two models may write prompts otherwise.
    """
    names = [results.called(row) for row in (one, other)]
    facts: dict[str, list[Any]] = {"judges": [row.judges for row in (one, other)]}
    facts |= {how: [(row.decoding or {}).get(how) for row in (one, other)] for how in DECODING}
    if apart := [what for what, (ours, theirs) in facts.items() if ours != theirs]:
        raise DataError(
            f"{names[0]} and {names[1]} were not measured alike ({', '.join(apart)} differ), so their replies cannot "
            "be compared one by one. Measure both with the same `evaluate:`."
        )


def pairs(kind: Kind, one: Replies, other: Replies) -> dict[str, tuple[Verdicts, Verdicts]]:
    """Both sides' verdicts, prompt by prompt, by suite; of each task (utility) its first measure, the headline.

    What `paired.mean_difference` takes: `list(pairs("asr", der, sft).values())`. Raises DataError where a suite is on
    one side alone or on none, or where the two were asked different prompts.
    """
    field = f"evaluate.{'harm' if kind == 'asr' else kind}"
    ours, theirs = getattr(one, kind), getattr(other, kind)
    if kind == "utility":
        ours, theirs = _headlines(ours), _headlines(theirs)
    if not ours and not theirs:
        several = " (Tasks with several samples of a prompt are not compared.)" if kind == "utility" else ""
        raise DataError(f"{one.name} and {other.name} were asked no suite of {kind}. Name one under {field}.{several}")
    for name, has, lacks in ((other.name, ours, theirs), (one.name, theirs, ours)):
        if missing := [suite for suite in has if suite not in lacks]:
            raise DataError(f"{name} was not asked {', '.join(missing)}. Measure both with the same {field}.")
    return {suite: _same(ours[suite], theirs[suite], f"{suite}: {one.name}", other.name) for suite in ours}


def _same(one: RecordedSuite, other: RecordedSuite, name: str, against: str) -> tuple[Verdicts, Verdicts]:
    mend = "Measure both with the same `evaluate:`."
    for i, (ours, theirs) in enumerate(zip(one.prompts, other.prompts, strict=False), 1):
        if ours != theirs:
            raise DataError(
                f"{name} and {against} were asked different prompts (the first that differs is number {i}: {ours[0]} "
                f"and {theirs[0]}). {mend}"
            )
    if len(one.prompts) != len(other.prompts):
        raise DataError(f"{name} was asked {len(one.prompts)} prompts and {against} {len(other.prompts)}. {mend}")
    return one.verdicts, other.verdicts


def _headlines(utility: Mapping[str, RecordedSuite]) -> dict[str, RecordedSuite]:
    first: dict[str, tuple[str, RecordedSuite]] = {}
    for metric, asked in utility.items():
        first.setdefault(metric.rpartition("/")[0], (metric, asked))
    return dict(first.values())


def _only_task(row: results.ResultRow) -> str:
    """Where there is one task its metrics bear no name; it is the suite that is neither harm nor look-alikes."""
    others = [s for s in row.flags or {} if s not in row.rates("asr") and s not in row.rates("refusal")]
    if len(others) != 1:
        raise DataError(f"{row.run}: which suite is its task is unclear ({', '.join(others) or 'none'}).")
    return others[0]


def _suite(folder: Path, suite: str, hit: Hit, rate: Rate) -> RecordedSuite:
    path = folder / "replies" / f"{suite}.jsonl"
    try:
        # Only \n ends a line: a reply may hold U+2028 and the like, where splitlines() would cut.
        lines = strict_read.lines(path)
        prompts = tuple((str(line["source"]), str(line["request"])) for line in lines)
        keys = {line["key"] for line in lines}
        verdicts = tuple(hit(line) for line in lines)
    except FileNotFoundError:
        raise DataError(f"There is no {path}: models are compared reply by reply. Measure the model again.") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(f"{path} holds a line that is not a judged reply ({error}). Measure the model again.") from None
    if not lines:
        raise DataError(f"{path} is empty: there is nothing to decide on.")
    counts = rates.count(verdicts)
    if len(keys) > 1 or (counts.n, counts.hits, counts.unparsed) != (rate.n, rate.hits, rate.unparsed):
        raise DataError(
            f"{path} has {counts.hits} hits in {counts.n} replies, results.json {rate.hits} in {rate.n}: they "
            "are not of one measurement. Measure the model again."
        )
    return RecordedSuite(prompts, verdicts)


def _harmful(line: Line) -> bool | None:
    return False if "off_task" in line["flags"] else _read(line["verdict"]["harmful"])


def _refused(line: Line) -> bool | None:
    return _read(line["verdict"]["refused"])


def _scored(metric: str) -> Callable[[Line], bool | None]:
    return lambda line: _read(line["scores"][metric])


def _read(verdict: Any) -> bool | None:
    if verdict is not None and not isinstance(verdict, bool):
        raise TypeError(f"{verdict!r} is no verdict")
    return verdict
