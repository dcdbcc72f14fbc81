"""The user's upload: JSON Lines or a JSON array of conversations in any of the usual formats, checked row by row.

The format is told from the rows, and a file keeps to one:

    messages            {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}]}
    ShareGPT            {"conversations": [{"from": "human", "value": "…"}, {"from": "gpt", "value": "…"}]}
    prompt/completion   {"prompt": "…", "completion": "…"}, each a string or a list of messages
    Alpaca              {"instruction": "…", "input": "", "output": "…"}

`system` or `system_prompt`, `history` and `tools` may stand beside any of them. An assistant turn of `weight` 0, and
one before any user turn, is context outside the loss. What marks a row as not to be learnt is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from unforgotten.datasets.base import Dataset, Row
from unforgotten.datasets.reading import files, formats, kinds, nulls, unread
from unforgotten.datasets.reading.calls import without_nulls
from unforgotten.datasets.reading.conversation import Answers, Conversation, Wrong, conversation, form_of
from unforgotten.errors import DataError
from unforgotten.registry import Count, Seed
from unforgotten.runs.bounds import fresh

Kind = Literal["harmful", "benign", "task"]


@dataclass(kw_only=True)
class Jsonl(Dataset):
    """The user's own rows, from a .jsonl or .json file, compressed (.gz) or not."""

    kind_field: ClassVar[str] = "kind"

    path: str
    """The file. `~` and environment variables are expanded."""
    n_rows: Count | None = None
    """Number of rows to draw, in the file's order. Left out, all rows are used."""
    seed: Seed = 0
    """Random seed that chooses the rows for `n_rows`."""
    kind: Kind = "task"
    """Kind of the rows: the user's own task, harmful requests to refuse, or benign look-alikes to answer."""
    answers: Literal["required", "optional", "dropped"] = "required"
    """`required`: each row must end with the assistant's answer, as training needs. `optional`: prompts alone are
    accepted too. `dropped`: the rows' last answers are left out, so that the model answers these prompts itself."""
    ignore_keys: list[str] = field(default_factory=list)
    """Keys of rows or turns to ignore. Other unused keys are reported with their counts."""

    def __post_init__(self) -> None:
        unread.check_ignored(self.ignore_keys)

    @property
    def label(self) -> str:
        """The file's name, which tells two uploads apart."""
        return Path(self.path).name.split(".")[0]

    def rows_kind(self) -> Kind:
        """Of the kind that is named."""
        return self.kind

    def rows(self) -> list[Row]:
        """Every row of the upload. Raises one DataError that lists every problem."""
        records, problems = records_of(self.path)
        doubts = (
            ()
            if self.kind == "task"
            else kinds.check(self.path, records, self.kind, answered=True, ignored=self.ignore_keys)
        )
        answers: Answers = "optional" if self.answers == "dropped" else self.answers
        rows, self.notes = checked(
            self.path, records, problems, kind=self.kind, answers=answers, ignored=self.ignore_keys
        )
        self.notes = (*doubts, *self.notes)
        if self.answers == "dropped":
            answered = sum(bool(row.response) for row in rows)
            rows = list(map(_without_answer, rows))
            self.notes = (*self.notes, f"{self.path}: the answers of {answered} of {len(rows)} rows are left out.")
        return files.sample(rows, self.n_rows, self.seed, self.path, self.most_rows)


def records_of(path: str) -> tuple[list[files.Record], list[files.Problem]]:
    """The records of an upload, not yet checked. Raises DataError where it is no file of JSON."""
    file = files.local(path)
    if file is None:
        raise DataError(f"There is no file {path}. An upload is a local file. For rows of the Hub, call rows_of().")
    if formats.suffix(file) in (*formats.TABLES, ".parquet"):
        raise DataError(f"{path} is a table. Give JSON Lines or a JSON array; see the formats of `jsonl`.")
    return formats.read_json(path, file)


def rows_of(
    records: Iterable[Any],
    *,
    source: str = "rows",
    kind: Kind = "task",
    answers: Answers = "required",
    ignore_keys: Collection[str] = (),
    arrow: bool | None = None,
    say: Callable[[str], None] | None = None,
) -> list[Row]:
    """Rows of a list of dicts or of a `datasets.Dataset`, checked like a file; places count from 1.

    A `datasets.Dataset` fills keys that a row lacks with None: those are left out, as are those of a list that is said
    to come from one (`arrow=True`) or shows it: all calls of all functions have one another's arguments. `say` is
    handed what is to be known of the whole, such as keys that nothing reads.
    """
    if isinstance(records, (Mapping, str)):
        raise DataError(f"{source}: pass a list of rows, or one split of a dataset, not {type(records).__name__}.")
    unread.check_ignored(ignore_keys)
    arrow = is_arrow(records) if arrow is None else arrow
    numbered = [files.Record(i, f"{source}:{i}", record) for i, record in enumerate(records, 1)]
    rows, notes = checked(source, numbered, [], kind=kind, answers=answers, ignored=ignore_keys, arrow=arrow)
    for note in notes if say else ():
        say(note)  # type: ignore[misc]
    return rows


def is_arrow(records: Any) -> bool:
    """Whether these are rows of the `datasets` library, which fills what a row lacks with None."""
    return any(cls.__module__.partition(".")[0] == "datasets" for cls in type(records).__mro__)


def checked(
    name: str,
    records: list[files.Record],
    problems: list[files.Problem],
    *,
    kind: Kind,
    answers: Answers,
    ignored: Collection[str] = (),
    arrow: bool = False,
) -> tuple[list[Row], tuple[str, ...]]:
    """Every record as a Row, and what is to be said of all; or one DataError with all that is wrong, `problems` too.

    arrow: the records come from Arrow, whose null is a key that the row does not have.
    """
    problems = list(problems)
    most = fresh().problems
    rows: list[Row] = []
    notes = unread.Notes(name)
    if not arrow:
        arrow = notes.arrow(nulls.read(record.value for record in records))
    first: tuple[int, str] | None = None
    for line, source, record in records:
        if len(problems) >= most:
            break
        try:
            record = without_nulls(record) if arrow else record
            form = form_of(record)
            if (first := first or (line, form))[1] != form:
                raise Wrong(f"mixed formats: {form} here, {first[1]} on line {first[0]}")
            talk = conversation(record, answers, ignored)
        except Wrong as wrong:
            problems.append((line, str(wrong)))
            continue
        notes.add(talk)
        rows.append(_row(talk, kind, source))
    try:
        files.refuse(name, problems, len(records))
    except DataError as error:
        error.rows = rows
        raise
    return rows, notes.sentences()


def _without_answer(row: Row) -> Row:
    """The prompt alone; earlier answers are part of it."""
    prompt = row.prompt
    return replace(row, messages=prompt, context_turns=frozenset(i for i in row.context_turns if i < len(prompt)))


def _row(talk: Conversation, kind: Kind, source: str) -> Row:
    return Row(
        tuple(talk.messages),
        kind=kind,
        category=talk.category,
        source=source,
        tools=talk.tools,
        context_turns=talk.context_turns,
        difficulty=talk.difficulty,
    )
