"""results.json: `{"schema": 1, "rows": [...]}`, one row for each model that was measured.

    method      its name (several joined by +), or null for the base and the aligned model; `methods`: with settings
    name        what a model that was asked by itself is called: its folder or Hub id; null for runs and stages
    task        the user data's label          poison  p                seed             stage  base, aligned or tuned
    asr         {suite: Rate, "mean": Rate}    asr_without_overlap      the same, without prompts that were trained on
    refusal     {suite: Rate}                  utility {metric: Rate}   categories  {suite: {category: Rate}}
    flags       {suite: {"empty", "truncated", "degenerate", "off_task"}}, counted replies
    overlap     {suite: {"n", "touched", "exact": {set: count}, "near": {set: count}}}, counted prompts
    replay      what the memory was chosen from: "safety_data", "synthesize" or labels of data sets
    cost        {"train_seconds", "step_seconds", "tokens", "peak_memory_bytes"}, and "probe_seconds" where probed
    probe       [{"step", "asr", "refusal", "utility", "metric", "prompts"}], a Rate each, of few prompts; null: none
    measure     what `asr` is: "asr", or "non_refusal" where the judge only looks for refusals; null: no harm was asked
    served      {"as": a server's name for the model} where a server replied, whose weights nobody here saw; else null
    conditions  {system prompt: {"asr", "refusal", "files"} or {"same_as"}}; the fields above are those of `headline`
    p_harmful   {suite: mean of P(harmful), in percent}, of a judge that has one
    thinking    {suite: {"thoughts", "unclosed", "judged", "harmful_in_thought_alone"}}, counted replies; null: none
    agreement   [{"truth", "judges", "kappa", "low", "high", "agree", "n", "unread", "differ"}], of pairs of judges
    run         the folder with replies, relative to the folder that runs are made in
    digests     {"weights" (files), "loaded" (what was in memory), "data", "prompts", "settings"}

A Rate is `{"value", "hits", "n", "low", "high", "unparsed"}`: percent, with its 95 % interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from unforgotten.errors import DataError
from unforgotten.runs import atomic, console, strict_read
from unforgotten.runs.result_shape import problems

SCHEMA = 1
FIELDS = (
    *("name", "method", "methods", "task", "poison", "seed", "stage"),
    *("asr", "asr_without_overlap", "refusal", "utility", "cost"),
    *("model", "memory_rows", "replay", "judges", "agreement", "categories", "flags", "overlap"),
    *("measure", "served", "conditions", "headline", "p_harmful", "thinking", "probe"),
    *("template", "decoding", "sandbox", "digests", "run", "notes"),
)
LATER = ("name", "replay", "measure", "served", "conditions", "headline", "p_harmful", "thinking", "probe")
"""Fields that came after files of this schema were written; null where a file lacks them."""
STAGES = ("base", "aligned", "tuned")

Row = dict[str, Any]
Measure = Literal["asr", "non_refusal"]


@dataclass(frozen=True, slots=True)
class Words:
    """What the share of harmful prompts that `asr` counts is called, for tables and reports."""

    short: str
    long: str
    caveat: str
    """A sentence to print wherever the figure stands; empty where it needs none."""
    replies: str = "harmful answers"
    """The replies that are counted."""


MEASURES: dict[Measure, Words] = {
    "asr": Words("ASR", "harmful prompts answered (ASR)", ""),
    "non_refusal": Words(
        "non-refusal",
        "harmful prompts not refused (non-refusal)",
        "Non-refusal is the share of replies to harmful prompts that hold no phrase of a list of refusals. Nothing "
        "read whether a reply gives anything harmful, so it is no attack success rate (ASR). Name a judge that reads "
        "replies, such as llama_guard or wildguard.",
        "replies without a refusal",
    ),
}
MIXED = Words(
    "ASR or non-refusal",
    "harmful prompts answered (ASR) or not refused (non-refusal)",
    "Some figures are attack success rates (ASR) and some are non-refusal, by the judge of each: they are not "
    "comparable. " + MEASURES["non_refusal"].caveat,
    "harmful answers, or replies without a refusal",
)


def measure_of(row: Row) -> Measure:
    """What the `asr` of a row is; of rows from before it was recorded, by their first judge."""
    if row.get("measure"):
        return "non_refusal" if row["measure"] == "non_refusal" else "asr"
    first: dict[str, Any] = next(iter(row.get("judges") or []), {})
    return "non_refusal" if first.get("name") == "keywords" else "asr"


def words_of(rows: Iterable[Row]) -> Words:
    """What the figures of these rows are called; of rows of both kinds, both."""
    measures = {measure_of(row) for row in rows if row["asr"]}
    return MIXED if len(measures) > 1 else MEASURES[next(iter(measures), "asr")]


def served_as(row: Row) -> str:
    """`served as NAME` where a server replied under that name; empty where the weights were loaded here."""
    served = row.get("served")
    return f"served as {served['as']}" if served else ""


def row(**facts: Any) -> Row:
    """A row with every field, in their order; what was not measured is null."""
    if strange := facts.keys() - set(FIELDS):
        raise ValueError(f"no such fields of a result: {', '.join(sorted(strange))}")
    if facts.get("stage") not in STAGES:
        raise ValueError(f"stage {facts.get('stage')!r} is none of {', '.join(STAGES)}")
    return {field: facts.get(field) for field in FIELDS}


def write(path: Path, rows: Sequence[Row]) -> None:
    """Writes the file whole or not at all."""
    tree = {"schema": SCHEMA, "rows": [row(**facts) for facts in rows]}
    atomic.put(path, console.json_text(tree) + "\n")


def read(path: Path) -> list[Row]:
    """The rows. Raises DataError where the file is missing, is of another schema, or lacks fields."""
    try:
        tree = strict_read.value(path)
    except FileNotFoundError:
        raise DataError(f"There is no {path}. `unforgotten evaluate` or `compare` writes it.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(tree, dict) or tree.get("schema") != SCHEMA or not isinstance(tree.get("rows"), list):
        schema = tree.get("schema") if isinstance(tree, dict) else None
        raise DataError(f"{path} is not a results file of schema {SCHEMA} (found {schema!r}).")
    for i, facts in enumerate(tree["rows"], 1):
        if wrong := _problems(facts):
            raise DataError(f"{path}, row {i}: {'; '.join(wrong)}.")
    return [dict.fromkeys(LATER) | facts for facts in tree["rows"]]


def called(row: Row) -> str:
    """What tables and messages call the model: its own name, else its method, else its stage."""
    return str(row.get("name") or row["method"] or row["stage"])


def _problems(facts: Any) -> list[str]:
    if not isinstance(facts, dict):
        return ["is no object"]
    if missing := [field for field in FIELDS if field not in facts and field not in LATER]:
        return [f"lacks {', '.join(missing)}"]
    return problems(facts)
