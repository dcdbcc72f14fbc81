"""Whatever rows a user hands to a trainer -> encoded rows: input_ids, labels, and where each came from."""

from __future__ import annotations

import logging
import operator
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from unforgotten.datasets.base import KINDS, Dataset, Row, bounded, check_kind
from unforgotten.datasets.jsonl import is_arrow, rows_of
from unforgotten.errors import DataError, TemplateError
from unforgotten.models.chat import Chat, Counts, encode_rows
from unforgotten.models.chat.faults import joined, with_rendering
from unforgotten.runs.bars import progress_bar
from unforgotten.training.collate import IGNORED, response_tokens

_LOG = logging.getLogger("unforgotten")
SAFETY = "safety_dataset"
REQUEST_LETTERS = 80
"""So much of a row's request is kept, for lists of rows that a person should look at."""
SILENT_ROWS = 2000
"""Fewer rows are encoded in about a second, without a bar."""


def encoded(
    processing_class: Any, data: Any, max_length: int | None, what: str, chat: Chat | None = None
) -> tuple[Chat | None, list[dict[str, Any]], Counts | None]:
    """Encodes conversations through `processing_class`; passes encoded rows through, checked.

    data: a Dataset of ours, Rows, a datasets.Dataset, or any iterable of dicts in one of the formats of
    `datasets/jsonl.py`, or of dicts with `input_ids` and `labels`. Raises DataError that names the row.
    """
    try:
        rows: list[Any] = bounded(data) if isinstance(data, Dataset) else list(_each(data, what))
    except DataError as error:
        raise _both_errors(error, chat, processing_class) from None
    for note in data.notes if isinstance(data, Dataset) else ():
        _LOG.warning(note)
    if not rows:
        return chat, [], None
    kinds: list[Any] = []
    if what == SAFETY:
        if isinstance(data, Dataset):
            # Rows of a task would be taken for answered look-alikes, refusals among them too.
            check_kind(data, rows, what, ["harmful", "benign"])
        kinds = _kinds(rows)
    if isinstance(rows[0], dict) and "input_ids" in rows[0]:
        return chat, [_checked(row, i, what) for i, row in enumerate(rows)], None
    if chat is None:
        if processing_class is None:
            raise DataError(
                f"{what} holds conversations. Pass processing_class= (the model's tokenizer) to encode them."
            )
        chat = Chat(processing_class)
    if not isinstance(rows[0], Row):
        if kinds:
            rows = [{k: v for k, v in row.items() if k != "kind"} if isinstance(row, Mapping) else row for row in rows]
        try:
            rows = rows_of(rows, source=what, arrow=True if is_arrow(data) else None, say=_LOG.warning)
        except DataError as error:
            raise with_rendering(error, chat) from None
        if kinds:
            rows = [replace(row, kind=kind or row.kind) for row, kind in zip(rows, kinds, strict=True)]
    with progress_bar(len(rows) > SILENT_ROWS) as report:
        examples, counts = encode_rows(chat, rows, max_length, lambda done, n: report(f"encoding {what}", done, n))
    for example, at in zip(examples, counts.row_of, strict=True):
        example |= {"kind": rows[at].kind, "source": rows[at].source}
        example["request"] = rows[at].request[:REQUEST_LETTERS]
        if rows[at].category:
            example["category"] = rows[at].category
        if rows[at].difficulty:
            example["difficulty"] = rows[at].difficulty
    return chat, examples, counts


def _both_errors(error: DataError, chat: Chat | None, processing_class: Any) -> DataError | TemplateError:
    """The error, and what the template refuses of the other rows, where there is a template."""
    if not error.rows or (chat is None and processing_class is None):
        return error
    try:
        chat = chat or Chat(processing_class)
    except (DataError, TemplateError) as more:
        return joined([error, more])
    return with_rendering(error, chat)


def _kinds(rows: list[Any]) -> list[Any]:
    """What safety rows that are dicts say of their kind, None where they say nothing; empty where none says anything.

    Raises DataError for another word: it would count as a look-alike without one.
    """
    kinds = [row.get("kind") if isinstance(row, Mapping) else None for row in rows]
    if wrong := [(n, kind) for n, kind in enumerate(kinds, 1) if kind is not None and kind not in [*KINDS]]:
        raise DataError(
            f"{SAFETY}: `kind` must be harmful (a refusal) or benign (a look-alike). Some rows have another value. "
            "Write one of the two, or leave the key out:",
            [(n, f"`kind: {str(kind)[:60]}`") for n, kind in wrong],
        )
    return kinds if any(kinds) else []


def encoded_both(
    train: Any, safety: Any, chat: Chat | None, *, processing_class: Any, max_length: int | None
) -> tuple[Chat | None, tuple[list[dict[str, Any]], Counts | None], tuple[list[dict[str, Any]], Counts | None]]:
    """The user's rows and the safety rows (or None); what is wrong in either is one error."""
    sets: list[tuple[list[dict[str, Any]], Counts | None]] = []
    faults: list[DataError | TemplateError] = []
    for data, what in ((train, "train_dataset"), ([] if safety is None else safety, SAFETY)):
        try:
            chat, rows, counts = encoded(processing_class, data, max_length, what, chat)
            sets.append((rows, counts))
        except (DataError, TemplateError) as error:
            faults.append(error)
    if faults:
        raise joined(faults)
    return chat, sets[0], sets[1]


def is_encoded(data: Any) -> bool:
    """Are these rows with `input_ids`, or a data set of another kind that is not ours to read?"""
    if isinstance(data, Dataset):
        return False
    try:
        first = data[0]
    except (TypeError, KeyError, IndexError, NotImplementedError):
        return not hasattr(data, "__iter__")
    return not isinstance(first, (dict, Row)) or (isinstance(first, dict) and "input_ids" in first)


def ids_of(data: Any, what: str, predicts: bool = False) -> list[tuple[str, list[int]]]:
    """Where each encoded row of a list or of a `datasets.Dataset` stands, and its ids; none of other data sets.

    predicts: no row need have labels, but all of them or none. Raises DataError where a row's labels are not its own,
    or where there are none to reckon a loss by.
    """
    if not isinstance(data, (list, tuple)) and not is_arrow(data):
        return []
    placed_ids = []
    bare = predicts and not any(isinstance(row, dict) and row.get("labels") is not None for row in data)
    for at, row in enumerate(data):
        bare = bare and isinstance(row, dict) and row.get("input_ids") is not None
        ids = _whole(row["input_ids"], f"{what}[{at}].input_ids") if bare else _checked(row, at, what)["input_ids"]
        placed_ids.append((f"{what}[{at}]", ids))
    return placed_ids


def _each(data: Any, what: str) -> Iterable[Any]:
    if isinstance(data, (str, bytes, dict)) or not hasattr(data, "__iter__"):
        raise DataError(f"{what} must be rows: a list, a datasets.Dataset or one of ours, not {type(data).__name__}.")
    return iter(data)


def _checked(row: Any, at: int, what: str) -> dict[str, Any]:
    if not isinstance(row, dict) or row.get("input_ids") is None:
        raise DataError(f"{what}[{at}] has no input_ids, but the rows before it do. Encode all rows, or none.")
    if row.get("labels") is None:
        raise DataError(f"{what}[{at}] has input_ids but no labels. Add labels: they mark the tokens in the loss.")
    ids, labels = (_whole(row[name], f"{what}[{at}].{name}") for name in ("input_ids", "labels"))
    if len(ids) != len(labels):
        raise DataError(f"{what}[{at}]: {len(ids)} input_ids but {len(labels)} labels.")
    for n, (i, label) in enumerate(zip(ids, labels, strict=True)):
        if label not in (i, IGNORED):
            raise DataError(
                f"{what}[{at}].labels[{n}] is {label}, but the token is {i}. A label must be the id of its token, or "
                f"{IGNORED} outside the loss. Do not shift labels: the model does."
            )
    example = {**row, "input_ids": ids, "labels": labels}
    if response_tokens(example) == 0:
        raise DataError(f"{what}[{at}] has no token in the loss: every label after the first is {IGNORED}.")
    return example


def _whole(values: Any, place: str) -> list[int]:
    """Token ids as numbers of Python's; what is no whole number is refused, not rounded."""
    try:
        return [operator.index(value) for value in values if not isinstance(value, bool) or _refuse(value)]
    except TypeError:
        raise DataError(f"{place} must be a list of whole numbers, the ids of one row.") from None


def _refuse(value: bool) -> bool:
    raise TypeError(value)
