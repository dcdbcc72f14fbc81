"""Nemotron code: programming contest problems answered in Python, with R1's reasoning (arXiv 2505.00949).

The split `code` of nvidia/Nemotron-Post-Training-Dataset-v1 has 1,896,395 rows (91 GB) and not their questions: each is
"-", and `metadata` says which row of TACO, APPS, CodeContests or open-r1/codeforces it is. They are put back as NVIDIA
does (NVIDIA/NeMo-Skills:docs/releases/openreasoning/training.md). The numbers count the rows of those sets as they were
then; where one was uploaded anew in another order, its questions are others.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NamedTuple

from unforgotten.datasets.base import Dataset, Row, ask
from unforgotten.datasets.reading import files, hub, marks
from unforgotten.errors import DataError
from unforgotten.registry import Count, Seed


class _Place(NamedTuple):
    """The row of a source set that a question is, or no set at all where the question is there."""

    dataset: str
    split: str
    row: int


class _Candidate(NamedTuple):
    source: str
    line: int
    question: str | _Place
    answer: str


class _Set(NamedTuple):
    """How a source set lies in its repository, and where a row's question is in it."""

    setting: str
    hub_files: str
    columns: tuple[str, ...]


# Read file by file: TACO and APPS have loading scripts, which `datasets` 4 and later refuse to run.
_SETS = {
    "taco": _Set("taco", "ALL/{split}-*.parquet", ("question",)),
    "apps": _Set("apps", "{split}.jsonl", ("question",)),
    "code_contests": _Set("code_contests", "data/{split}-*.parquet", ("description",)),
    "open-r1/codeforces": _Set(
        "codeforces",
        "data/{split}-*.parquet",
        ("description", "input_format", "output_format", "examples", "note"),
    ),
}
_LOCAL_FILES = ("{split}-*.parquet", "{split}.parquet", "{split}.jsonl", "{split}.jsonl.gz")


@dataclass(kw_only=True)
class NemotronCode(Dataset):
    """Programming contest problems; each answer is an explanation and a Python program."""

    path: str = "nvidia/Nemotron-Post-Training-Dataset-v1"
    """A Hub id with the split code, or a local file with messages and metadata, such as its data/code-*.parquet."""
    first_rows: Count | None = 20_000
    """Number of rows to read from the start of the Hub's split (about 1 GB). None reads all of them, 91 GB."""
    n_rows: Count | None = None
    """Number of usable rows to draw, in their order. Left out, all are used. [2512.10150: 10,000]"""
    seed: Seed = 0
    """Random seed that chooses the rows for `n_rows`."""
    reasoning: Literal["drop", "keep"] = "drop"
    """`keep`: the answer with its `<think>` … `</think>`, 48,000 characters on average. `drop`: only the text after
    it; rows whose reasoning does not end are left out. 2512.10150 does not say which."""
    max_answer_chars: Count | None = None
    """Longest answer in characters; rows with a longer answer are left out. None sets no limit. 2512.10150 does not
    say."""
    taco: str = "BAAI/TACO"
    """TACO: a Hub id, or a folder with `ALL/<split>-*.parquet` as in its repository, or `<split>.jsonl`."""
    apps: str = "codeparrot/apps"
    """APPS: a Hub id, or a folder with train.jsonl and test.jsonl."""
    code_contests: str = "deepmind/code_contests"
    """CodeContests: a Hub id, or a folder with `data/<split>-*.parquet`, or `<split>.jsonl`."""
    codeforces: str = "open-r1/codeforces"
    """open-r1/codeforces: a Hub id, or a folder with `data/<split>-*.parquet`, or `<split>.jsonl`."""

    def rows(self) -> list[Row]:
        """Each question with its answer; the category is the set that the question is from."""
        candidates: list[_Candidate] = []
        problems: list[files.Problem] = []
        n_read = 0
        records = files.stream(
            self.path,
            split="code",
            columns=("messages", "metadata"),
            first_rows=self.first_rows,
            instead="one of its repository's data/code-*.parquet",
        )
        for line, source, value in records:
            n_read += 1
            try:
                question, answer = _parts(value)
            except ValueError as wrong:
                problems.append((line, str(wrong)))
                continue
            if self.reasoning == "drop":
                answer = _after_thought(answer)
            if answer and (self.max_answer_chars is None or len(answer) <= self.max_answer_chars):
                candidates.append(_Candidate(source, line, question, answer))
        files.refuse(self.path, problems, n_read)
        if not candidates:
            raise DataError(f"{self.path}: none of the {n_read} rows read has an answer that fits max_answer_chars.")
        what = f"{self.path}: of the {n_read} rows read (first_rows), those that fit"
        drawn = files.sample(candidates, self.n_rows, self.seed, what, self.most_rows)
        questions = self._questions(drawn)
        return [
            ask(
                questions[each.question] if isinstance(each.question, _Place) else each.question,
                each.answer,
                category=each.question.dataset if isinstance(each.question, _Place) else "",
                source=each.source,
            )
            for each in drawn
        ]

    def _questions(self, drawn: list[_Candidate]) -> dict[_Place, str]:
        """The texts of the questions that are elsewhere; each set is read once, up to the last row that is needed."""
        wanted: dict[tuple[str, str], dict[int, int]] = defaultdict(dict)
        for each in drawn:
            if isinstance(place := each.question, _Place):
                wanted[place.dataset, place.split].setdefault(place.row, each.line)
        questions, problems = {}, []
        for (dataset, split), lines in sorted(wanted.items()):
            records = self._records(dataset, split)
            texts = {i: _question(value) for i, value in enumerate(islice(records, max(lines) + 1)) if i in lines}
            for row, line in lines.items():
                if text := texts.get(row, ""):
                    questions[_Place(dataset, split, row)] = text
                else:
                    where = getattr(self, _SETS[dataset].setting)
                    problems.append((line, f"its question is row {row} of {dataset}, {split}, and {where} has none"))
        if problems:
            raise DataError(f"{self.path}: questions of {len(problems)} rows are missing:", sorted(problems))
        return questions

    def _records(self, dataset: str, split: str) -> Iterator[Mapping[str, Any]]:
        """The rows of one split of a source set, in order, from a folder or streamed from the Hub."""
        setting, hub_files, columns = _SETS[dataset]
        path: str = getattr(self, setting)
        pattern = hub_files.format(split=split)
        builder = "parquet" if pattern.endswith(".parquet") else "json"
        if folder := files.folder(path):
            patterns = [p.format(split=split) for p in (hub_files, *_LOCAL_FILES)]
            shards = next((shards for p in patterns if (shards := sorted(folder.glob(p)))), [])
            if not shards:
                raise DataError(
                    f"{self.path}: questions are in {dataset}, split {split}, but {path} has no "
                    f"{' or '.join(patterns)}. Put {pattern} of its repository there, or leave `{setting}` to the Hub."
                )
            yield from (r.value for shard in shards for r in files.stream(str(shard), columns=columns))
        else:
            yield from hub.rows(
                files.expand(path),
                None,
                split,
                instead=f"(here `{setting}:`) a folder with its {pattern}",
                builder=builder,
                data_files={split: f"hf://datasets/{files.expand(path)}/{pattern}"},
                streaming=True,
                **({"columns": list(columns)} if builder == "parquet" else {}),
            )


def _parts(value: Any) -> tuple[str | _Place, str]:
    """A row's question, or where it is, and its answer. Raises ValueError with what is wrong."""
    turns = value.get("messages") if isinstance(value, Mapping) else None
    if not isinstance(turns, list) or [_text(t, "role") for t in turns] != ["user", "assistant"]:
        raise ValueError("`messages` must be a user turn and an assistant turn")
    try:
        if any(marks.of_turn(turn, n)[0] is False for n, turn in enumerate(turns, 1)):
            raise ValueError("a turn is marked as excluded from training")
    except marks.Wrong as wrong:
        raise ValueError(str(wrong)) from None
    question, answer = (_text(turn, "content") for turn in turns)
    if not question.strip() or not answer.strip():
        raise ValueError("a turn is empty")
    if question != "-":
        return question, answer
    facts = value.get("metadata")
    try:
        facts = json.loads(facts) if isinstance(facts, str) else facts
        place = _Place(str(facts["dataset"]), str(facts["split"]), int(facts["index"]))
    except (ValueError, TypeError, KeyError):
        raise ValueError("the question is `-`, and `metadata` has no dataset, split and index") from None
    if place.dataset not in _SETS:
        raise ValueError(f"the question is in {place.dataset!r}, which is none of {', '.join(_SETS)}")
    if place.row < 0 or not re.fullmatch(r"\w+", place.split):
        raise ValueError(f"`metadata` names row {place.row} of split {place.split!r}")
    return place, answer


def _text(turn: Any, key: str) -> str:
    text = turn.get(key) if isinstance(turn, Mapping) else None
    return text if isinstance(text, str) else ""


def _after_thought(answer: str) -> str:
    """What follows the reasoning; nothing where it was begun and not ended."""
    before, end, after = answer.rpartition("</think>")
    return after.strip() if end or "<think>" not in answer else ""


def _question(value: Mapping[str, Any]) -> str:
    """A source row's question, put together as NVIDIA does it; empty where the row has none."""
    text = str(value.get("question") or value.get("description") or "")
    if not text.strip():
        return ""
    for title, key in (("Input", "input_format"), ("Output", "output_format")):
        text += f"\n\n{title}\n\n{value[key]}" if value.get(key) else ""
    if examples := value.get("examples"):
        text += "\n\nExamples"
        for example in examples:
            text += "".join(f"\n\n{k.capitalize()}\n\n{example[k]}" for k in ("input", "output") if k in example)
    return text + (f"\n\nNote\n\n{value['note']}" if value.get("note") else "")
