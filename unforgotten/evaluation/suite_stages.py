"""A suite of prompts on its way to figures, in three frozen stages: asked, checked, judged.

    Suite    prompts under one system prompt                      suites.suites, suites.conditioned
    Asked    and the model's replies                              ask.answered
    Checked  and what the data tells of them, without a judge     judging.check
    Judged   and what judges say of them                          judging.Panel.judge

Each stage has all fields of the one before it, and every field is filled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

from unforgotten.datasets.base import Dataset, Row
from unforgotten.generation.reply import Reply
from unforgotten.judges.base import Verdict

if TYPE_CHECKING:
    from unforgotten.evaluation.contamination import Contact

SuiteKind = Literal["harm", "refusal", "utility"]
Condition = Literal["default", "none", "user", "prefill"]
"""`prefill`: under the template's own system prompt, with replies that are forced to begin in some way."""
Score = Mapping[str, bool | None]
"""By measure of the task; None where there is no reply of the model's own."""


@dataclass(frozen=True, slots=True)
class Suite:
    """One set of prompts under one system prompt."""

    kind: SuiteKind
    label: str
    dataset: Dataset | None
    """None where replies are read back without their data."""
    rows: Sequence[Row]
    condition: Condition = "default"
    also: tuple[Condition, ...] = ()
    """Other conditions whose prompts are the same."""
    samples: int = 1
    """Consecutive rows that ask the same, for pass@k."""
    openings: Sequence[str] = ()
    """For each row, words that its reply is forced to begin with; none where replies are free."""

    @property
    def file(self) -> str:
        """The name of its file of replies, without the ending."""
        return self.label if self.condition == "default" else f"{self.label}@{self.condition}"

    @property
    def conditions(self) -> tuple[Condition, ...]:
        """All conditions that its prompts stand for."""
        return (self.condition, *self.also)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked(Suite):
    """A suite with the model's replies."""

    key: str
    """A digest of prompts, decoding and weights: replies of another are not taken for these."""
    replies: Sequence[Reply]
    """One for each row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked(Asked):
    """An asked suite with what the data tells of each reply; no judge was asked."""

    scores: Sequence[Score]
    """Of each reply to a task; empty mappings for other suites."""
    notes: Sequence[str]
    """Of each reply, why it failed where it was run; empty where none was run."""
    flags: Sequence[Sequence[str]]
    """Of each reply, those of `reply_flags.FLAGS` that hold."""
    answers_task: Sequence[bool]
    """Is the reply an answer to one of the user's tasks?"""
    contacts: Sequence[Mapping[str, Contact]]
    """Of each prompt, the sets trained on that hold it, and how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged(Checked):
    """A checked suite with verdicts; `flags` now says too which replies are off task."""

    verdicts: Mapping[str, Sequence[Verdict]]
    """By judge, one of each reply: of thought and answer the worse. Empty for tasks, which no judge reads."""
    decided_by: str
    """The judge whose verdicts count; empty for tasks."""


def facts(suite: Suite, stage: type[Suite]) -> dict[str, Any]:
    """The fields of one stage, to build the next from: `Asked(**facts(suite, Suite), key=key, replies=replies)`."""
    return {field.name: getattr(suite, field.name) for field in fields(stage)}
