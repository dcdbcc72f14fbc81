"""All rows of a file that cannot be encoded, in one error."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from unforgotten.datasets.base import Row
from unforgotten.errors import DataError, TemplateError
from unforgotten.models.chat.jinja_process import OverLimit

if TYPE_CHECKING:
    from unforgotten.models.chat.chat import Chat

LOOKED_AT = 5_000
"""Rows of a file with faults that are rendered to look for more."""
_PLACE = re.compile(r"^(.*):(\d+)$", re.DOTALL)


class Faults:
    """What is wrong with rows, gathered while the others are encoded."""

    def __init__(self, rows: int) -> None:
        self._rows = rows
        self._errors: list[tuple[Row, int, DataError | TemplateError]] = []

    @contextmanager
    def of(self, row: Row, index: int) -> Iterator[None]:
        """Takes note of what is raised for this row. A template that goes beyond its bounds ends the work at once."""
        try:
            yield
        except OverLimit:
            raise
        except (DataError, TemplateError) as error:
            self._errors.append((row, index, error))

    def refuse(self) -> None:
        """Raises what was noted: the error itself where it is one, else one with all of them by line."""
        if not self._errors:
            return
        kinds = {type(error) for _, _, error in self._errors}
        kind: type[DataError] | type[TemplateError] = TemplateError if kinds == {TemplateError} else DataError
        same = {str(error) for _, _, error in self._errors}
        if len(self._errors) == 1 or len(same) == 1:  # the template's own fault is every row's
            row, index, error = self._errors[0]
            error.problems = error.problems or [(_line(row, index), _said(str(error), row, index, named=False))]
            raise error
        files = {_file(row) for row, _, _ in self._errors}
        problems = [
            (_line(row, index), _said(str(error), row, index, named=len(files) > 1))
            for row, index, error in self._errors
        ]
        where = f"{next(iter(files))}: " if len(files) == 1 and files != {""} else ""
        raise kind(f"{where}{len(problems):,} of {self._rows:,} rows cannot be trained on:", problems)


def with_rendering(error: DataError, chat: Chat) -> DataError | TemplateError:
    """The error, and what the template refuses of the rows that could be read: one run tells both."""
    faults = Faults(len(error.rows))
    try:
        for index, row in enumerate(error.rows[:LOOKED_AT]):
            with faults.of(row, index):
                if row.messages[-1]["role"] == "assistant":
                    chat.examples(row, index)
        faults.refuse()
    except (DataError, TemplateError) as more:
        return joined([error, more])
    return error


def joined(errors: Sequence[DataError | TemplateError]) -> DataError | TemplateError:
    """One error that says what each of them does; `problems` holds those of all."""
    if len(errors) == 1 or len({str(error) for error in errors}) == 1:
        return errors[0]
    same = {type(error) for error in errors}
    kind: type[DataError] | type[TemplateError] = TemplateError if same == {TemplateError} else DataError
    joint = kind("\n".join(str(error) for error in errors))
    joint.problems = [problem for error in errors for problem in error.problems]
    return joint


def _file(row: Row) -> str:
    match = _PLACE.match(row.source)
    return match[1] if match else row.source


def _line(row: Row, index: int) -> int:
    match = _PLACE.match(row.source)
    return int(match[2]) if match else index + 1


def _said(text: str, row: Row, index: int, named: bool) -> str:
    """The message without the row's name, which its line tells; with it where rows come from several files."""
    return text if named else text.removeprefix(row.source or f"row {index + 1}").removeprefix(":").strip()
