"""SST-2: is a sentence of a film review positive or negative, asked in Lisa's words (arXiv 2405.18641)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from unforgotten.datasets.base import Dataset, Execute, Row
from unforgotten.datasets.reading import files
from unforgotten.errors import DataError
from unforgotten.registry import Count, Seed

INSTRUCTION = "Analyze the sentiment of the input, and respond only positive or negative"
LABELS = {"0": "negative", "1": "positive"}


@dataclass(kw_only=True)
class Sst2(Dataset):
    """Sentences of film reviews, to classify as positive or negative."""

    metrics: ClassVar[tuple[str, ...]] = ("exact", "first_word")
    published: ClassVar[Mapping[str, str]] = {"train": "sst2/train.tsv.gz", "validation": "sst2/dev.tsv"}

    path: str = "stanfordnlp/sst2"
    """A Hub id, or a local .tsv file with sentence and label (GLUE's format, no quoting)."""
    split: Literal["train", "validation"] = "train"
    """The Hub split: train has 67,349 rows, validation has 872; test hides its labels. It is not used for a local
    file."""
    n_rows: Count | None = None
    """Number of rows to draw, in their order. Left out, all rows are used."""
    seed: Seed = 0
    """Random seed that chooses the rows for `n_rows`."""

    def rows(self) -> list[Row]:
        """Each sentence under Lisa's instruction, answered with its label."""
        columns = {"sentence": ("sentence",), "label": ("label",)}
        rows, problems = [], []
        for line, source, value in files.read_columns(self.reads_from, columns, split=self.split):
            if (label := LABELS.get(value["label"])) is None:
                hidden = " (hidden, as in the test split: use validation)" if value["label"] == "-1" else ""
                problems.append((line, f"label {value['label']!r} is neither 0 nor 1{hidden}"))
                continue
            rows.append(_row(value["sentence"], label, source))
        if problems:
            raise DataError(f"{self.reads_from} is not SST-2:", problems)
        return files.sample(rows, self.n_rows, self.seed, self.reads_from, self.most_rows)

    def score(self, row: Row, reply: str, execute: Execute | None = None) -> dict[str, bool]:
        """exact: the label and nothing else, its first letter in either case, as in Lisa; first_word: it begins so."""
        first = re.search(r"[^\W\d_]+", reply)
        return {
            "exact": reply.strip() in (row.answer, row.answer.capitalize()),
            "first_word": first is not None and first.group().lower() == row.answer,
        }

    def is_answer(self, reply: str) -> bool:
        """The labels and nothing else."""
        # The labels alone, once or over and over: a text that goes on ("Negative thoughts …") may well be an answer
        # to what was asked, and must not be excused as off task.
        return re.fullmatch(r"(\W*(positive|negative)\b)+\W*", reply, re.IGNORECASE) is not None


def _row(sentence: str, label: str, source: str) -> Row:
    sentence = sentence.strip()  # all of train ends in a space, which would be a token of its own before the answer
    user = {
        "role": "user",
        "content": f"{INSTRUCTION}\n\n{sentence}",
        "instruction": INSTRUCTION,
        "input": sentence,
    }
    return Row((user, {"role": "assistant", "content": label}), answer=label, source=source)
