"""The shape of a row of results.json, checked when a file is read: a results file may be a stranger's.

What is checked here need not be looked at again: rates are rates, and no name in a row leads out of the folder of runs.
"""

from __future__ import annotations

from functools import cache
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

Percent = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0)]
Text = Annotated[str, Field(max_length=100_000)]


def _inside(path: str) -> str:
    """A folder below that of the runs, which page and gate open."""
    parts = PurePosixPath(path).parts
    if PurePosixPath(path).is_absolute() or ".." in parts or "\\" in path or "\0" in path:
        raise ValueError("must be a folder below that of the runs, without `..`")
    return path


def _file(name: str) -> str:
    """A name that `replies/NAME.jsonl` may bear."""
    if "/" in name or "\\" in name or "\0" in name:
        raise ValueError("must be the name of a file, without a folder")
    return name


def _metric(name: str) -> str:
    task, _, metric = name.rpartition("/")
    return _file(task) and f"{task}/{metric}" if task else _file(metric)


Inside = Annotated[str, AfterValidator(_inside)]
File = Annotated[str, AfterValidator(_file)]
Metric = Annotated[str, AfterValidator(_metric)]


class _Loose(BaseModel):
    model_config = ConfigDict(extra="allow")


class Rate(BaseModel):
    """A share in percent with its interval; null where nothing was measured."""

    model_config = ConfigDict(extra="forbid", strict=True)
    value: Percent | None
    hits: Count | None
    n: Count | None
    low: Percent | None
    high: Percent | None
    unparsed: Count = 0


class Named(_Loose):
    """A method or judge: its name, and its settings."""

    name: Text


class Overlap(BaseModel):
    """Prompts of a suite that rows trained on are copies of, or nearly so."""

    n: Count
    touched: Count
    exact: dict[str, Count]
    near: dict[str, Count]


class Agreement(_Loose):
    """Of two judges."""

    truth: Text
    judges: list[Text] = Field(min_length=2, max_length=2)
    n: Count
    kappa: float | None
    differ: Count = 0


class Condition(_Loose):
    """Figures under one system prompt, or which other's they are."""

    same_as: Text | None = None
    asr: dict[File, Rate] | None = None
    refusal: dict[File, Rate] | None = None
    files: dict[str, File] | None = None


class Probed(_Loose):
    """Figures at one step of training."""

    step: Count
    asr: Rate | None = None
    refusal: Rate | None = None
    utility: Rate | None = None


class Shape(_Loose):
    """One row; what a field means stands in results.py."""

    name: Text | None = None
    method: Text | None
    methods: list[Named] | None
    task: Text | None
    poison: float | None
    seed: int | None
    stage: Literal["base", "aligned", "tuned"]
    asr: dict[File, Rate] | None
    asr_without_overlap: dict[File, Rate] | None
    refusal: dict[File, Rate] | None
    utility: dict[Metric, Rate] | None
    cost: dict[str, float | None] | None
    model: Text | None
    memory_rows: Count | None
    replay: Text | list[Text] | None = None
    judges: list[Named] | None
    agreement: list[Agreement] | None
    categories: dict[str, dict[str, Rate]] | None
    flags: dict[File, dict[str, Count]] | None
    overlap: dict[str, Overlap] | None
    measure: Text | None = None
    served: dict[str, Any] | None = None
    conditions: dict[str, Condition] | None = None
    headline: dict[str, Text] | None = None
    p_harmful: dict[str, float | None] | None = None
    thinking: dict[str, dict[str, Any]] | None = None
    probe: list[Probed] | None = None
    decoding: dict[str, Any] | None
    digests: dict[str, Any] | None
    run: Inside | None
    notes: list[Text] | None


@cache
def _adapter() -> TypeAdapter[Shape]:
    return TypeAdapter(Shape)


def problems(row: Any, most: int = 3) -> list[str]:
    """What is wrong with a row, as `field: what`, the first few; empty where it is right."""
    if not isinstance(row, dict):
        return ["is no object"]
    try:
        _adapter().validate_python(row)
    except ValidationError as error:
        return [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:most]]
    return []
