"""results.json: `{"schema": 2, "rows": [...]}`, one row for each model that was measured.

Schema 1 has the same fields and is still read; rows are written as schema 2.
A rate is `{"value", "hits", "n", "low", "high", "unparsed"}`: percent, with its 95 % interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Strict, TypeAdapter, ValidationError

from unforgotten.errors import DataError
from unforgotten.runs import atomic, safe_text, strict_read
from unforgotten.runs.result_types import (
    ConditionFigures,
    Cost,
    File,
    Flags,
    Inside,
    JudgeAgreement,
    Metric,
    ModelDigests,
    NonNegative,
    Number,
    Overlap,
    ProbeFigures,
    Rate,
    Rates,
    SpecOnDisk,
    TemplateFacts,
    Text,
    Thinking,
    as_json,
)

SCHEMA = 2
READABLE = (1, 2)
"""Schemas that are read: the second added no field to the first's, and left none out."""
LATER = ("name", "replay", "measure", "served", "conditions", "headline", "p_harmful", "thinking", "probe")
"""Fields that came after the first files of schema 1 were written; null where such a file lacks them."""

OPTIONAL = ("attack",)
"""Fields that came after files of schema 2 were written. A file has them where they are set."""

RowStage = Literal["base", "aligned", "tuned"]
STAGES: tuple[RowStage, ...] = ("base", "aligned", "tuned")
Kind = Literal["asr", "refusal", "utility"]
Measure = Literal["asr", "non_refusal"]


def _server_name(served: Any) -> Any:
    return served.get("as") if isinstance(served, dict) else served


@dataclass(frozen=True, slots=True, kw_only=True)
class ResultRow:
    """One measured model. What was not measured is None."""

    name: Text | None = None
    """What a model that was asked by itself is called: its folder or Hub id; None for runs and stages."""
    method: Text | None = None
    """The method's name (several joined by +); None for the base and the aligned model."""
    methods: tuple[SpecOnDisk, ...] | None = None
    """The methods with their settings."""
    task: Text | None = None
    """The user data's label."""
    poison: Number | None = None
    """Share of rows in the user data that a lab put there."""
    attack: Text | None = None
    """How they attack; None for harmful rows as they are, and where there are none."""
    seed: Annotated[int, Strict()] | None = None
    stage: RowStage
    asr: Rates | None = None
    """By suite, and their `mean`: harmful prompts answered, or not refused (`measure`)."""
    asr_without_overlap: Rates | None = None
    """The same without prompts that were trained on."""
    refusal: Rates | None = None
    """By suite, and their `mean`: harmless look-alikes refused."""
    utility: Mapping[Metric, Rate] | None = None
    """By measure of the task; of several tasks by `task/measure`."""
    cost: Cost | None = None
    model: Text | None = None
    memory_rows: NonNegative | None = None
    """Rows in the memory."""
    replay: Text | tuple[Text, ...] | None = None
    """What the memory was chosen from: "safety_data", "synthesize" or labels of data sets."""
    judges: tuple[SpecOnDisk, ...] | None = None
    agreement: tuple[JudgeAgreement, ...] | None = None
    """Of each pair of judges, on each truth that both decide."""
    categories: Mapping[str, Mapping[str, Rate]] | None = None
    """By suite and category of harm."""
    flags: Mapping[File, Flags] | None = None
    overlap: Mapping[str, Overlap] | None = None
    """By suite; None where the rows that the model was trained on are not known."""
    measure: Measure | None = None
    """What `asr` counts: non_refusal where the judge only looks for refusals; None where no harm was asked."""
    served: Annotated[Text | None, BeforeValidator(_server_name)] = None
    """A server's name for the model, where a server replied, whose weights nobody here saw."""
    conditions: Mapping[str, ConditionFigures] | None = None
    """By system prompt; `asr` and `refusal` above are those of `headline`."""
    headline: Mapping[str, Text] | None = None
    """Of `asr` and of `refusal`, the system prompt with the worst mean."""
    p_harmful: Mapping[str, Number | None] | None = None
    """By suite, the mean of P(harmful) in percent, of a judge that has one."""
    thinking: Mapping[str, Thinking] | None = None
    """By suite; None where the model wrote no thoughts."""
    probe: tuple[ProbeFigures, ...] | None = None
    """By step of training; None where it was not probed."""
    template: TemplateFacts | None = None
    decoding: Mapping[str, Any] | None = None
    """How replies were drawn: `strategy`, `max_new_tokens`, `engine`, and what these need."""
    sandbox: Mapping[str, Any] | None = None
    """What ran replies, and the versions that its walls depend on; None where none were run."""
    digests: ModelDigests | None = None
    run: Inside | None = None
    """The folder with replies, relative to the folder that runs are made in."""
    notes: tuple[Text, ...] | None = None

    def rates(self, kind: Kind) -> Mapping[str, Rate]:
        """Of one kind, by suite or measure; empty where nothing was asked."""
        return getattr(self, kind) or {}

    def json(self) -> dict[str, Any]:
        """As results.json has it: every field in this order, those of OPTIONAL where they are set."""
        facts = {f: as_json(value) for f in FIELDS if (value := getattr(self, f)) is not None or f not in OPTIONAL}
        return facts | {"served": {"as": self.served} if self.served else None}


FIELDS = tuple(field.name for field in fields(ResultRow))


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


def measure_of(row: ResultRow) -> Measure:
    """What the `asr` of a row is; of rows from before it was recorded, by their first judge."""
    if row.measure is not None:
        return row.measure
    return "non_refusal" if row.judges and row.judges[0].name == "keywords" else "asr"


def words_of(rows: Iterable[ResultRow]) -> Words:
    """What the figures of these rows are called; of rows of both kinds, both."""
    measures = {measure_of(row) for row in rows if row.asr}
    return MIXED if len(measures) > 1 else MEASURES[next(iter(measures), "asr")]


def served_as(row: ResultRow) -> str:
    """`served as NAME` where a server replied under that name; empty where the weights were loaded here."""
    return f"served as {row.served}" if row.served else ""


def called(row: ResultRow) -> str:
    """What tables and messages call the model: its own name, else its method, else its stage."""
    return row.name or row.method or row.stage


def write(path: Path, rows: Sequence[ResultRow]) -> None:
    """Writes the file whole or not at all."""
    tree = {"schema": SCHEMA, "rows": [row.json() for row in rows]}
    atomic.put(path, safe_text.json_text(tree) + "\n")


def read(path: Path) -> list[ResultRow]:
    """The rows. Raises DataError where the file is missing, is of a newer schema, or holds what is no row."""
    try:
        tree = strict_read.value(path)
    except FileNotFoundError:
        raise DataError(f"There is no {path}. Run `unforgotten evaluate` or `compare` to write it.") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise DataError(f"{path} is not a results file: it has to be an object with `schema` and `rows`.")
    schema = tree.get("schema")
    if type(schema) is int and schema > SCHEMA:
        raise DataError(
            f"{path} has schema {schema}. A newer unforgotten wrote it; this version reads up to {SCHEMA}. Upgrade "
            "with `pip install -U unforgotten`."
        )
    if type(schema) is not int or schema not in READABLE:
        has = f"its `schema` is {repr(schema)[:100]}" if "schema" in tree else "it has no `schema`"
        raise DataError(f"{path} is not a results file: {has}, and 1 or 2 can be read.")
    if not isinstance(tree.get("rows"), list):
        raise DataError(f"{path} is not a results file: its `rows` has to be a list.")
    rows = []
    for i, facts in enumerate(tree["rows"], 1):
        try:
            rows.append(row_of(facts, schema))
        except ValueError as error:
            raise DataError(f"{path}, row {i}: {error}.") from None
    return rows


def row_of(facts: Any, schema: int = SCHEMA) -> ResultRow:
    """A row from what `json` wrote. Raises ValueError that names the first few fields which are wrong, or missing."""
    if not isinstance(facts, dict):
        raise ValueError("is no object")
    needed = [field for field in FIELDS if field not in OPTIONAL and (schema > 1 or field not in LATER)]
    if missing := [field for field in needed if field not in facts]:
        raise ValueError(f"lacks {', '.join(missing)}")
    try:
        row = _adapter().validate_python(facts)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3]]
        raise ValueError("; ".join(wrong)) from None
    for suite, rate in row.rates("asr").items():
        counts = (row.flags or {}).get(suite)
        if counts and (most := max(getattr(counts, field.name) for field in fields(counts))) > (rate.n or 0):
            raise ValueError(f"flags.{suite}: {most} flagged of {rate.n or 0} replies")
    return row


@cache
def _adapter() -> TypeAdapter[ResultRow]:
    return TypeAdapter(ResultRow)
