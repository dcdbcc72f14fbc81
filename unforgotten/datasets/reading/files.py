"""Rows of a local file or of a Hub dataset, whichever a path names; columns by any of their names; samples.

The bottom layer under datasets/: it knows nothing of conversations. `formats` reads what stands in a file, `hub` what
stands on the Hub.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from unforgotten.datasets.reading import formats, hub, unpack
from unforgotten.datasets.reading.columns import choose, header_of
from unforgotten.datasets.reading.formats import Problem as Problem
from unforgotten.datasets.reading.formats import Record as Record
from unforgotten.errors import DataError, RecipeError
from unforgotten.runs import safe_text, variables
from unforgotten.runs.strict_json import kind_of

T = TypeVar("T")

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def expand(path: str) -> str:
    """`path` with ~ and variables filled in; one that is not set, or may not be read, is an error, not an odd path."""
    try:
        return os.path.expanduser(variables.expand_path(path))
    except RecipeError as error:
        raise DataError(f"{path}: {error}") from None


def local(path: str) -> Path | None:
    """The file that `path` names, or None where it reads as a Hub id. Raises DataError where there is no such file."""
    file = Path(expanded := expand(path))
    try:
        there = file.is_file()
    except OSError as error:  # a name too long, a folder that may not be looked into
        raise DataError(f"{safe_text.line(expanded[:200])} cannot be read: {error.strerror}.") from None
    if there:
        return file
    if file.is_dir():
        raise DataError(f"{expanded} is a folder. Name a file in it.")
    if odd := unpack.kind_of_file(file):
        raise DataError(f"{expanded} is {odd}, not a file of rows.")
    if is_hub_id(expanded):
        return None
    raise DataError(f"There is no file {expanded}. Relative paths start at {Path.cwd()}.{_of_data(file)}")


def _of_data(file: Path) -> str:
    """A hint where shipped recipes read `data`, since the variable is not set that names another folder."""
    if file.parts[:1] != ("data",) or os.environ.get("UNFORGOTTEN_DATA"):
        return ""
    return " Or set UNFORGOTTEN_DATA to a folder of data files, as docs/datasets.md shows."


def folder(path: str) -> Path | None:
    """The folder that `path` names, or None where it reads as a Hub id. Raises DataError where there is none."""
    place = Path(expanded := expand(path))
    if place.is_dir():
        return place
    if not place.is_file() and is_hub_id(expanded):
        return None
    raise DataError(f"There is no folder {expanded}. Relative paths start at {Path.cwd()}.")


def is_hub_id(path: str) -> bool:
    """Whether `owner/name` could be on the Hub; with a file's suffix it was meant to be a file."""
    return _HUB_ID.fullmatch(path) is not None and not path.endswith(formats.SUFFIXES)


def read(
    path: str,
    *,
    config: str | None = None,
    split: str = "train",
    header: Iterable[str] = (),
    sole: str = "",
    quoted: bool = False,
    instead: str = hub.A_FILE,
    **options: Any,
) -> tuple[list[Record], list[Problem]]:
    """Records and problems of a local file, by its suffix, or of a Hub dataset; `options` are load_dataset's."""
    file = local(path)
    if file is None:
        return list(_of_hub(expand(path), config, split, instead=instead, **options)), []
    return formats.read(path, file, header=header, sole=sole, quoted=quoted)


def stream(
    path: str,
    *,
    split: str = "train",
    columns: Sequence[str] | None = None,
    first_rows: int | None = None,
    instead: str = hub.A_FILE,
) -> Iterator[Record]:
    """The records of a large file or Hub dataset one by one, so that neither all of it is held nor downloaded.

    columns: all that is read of Parquet. first_rows: how many a Hub dataset gives; a file is read to its end.
    """
    file = local(path)
    if file is None:
        rows = _of_hub(expand(path), None, split, instead=instead, streaming=True)
        yield from islice(rows, first_rows)
    elif formats.suffix(file) == ".parquet":
        yield from formats.read_parquet(path, file, columns, held=False)
    else:
        records, problems = formats.read(path, file)
        refuse(path, problems, len(records))
        yield from records


def _of_hub(name: str, config: str | None, split: str, **options: Any) -> Iterator[Record]:
    for i, row in enumerate(hub.rows(name, config, split, **options)):
        yield Record(i, f"{name}/{split}:{i}", row)


def read_columns(
    path: str,
    columns: Mapping[str, Sequence[str]],
    *,
    sole: str = "",
    given: Mapping[str, str] | None = None,
    **how: Any,
) -> list[Record]:
    """Rows as `{name: text}`, each column found under one of the names it goes by, in any case, and none of them blank.

    given: the file's own name of a column, in place of those. The others keep their own names. Raises DataError for
    whatever is wrong, all lines at once. `how` is what `read` takes besides.
    """
    aliases = [*(given or {}).values(), *(a for names in columns.values() for a in names)]
    records, problems = read(path, header=aliases, sole=sole, **how)
    rows = []
    chosen = choose(path, header_of(records), given, columns) if given else None
    for line, source, value in records:
        if not isinstance(value, Mapping):
            problems.append((line, f"a row must be an object, not {kind_of(value)}"))
            continue
        plain = {str(key).casefold(): cell for key, cell in value.items() if cell is not None} | dict(value)
        cells = {
            name: str(next((plain[a] for a in names if plain.get(a) is not None), ""))
            for name, names in columns.items()
        }
        if chosen is not None:
            cells |= {name: str(value.get(chosen.get(name)) or "") for name in columns if chosen.get(name)}
        blank = [" or ".join(columns[name]) for name, cell in cells.items() if not cell.strip()]
        if blank:
            there = ", ".join(map(str, value)) or "none"
            problems.append((line, f"no {', no '.join(blank)} (columns: {there})"))
        rows.append(Record(line, source, {**value, **cells}))
    refuse(path, problems, len(records))
    return rows


def refuse(path: str, problems: Sequence[Problem], n_rows: int) -> None:
    """Raises DataError with the problems in the order of their lines, or with the lack of any row."""
    if problems:
        bad = len({line for line, _ in problems})
        raise DataError(f"{path}: {bad} {'row' if bad == 1 else 'rows'} cannot be used:", sorted(problems))
    if not n_rows:
        raise DataError(f"{path} has no rows.")


def sample(rows: Sequence[T], n_rows: int | None, seed: int, what: str, most_rows: int | None = None) -> list[T]:
    """`n_rows` of the rows in their own order, or all of them for None: a function of the seed and of len(rows).

    The first n of one shuffle, so that a larger sample of the same seed holds the smaller one. `most_rows` as in
    `how_many`, which says what this raises.
    """
    n = how_many(len(rows), n_rows, what, most_rows)
    if n == len(rows):
        return list(rows)
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    return [rows[i] for i in sorted(order[:n])]


def how_many(there: int, n_rows: int | None, what: str, most_rows: int | None = None) -> int:
    """How many of the rows that are there to take: `n_rows` is a promise, `most_rows` a bound.

    Raises DataError where `n_rows` is more than there are, whatever the bound.
    """
    if n_rows is not None and not 1 <= n_rows <= there:
        raise DataError(f"{what}: n_rows is {n_rows}, but there are {there} rows. Ask for 1 to {there}.")
    wanted = there if n_rows is None else n_rows
    return wanted if most_rows is None else min(wanted, most_rows)
