"""Refusal files: prompts with the replies that decline them, or prompts alone (SafeInstr's files: arXiv 2309.07875).

Read are the formats of the user's upload (messages, prompt/completion, Alpaca), with `refusal` or `response` for
completion; CSV and TSV with such columns; one prompt a line without header; and SafeInstr's evaluation files, a
dict of lists. Either every row has an answer or none has: a file with some of each has lost something.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import regex

from unforgotten.datasets.base import Dataset, Kind, Row
from unforgotten.datasets.jsonl import checked
from unforgotten.datasets.reading import columns, files, formats, kinds, unread
from unforgotten.errors import DataError
from unforgotten.registry import Count, Seed

LONGEST = 2000
"""Characters of `answer_matches`: messages and notes repeat it."""
SEARCH_SECONDS = 5.0
"""Processor time to search all answers of a file: some expressions take longer than anyone waits on a single answer."""


@dataclass(kw_only=True)
class Refusals(Dataset):
    """Prompts with refusals for alignment and memory, or prompts alone for evaluation."""

    kind_field: ClassVar[str] = "kind"

    path: str
    """A local .jsonl, .json, .csv, .tsv or .txt file, compressed (.gz) or not, or a Hub id."""
    split: str = "train"
    """The Hub split. It is not used for a local file."""
    kind: Literal["harmful", "benign"] = "harmful"
    """`harmful`: requests to refuse. `benign`: harmless look-alikes with answers that help."""
    columns: dict[str, str] | None = None
    """Column names of the file, if they differ: {prompt: Behavior, category: SemanticCategory}."""
    n_rows: Count | None = None
    """Number of rows to draw, in their order. Left out, all rows are used."""
    seed: Seed = 0
    """Random seed that chooses the rows for `n_rows`."""
    ignore_keys: list[str] = field(default_factory=list)
    """Keys of rows or turns to ignore. Other unused keys are reported with their counts."""
    answer_matches: str | None = None
    """Keeps only rows whose answer contains this regular expression, in any case. The others are counted. So refusals
    for want of a skill ("I have no access to the weather") stay out of refusals of harm."""

    def __post_init__(self) -> None:
        unread.check_ignored(self.ignore_keys)
        columns.check(self.columns)
        if self.answer_matches is not None:
            if len(self.answer_matches) > LONGEST:
                raise ValueError(
                    f"answer_matches has {len(self.answer_matches)} characters, and at most {LONGEST} count"
                )
            try:
                empty = regex.search(self.answer_matches, "", timeout=1.0)
            except (regex.error, RecursionError, OverflowError, TimeoutError) as wrong:
                raise ValueError(f"answer_matches is no regular expression that can be used: {wrong}") from None
            if empty:
                raise ValueError(
                    "answer_matches also matches an empty answer, so it leaves no row out. Name words that an answer "
                    "must contain, or leave it out"
                )

    @property
    def label(self) -> str:
        """The file's name, which tells prompt sets apart."""
        return Path(self.path).name.split(".")[0]

    def rows_kind(self) -> Kind:
        """Of the kind that is named."""
        return self.kind

    def rows(self) -> list[Row]:
        """Every prompt, with its refusal if the file has refusals."""
        records, problems = files.read(self.path, split=self.split, header=columns.names(self.columns), sole="prompt")
        if len(records) == 1 and isinstance(records[0].value, Mapping) and "instructions" in records[0].value:
            records = _entries(self.path, records[0].value)
        records = [record._replace(value=_present(record.value, self.ignore_keys)) for record in records]
        chosen = columns.choose(self.path, columns.header_of(records), self.columns)
        file = files.local(self.path)
        doubts = kinds.check(
            self.path,
            records,
            self.kind,
            answered=bool(chosen.get("answer")),
            split="" if file else self.split,
            ignored=self.ignore_keys,
        )
        renamed = []
        for record in records:
            try:
                if not self.columns:
                    _renamed(record.value)  # two answers are told under the file's own names
                renamed.append(record._replace(value=_renamed(columns.as_upload(record.value, chosen))))
            except ValueError as wrong:
                problems.append((record.line, str(wrong)))
        if problems and not renamed:
            files.refuse(self.path, problems, len(records))
        rows, self.notes = checked(
            self.path,
            renamed,
            problems,
            kind=self.kind,
            answers="optional",
            ignored=self.ignore_keys,
            arrow=file is None or formats.suffix(file) == ".parquet",
        )
        self.notes = (*doubts, *chosen.notes, *columns.notes_on(self.path, records), *self.notes)
        bare = [record.line for record, row in zip(renamed, rows, strict=True) if not row.response]
        if 0 < len(bare) < len(rows):
            raise DataError(
                f"{self.path}: {len(bare)} of {len(rows)} rows have no answer, but the others do. Split the file in "
                "two.",
                [(line, "no answer") for line in bare],
            )
        rows = self._matching(rows)
        return files.sample(rows, self.n_rows, self.seed, self.path, self.most_rows)

    def _matching(self, rows: list[Row]) -> list[Row]:
        """The rows whose answer `answer_matches` finds; all of them where it is left out."""
        if self.answer_matches is None:
            return rows
        matching: list[Row] = []
        began = time.process_time()
        for row in rows:
            left = max(0.01, SEARCH_SECONDS - (time.process_time() - began))
            try:
                if regex.search(self.answer_matches, row.response, regex.IGNORECASE, timeout=left):
                    matching.append(row)
            except TimeoutError:
                raise DataError(
                    f"{self.path}: answer_matches {self.answer_matches!r} takes too long, at last on the answer of "
                    f"{row.source}. Write it without a repetition within a repetition, such as (a+)+."
                ) from None
        if not matching:
            raise DataError(
                f"{self.path}: no answer of {len(rows)} rows contains answer_matches {self.answer_matches!r}. Change "
                "the expression, or leave it out."
            )
        self.notes = (
            *self.notes,
            f"{self.path}: {len(rows) - len(matching)} of {len(rows)} rows are left out; their answers do not contain "
            f"{self.answer_matches!r}.",
        )
        return matching


def _present(value: Any, ignored: Collection[str]) -> Any:
    """A row without what is to be ignored, and without what it does not have."""
    if not isinstance(value, Mapping):
        return value
    return {key: cell for key, cell in value.items() if key not in ignored and cell is not None}


def _renamed(value: Any) -> Any:
    """A row under the names of the upload: goal is a prompt, a refusal or response a completion.

    Raises ValueError where two keys of a row hold its answer, or its prompt, and differ.
    """
    if not isinstance(value, Mapping) or value.get("messages") is not None or value.get("conversations") is not None:
        return value
    names = {"goal": "prompt", "refusal": "completion", "response": "completion"}
    if value.get("instruction") is not None and value.get("prompt") is None and value.get("goal") is None:
        names |= {"completion": "output", "refusal": "output", "response": "output"}
    renamed: dict[str, Any] = {}
    from_: dict[str, str] = {}
    for key, cell in value.items():
        name = names.get(key) or key
        if name in renamed and renamed[name] not in ("", cell) and cell != "":
            raise ValueError(f"both `{from_[name]}` and `{key}` are given and differ. Name one in `ignore_keys`")
        if name not in renamed or renamed[name] == "":
            renamed[name], from_[name] = cell, key
    return renamed


def _entries(path: str, lists: Mapping[str, Any]) -> list[files.Record]:
    """SafeInstr's evaluation files: {"instructions": […], "inputs": [], "tags": […]}; places count the entries."""
    columns = {"instructions": "instruction", "inputs": "input", "tags": "category"}
    wrong = [key for key in columns if not isinstance(lists.get(key, []), list)]
    n = 0 if wrong else len(lists["instructions"])
    wrong += [] if wrong else [key for key in columns if len(lists.get(key) or []) not in (0, n)]
    if wrong:
        raise DataError(f"{path}: {', '.join(wrong)} must be a list as long as instructions, or empty.")
    rows = [{name: lists[key][i] for key, name in columns.items() if lists.get(key)} for i in range(n)]
    return [files.Record(i, f"{path}:{i}", row) for i, row in enumerate(rows, 1)]
