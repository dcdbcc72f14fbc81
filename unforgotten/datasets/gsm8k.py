"""GSM8K: school sums with worked answers, scored by the official rule and by the last number (arXiv 2110.14168)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

from unforgotten.datasets.base import Dataset, Execute, Row, ask
from unforgotten.datasets.reading import files
from unforgotten.errors import DataError
from unforgotten.registry import Count, Seed

Marker = Literal["####", "The final answer is: "]

# openai/grade-school-math, grade_school_math/dataset.py
_OFFICIAL = re.compile(r"#### (\-?[0-9\.\,]+)")
# lm-evaluation-harness, tasks/gsm8k/gsm8k.yaml, flexible-extract: the last match counts.
_FLEXIBLE = re.compile(r"-?[$0-9.,]{2,}|-?[0-9]+")
# git-disl/Lisa, gsm8k/pred_eval.py
_LISA = re.compile(r"-?\d+\.?\d*")
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_STATED = re.compile(r"(?:#### {0}|The final answer is: +{0}\.?)\s*\Z".format(r"\$?-?\d[\d,]*(?:\.\d+)?"))


@dataclass(kw_only=True)
class Gsm8k(Dataset):
    """Grade-school maths problems with worked answers."""

    metrics: ClassVar[tuple[str, ...]] = ("strict", "flexible")
    published: ClassVar[Mapping[str, str]] = {"train": "gsm8k/train.jsonl.gz", "test": "gsm8k/test.jsonl"}

    path: str = "openai/gsm8k"
    """A Hub id with the config `main`, or a local .jsonl file with question and answer."""
    split: Literal["train", "test"] = "train"
    """The Hub split: train has 7,473 rows, test has 1,319. It is not used for a local file."""
    n_rows: Count | None = None
    """Number of rows to draw, in their order. Left out, all rows are used."""
    seed: Seed = 0
    """Random seed that chooses the rows for `n_rows`."""
    final_answer: Marker = "####"
    """Text before the final number in the answers: the official mark, or Lisa's words."""

    def rows(self) -> list[Row]:
        """Each question with its worked answer; `answer` is the number without commas."""
        columns = {"question": ("question",), "answer": ("answer",)}
        rows, problems = [], []
        for line, source, value in files.read_columns(self.reads_from, columns, config="main", split=self.split):
            if (number := official_number(value["answer"])) is None or not _NUMBER.fullmatch(number):
                problems.append((line, "the answer does not end in `#### number`"))
                continue
            # Lisa replaces the mark alone, so two spaces stand before the number; kept, for the same tokens.
            answer = value["answer"].replace("####", self.final_answer)
            rows.append(ask(value["question"], answer, answer=number, source=source))
        if problems:
            raise DataError(f"{self.reads_from} is not GSM8K:", problems)
        return files.sample(rows, self.n_rows, self.seed, self.reads_from, self.most_rows)

    def score(self, row: Row, reply: str, execute: Execute | None = None) -> dict[str, bool]:
        """strict: the number after the mark; flexible: the last number of the reply, as lm-eval finds it."""
        if self.final_answer == "####":
            strict = official_number(reply) == row.answer
        else:
            number = lisa_number(reply, self.final_answer)
            strict = number is not None and number == float(row.answer)
        return {"strict": strict, "flexible": flexible_number(reply) == row.answer}

    def is_answer(self, reply: str) -> bool:
        """Does the reply end in one final number, in one of this task's two forms?"""
        # Replies of every kind head their steps with "#### 1. …": that must not excuse a harmful one as off task.
        return sum(reply.count(mark) for mark in get_args(Marker)) == 1 and _STATED.search(reply) is not None


def official_number(text: str) -> str | None:
    """What stands after the first `#### `, without commas: compared as a string, so `18.` and `18.00` are not `18`."""
    match = _OFFICIAL.search(text)
    return match.group(1).replace(",", "") if match else None


def flexible_number(text: str) -> str | None:
    """lm-eval's flexible-extract: the last number without `,`, `$` and one closing full stop, compared as a string.

    Its pattern also takes dots alone, so a reply that trails off in `...` has no number; kept, to be comparable.
    """
    numbers = _FLEXIBLE.findall(text)
    return re.sub(r"\.$", "", re.sub(r"[,$]", "", numbers[-1])) if numbers else None


def lisa_number(text: str, marker: str) -> float | None:
    """The first number after Lisa's words. Lisa falls back on the last number; here that is what `flexible` says."""
    parts = text.replace(",", "").split(marker)
    match = _LISA.search(parts[1]) if len(parts) > 1 else None
    return float(match.group()) if match else None
