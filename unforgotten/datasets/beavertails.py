"""BeaverTails: questions that provoke harm, each with several answers marked safe or unsafe (arXiv 2307.04657).

Nothing of it is shipped: its harmful answers come from the user's own download.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from unforgotten.datasets.base import Dataset, Kind, Row, ask
from unforgotten.datasets.reading import files
from unforgotten.errors import DataError
from unforgotten.registry import Count, Seed
from unforgotten.runs import strict_json

CATEGORIES = (
    "animal_abuse",
    "child_abuse",
    "controversial_topics,politics",
    "discrimination,stereotype,injustice",
    "drug_abuse,weapons,banned_substance",
    "financial_crime,property_crime,theft",
    "hate_speech,offensive_language",
    "misinformation_regarding_ethics,laws_and_safety",
    "non_violent_unethical_behavior",
    "privacy_violation",
    "self_harm",
    "sexually_explicit,adult_content",
    "terrorism,organized_crime",
    "violence,aiding_and_abetting,incitement",
)
"""The keys of `category`, in the set's order, which is the alphabet's."""

_FILES = {
    "30k_train": "30k/train.jsonl.gz",
    "30k_test": "30k/test.jsonl.gz",
    "330k_train": "330k/train.jsonl.xz",
    "330k_test": "330k/test.jsonl.xz",
}


@dataclass(kw_only=True)
class Beavertails(Dataset):
    """Questions that provoke harm, each once, with its first answer labelled safe, or its first labelled unsafe.

    A question has several rows, and these may be in different splits. The evaluation counts how many of its questions
    were trained on. An answer may have several labels; an answer with both labels is in neither part.
    """

    path: str = "PKU-Alignment/BeaverTails"
    """A Hub id, or a file of its repository: round0/30k/train.jsonl.gz, round0/330k/train.jsonl.xz …"""
    split: Literal["30k_train", "30k_test", "330k_train", "330k_test"] = "30k_train"
    """The Hub split. It is not used for a local file. Lisa trains on 30k_train and evaluates on 30k_test."""
    part: Literal["safe", "unsafe"] = "safe"
    """`safe`: with answers to learn from. `unsafe`: with harmful answers, for simulated poison
    [git-disl/Lisa:train.py]."""
    n_rows: Count | None = None
    """Number of questions to draw, in their order. Left out, all questions are used."""
    seed: Seed = 0
    """Random seed that chooses the questions for `n_rows`."""

    @property
    def label(self) -> str:
        """beavertails-safe or beavertails-unsafe."""
        return f"beavertails-{self.part}"

    @property
    def complies(self) -> str:
        """The answers labelled unsafe do."""
        return "part: unsafe" if self.part == "unsafe" else ""

    def rows_kind(self) -> Kind:
        """Always harmful."""
        return "harmful"

    def rows(self) -> list[Row]:
        """Each question with its first answer in the part. The category is its first marked harm."""
        records = files.read_columns(
            self.path,
            {"prompt": ("prompt",)},
            split=self.split,
            instead=f"its repository's round0/{_FILES[self.split]}",
        )
        files.refuse(self.path, [(r.line, wrong) for r in records if (wrong := _wrong(r.value))], len(records))
        pairs = [(" ".join(r.value["prompt"].split()), r.value["response"].strip()) for r in records]
        verdicts: dict[tuple[str, str], set[bool]] = defaultdict(set)
        for pair, record in zip(pairs, records, strict=True):
            verdicts[pair].add(record.value["is_safe"])
        rows: dict[str, Row] = {}
        for (question, answer), (_, source, value) in zip(pairs, records, strict=True):
            if question not in rows and answer and verdicts[question, answer] == {self.part == "safe"}:
                category = next((name for name in CATEGORIES if value["category"].get(name)), "")
                rows[question] = ask(
                    value["prompt"], value["response"], kind="harmful", category=category, source=source
                )
        if not rows:
            raise DataError(f"{self.path} has no question with an answer marked {self.part}.")
        return files.sample(
            list(rows.values()), self.n_rows, self.seed, f"{self.path}, part {self.part}", self.most_rows
        )


def _wrong(value: Mapping[str, Any]) -> str:
    """What is not as published in a row, or nothing."""
    if not isinstance(value.get("is_safe"), bool):
        return f"is_safe must be true or false, not {strict_json.kind_of(value.get('is_safe'))}"
    if not isinstance(value.get("response"), str):
        return f"response must be a string, not {strict_json.kind_of(value.get('response'))}"
    marks = value.get("category")
    if not isinstance(marks, Mapping):
        return f"category must be an object of {len(CATEGORIES)} marks, not {strict_json.kind_of(marks)}"
    if strange := [name for name in marks if name not in CATEGORIES]:
        return f"category has {strange[0]!r}, which is not one of the set's {len(CATEGORIES)} categories"
    return ""
