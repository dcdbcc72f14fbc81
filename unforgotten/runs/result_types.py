"""The figures in a row of results.json, checked when a file is read: a results file may be a stranger's.

What is checked here need not be looked at again: rates are rates, and no name in a row leads out of the folder of runs.
Each class is frozen, knows what it looks like on disk (`json`), and is built by pydantic from that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, Strict


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


def _settings_apart(spec: Any) -> Any:
    """On disk a name and its settings stand side by side."""
    if not isinstance(spec, dict):
        return spec
    return {"name": spec.get("name"), "settings": {key: value for key, value in spec.items() if key != "name"}}


Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Percent = Annotated[float, Strict(), Field(ge=-100, le=100, allow_inf_nan=False)]
NonNegative = Annotated[int, Strict(), Field(ge=0)]
Text = Annotated[str, Field(max_length=100_000)]
Inside = Annotated[str, AfterValidator(_inside)]
File = Annotated[str, AfterValidator(_file)]
Metric = Annotated[str, AfterValidator(_metric)]


@dataclass(frozen=True, slots=True)
class Rate:
    """A share in percent with its 95 % interval; all None where nothing was measured."""

    value: Percent | None
    hits: NonNegative | None
    """None for a mean of suites or seeds, which has no count of its own."""
    n: NonNegative | None
    """Replies, those with an unreadable verdict included."""
    low: Percent | None
    high: Percent | None
    unparsed: NonNegative = 0
    """Replies whose verdict could not be read."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    def __post_init__(self) -> None:
        if self.hits is not None and self.n is not None and self.hits + self.unparsed > self.n:
            raise ValueError(f"{self.hits} hits and {self.unparsed} unparsed of {self.n}")

    def rounded(self) -> Rate:
        """To a ten-thousandth of a percent, as results.json has it."""
        value, low, high = (None if v is None else round(v, 4) for v in (self.value, self.low, self.high))
        return Rate(value, self.hits, self.n, low, high, self.unparsed)

    def json(self) -> dict[str, Any]:
        """As results.json has it, rounded."""
        rounded = self.rounded()
        return {field.name: getattr(rounded, field.name) for field in fields(self)}


UNMEASURED = Rate(None, None, None, None, None)
"""Of what was not asked."""
Rates = Mapping[File, Rate]
"""By suite; `mean` is the mean of all."""


@dataclass(frozen=True, slots=True)
class NamedSpec:
    """A method or judge, as a recipe names it."""

    name: Text
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, spec: Mapping[str, Any]) -> NamedSpec:
        """Of what `registry.spec_of` gives: the name among its settings."""
        return cls(**_settings_apart(dict(spec)))

    def json(self) -> dict[str, Any]:
        """As results.json has it."""
        return {"name": self.name, **self.settings}


SpecOnDisk = Annotated[NamedSpec, BeforeValidator(_settings_apart)]


@dataclass(frozen=True, slots=True)
class Flags:
    """How many replies of a suite are odd, apart from what a judge says."""

    empty: NonNegative = 0
    truncated: NonNegative = 0
    degenerate: NonNegative = 0
    off_task: NonNegative = 0


@dataclass(frozen=True, slots=True)
class Overlap:
    """Prompts of a suite that rows trained on are copies of, or nearly so."""

    n: NonNegative
    """Prompts of the suite."""
    touched: NonNegative
    """Prompts that any set of rows touches, in either way."""
    exact: Mapping[str, NonNegative]
    near: Mapping[str, NonNegative]


@dataclass(frozen=True, slots=True)
class Thinking:
    """Thoughts of a reasoning model in its replies to a suite."""

    thoughts: NonNegative
    unclosed: NonNegative
    judged: bool | None = None
    """Whether the judge read the thoughts; None where no harm was asked."""
    harmful_in_thought_alone: NonNegative | None = None
    """None where the thoughts were not judged."""

    def json(self) -> dict[str, Any]:
        """As results.json has it."""
        counts = {"thoughts": self.thoughts, "unclosed": self.unclosed}
        if self.judged is None:
            return counts
        return counts | {"judged": self.judged, "harmful_in_thought_alone": self.harmful_in_thought_alone}


@dataclass(frozen=True, slots=True)
class JudgeAgreement:
    """How far two judges of one row agree on a truth."""

    truth: Text
    """`harmful` or `refused`."""
    judges: Annotated[tuple[Text, ...], Field(min_length=2, max_length=2)]
    kappa: Number | None
    low: Number | None = None
    high: Number | None = None
    agree: Number | None = None
    """Share of replies on which they agree, in percent."""
    n: NonNegative = 0
    """Replies that both could read."""
    unread: NonNegative = 0
    differ: NonNegative = 0
    """Replies on which they say the opposite."""

    def __post_init__(self) -> None:
        needs = {"agree": self.agree, "low": self.low, "high": self.high}
        shown = needs if self.kappa is not None else {"agree": self.agree}
        if self.n and (lacks := [name for name, value in shown.items() if value is None]):
            raise ValueError(f"{' and '.join(lacks)} of {self.n} replies cannot be null")


@dataclass(frozen=True, slots=True)
class ConditionFigures:
    """Figures under one system prompt, or which other one has the same prompts and so the same figures."""

    asr: Rates | None = None
    refusal: Rates | None = None
    files: Mapping[str, File] | None = None
    """By suite the name of its file of replies, without the ending."""
    same_as: Text | None = None

    def json(self) -> dict[str, Any]:
        """As results.json has it."""
        if self.same_as is not None:
            return {"same_as": self.same_as}
        return {name: as_json(getattr(self, name)) for name in ("asr", "refusal", "files")}


@dataclass(frozen=True, slots=True)
class ProbeFigures:
    """Figures of few prompts at one step of training; None where nothing was asked, or no verdict is there."""

    step: NonNegative
    asr: Rate | None = None
    refusal: Rate | None = None
    utility: Rate | None = None
    metric: Text | None = None
    """The task's measure."""
    prompts: Mapping[str, NonNegative] | None = None
    """By figure, how many prompts."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a training took."""

    train_seconds: Number | None = None
    step_seconds: Number | None = None
    tokens: NonNegative | None = None
    peak_memory_bytes: NonNegative | None = None
    probe_seconds: Number | None = None
    """Of probes while it trained, in all; None where there were none."""

    def json(self) -> dict[str, Any]:
        """As results.json has it."""
        facts = {field.name: getattr(self, field.name) for field in fields(self)}
        return facts if self.probe_seconds is not None else {k: v for k, v in facts.items() if k != "probe_seconds"}


@dataclass(frozen=True, slots=True)
class ModelDigests:
    """What the figures are of, as digests."""

    weights: Text | None = None
    """Of the files of the weights."""
    loaded: Text | None = None
    """Of the weights in memory that replied; None where a server has them."""
    prompts: Text | None = None
    settings: Text | None = None
    """Of all that determines replies and scores, but not of judges."""
    data: Mapping[str, Any] | None = None
    """Of the rows that the model was trained on, by set."""


@dataclass(frozen=True, slots=True)
class TemplateFacts:
    """The chat template that wrote the prompts."""

    source: Text
    digest: Text | None = None
    date: Text | None = None


def as_json(value: Any) -> Any:
    """A figure as results.json has it: objects for classes and mappings, arrays for tuples."""
    if is_dataclass(value) and not isinstance(value, type):
        own = getattr(value, "json", None)
        return own() if own else {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {key: as_json(inner) for key, inner in value.items()}
    return [as_json(inner) for inner in value] if isinstance(value, (list, tuple)) else value
