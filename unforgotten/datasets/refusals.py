"""Refusal files: prompts with the replies that decline them, or prompts alone (SafeInstr's files: arXiv 2309.07875).

Read are the formats of the user's upload (messages, prompt/completion, Alpaca), with `refusal` or `response` for
completion; CSV and TSV with such columns; one prompt a line without header; and SafeInstr's evaluation files, a
dict of lists. Either every row has an answer or none has: a file with some of each has lost something.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from unforgotten import files
from unforgotten.datasets.base import Dataset, Row
from unforgotten.datasets.jsonl import checked
from unforgotten.errors import DataError
from unforgotten.registry import Count, Seed

_PROMPT = ("prompt", "instruction", "goal")
_ANSWER = ("completion", "output", "refusal", "response")


@dataclass(kw_only=True)
class Refusals(Dataset):
    """Prompts with refusals, for alignment and memory, or prompts alone, to be asked."""

    kind_field: ClassVar[str] = "kind"

    path: str
    """A local .jsonl, .json, .csv, .tsv or .txt file (.gz or not), or a Hub id."""
    split: str = "train"
    """The Hub split; a local file is its own split."""
    kind: Literal["harmful", "benign"] = "harmful"
    """harmful: requests to be refused; benign: harmless look-alikes, whose answers then are answers."""
    n_rows: Count | None = None
    """How many rows to draw, in their order; all of them where not given."""
    seed: Seed = 0
    """Which rows `n_rows` draws."""

    @property
    def label(self) -> str:
        """The file's name, so that several prompt sets stay apart."""
        return Path(self.path).name.split(".")[0]

    def rows(self) -> list[Row]:
        """Every prompt, with its refusal where the file has refusals."""
        records, problems = files.read(self.path, split=self.split, header=(*_PROMPT, *_ANSWER), sole="prompt")
        if len(records) == 1 and isinstance(records[0].value, Mapping) and "instructions" in records[0].value:
            records = _entries(self.path, records[0].value)
        renamed = [record._replace(value=_renamed(record.value)) for record in records]
        rows = checked(self.path, renamed, problems, kind=self.kind, answers="optional")
        bare = [record.line for record, row in zip(records, rows, strict=True) if not row.response]
        if 0 < len(bare) < len(rows):
            raise DataError(
                f"{self.path}: {len(bare)} of {len(rows)} rows have no answer, the others have. Split the file in two.",
                [(line, "no answer") for line in bare],
            )
        return files.sample(rows, self.n_rows, self.seed, self.path)


def _renamed(value: Any) -> Any:
    """A row under the names of the upload: goal is a prompt, a refusal or response a completion."""
    if not isinstance(value, Mapping) or value.get("messages") is not None:
        return value
    names = {"goal": "prompt", "refusal": "completion", "response": "completion"}
    if value.get("instruction") is not None and value.get("prompt") is None:
        names |= {"completion": "output", "refusal": "output", "response": "output"}
    return {**value, **{names[key]: cell for key, cell in value.items() if key in names and cell is not None}}


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
