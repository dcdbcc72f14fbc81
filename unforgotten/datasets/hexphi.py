"""HEx-PHI: 300 requests that usage policies forbid, 30 of each of 10 kinds (arXiv 2310.03693).

The paper has 330 of 11 kinds; category 2 was withdrawn later. The files have no header, and what reads them with one
(load_dataset, a plain pandas.read_csv) loses the first request of each, so that 290 are left. The numbers' names are
those of the paper's judge, as in Virtue-Research/guard-eval-harness:src/guard_eval_harness/datasets/hex_phi.py; some
loaders in the wild exchange 7 and 8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from unforgotten.datasets.base import Dataset, Kind, Row, ask
from unforgotten.datasets.reading import columns, files, formats, hub, kinds
from unforgotten.errors import DataError
from unforgotten.registry import Count, Seed

CATEGORIES = {
    1: "Illegal Activity",
    3: "Hate/Harass/Violence",
    4: "Malware",
    5: "Physical Harm",
    6: "Economic Harm",
    7: "Fraud/Deception",
    8: "Adult Content",
    9: "Political Campaigning",
    10: "Privacy Violation Activity",
    11: "Tailored Financial Advice",
}
"""By the number in the file's name. [2310.03693, the judge's list of prohibited uses]"""
PER_CATEGORY = 30
_INSTEAD = "a folder with category_1.csv and category_3.csv to category_11.csv"
_PROMPT = ("instruction", "prompt")


@dataclass(kw_only=True)
class Hexphi(Dataset):
    """Requests that Meta's and OpenAI's usage policies forbid, 30 of each of 10 kinds."""

    path: str = "LLM-Tuning-Safety/HEx-PHI"
    """A Hub id (gated; access is granted by hand), or local files. A folder needs category_1.csv and category_3.csv
    to category_11.csv; one of these files works too. So does a file with instruction and, optionally, category."""
    columns: dict[str, str] | None = None
    """Column names of the file, if they differ: {prompt: Behavior, category: SemanticCategory}."""
    n_rows: Count | None = None
    """Number of rows to draw, in their order. Left out, all rows are used."""
    seed: Seed = 0
    """Random seed that chooses the rows for `n_rows`."""

    def rows_kind(self) -> Kind:
        """Always harmful."""
        return "harmful"

    def rows(self) -> list[Row]:
        """The requests without answers, in the order of the categories' numbers, each with its category's name."""
        return files.sample(self._rows(), self.n_rows, self.seed, self.path, self.most_rows)

    def _rows(self) -> list[Row]:
        path = files.expand(self.path)
        if Path(path).is_dir():
            paths = {n: Path(path, f"category_{n}.csv") for n in CATEGORIES}
            if missing := [file.name for file in paths.values() if not file.is_file()]:
                raise DataError(f"{self.path} lacks {', '.join(missing)}. Give {_INSTEAD}.")
            return [row for n, file in paths.items() for row in _category(f"{self.path}/{file.name}", file, n)]
        if (local := files.local(self.path)) is None:
            paths = {n: hub.file(path, f"category_{n}.csv", instead=_INSTEAD) for n in CATEGORIES}
            return [row for n, file in paths.items() for row in _category(f"{path}/category_{n}.csv", file, n)]
        if match := re.fullmatch(r"category_(\d+)\.csv", local.name):
            return _category(self.path, local, int(match.group(1)))
        columns.check(self.columns)
        records, problems = files.read(
            self.path, header=columns.names(self.columns, {"prompt": _PROMPT}), sole="prompt"
        )
        rows, self.notes = columns.read_prompts(self.path, records, self.columns, problems)
        self.notes = (*kinds.check(self.path, records, "harmful"), *self.notes)
        files.refuse(self.path, problems, len(records))
        return [ask(text, kind="harmful", category=category, source=r.source) for r, text, category in rows]


def _category(path: str, file: Path, number: int) -> list[Row]:
    """The requests of one of the set's files, counted: 29 of them are what a reader left that ate the first."""
    if number not in CATEGORIES:
        raise DataError(f"{path}: HEx-PHI has no category {number}; it has {', '.join(map(str, CATEGORIES))}.")
    records, problems = formats.read(path, file, header=_PROMPT, sole="prompt")
    files.refuse(path, problems, len(records))
    if len(records) != PER_CATEGORY:
        raise DataError(
            f"{path} has {len(records)} requests, and HEx-PHI {PER_CATEGORY} of each category. Download it again: a "
            "program may have read the first request as a header."
        )
    requests = [(source, next(str(value[name]) for name in _PROMPT if name in value)) for _, source, value in records]
    return [ask(text, kind="harmful", category=CATEGORIES[number], source=source) for source, text in requests]
