"""Reads files of rows (JSON Lines, JSON, CSV, TSV, plain text, .gz of each) and Hub datasets; every bad line is named.

The bottom layer under datasets/: it knows lines, columns and encodings, and nothing of conversations. A reader returns
records and problems side by side, so that the caller can add its own and the user sees all of them at once.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import random
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from unforgotten.errors import DataError

Problem = tuple[int, str]
T = TypeVar("T")

TABLES = (".csv", ".tsv", ".txt")
_FILE_SUFFIXES = (*TABLES, ".json", ".jsonl", ".ndjson", ".gz", ".parquet")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_BLANK = re.compile(r"[ \t\r\n]*")  # JSON's own white space: str.strip() would also take U+2028 and the like
_DECODER = json.JSONDecoder()


class Record(NamedTuple):
    """One row as it was found, not yet checked."""

    line: int
    """The line in the file where the row begins, from 1; the index on the Hub, from 0."""
    source: str
    """`file:line` or `hub-id/split:index`, for Row.source."""
    value: Any


def expand(path: str) -> str:
    """`path` with ~ and environment variables filled in; a variable that is not set is an error, not an odd path."""
    unset = [n for n in re.findall(r"\$\{?(\w+)", path) if n not in os.environ]
    if unset:
        raise DataError(f"{path}: the environment variable {unset[0]} is not set. Set it, or write the path out.")
    return os.path.expanduser(os.path.expandvars(path))


def local(path: str) -> Path | None:
    """The file that `path` names, or None where it reads as a Hub id. Raises DataError where there is no such file."""
    file = Path(expanded := expand(path))
    if file.is_file():
        return file
    if file.is_dir():
        raise DataError(f"{expanded} is a folder: name one file in it.")
    if _HUB_ID.fullmatch(expanded) and not expanded.endswith(_FILE_SUFFIXES):
        return None
    raise DataError(f"There is no file {expanded}. Relative paths start at {Path.cwd()}.")


def read(
    path: str, *, config: str | None = None, split: str = "train", header: Iterable[str] = (), sole: str = ""
) -> tuple[list[Record], list[Problem]]:
    """Records and problems of a local file, by its suffix, or of a Hub dataset.

    A table's first line is its header where it holds one of the names in `header`; without one, a file of one column
    (and a .txt, always) becomes rows `{sole: line}`.
    """
    file = local(path)
    if file is None:
        return read_hub(expand(path), config, split), []
    suffix = Path(file.name.removesuffix(".gz")).suffix.lower()
    if suffix in TABLES:
        return _read_table(path, file, suffix, set(header), sole)
    return read_json(path, file)


def read_columns(
    path: str, columns: Mapping[str, Sequence[str]], *, config: str | None = None, split: str = "train", sole: str = ""
) -> list[Record]:
    """Rows as `{name: text}`, each column found under one of the names it goes by, and none of them blank.

    The other columns keep their own names. Raises DataError for whatever is wrong, all lines at once.
    """
    aliases = [a for names in columns.values() for a in names]
    records, problems = read(path, config=config, split=split, header=aliases, sole=sole)
    rows = []
    for line, source, value in records:
        if not isinstance(value, Mapping):
            problems.append((line, f"a row must be an object, not {kind_of(value)}"))
            continue
        found = {
            name: str(next((value[a] for a in names if value.get(a) is not None), ""))
            for name, names in columns.items()
        }
        blank = [" or ".join(columns[name]) for name, cell in found.items() if not cell.strip()]
        if blank:
            there = ", ".join(map(str, value)) or "none"
            problems.append((line, f"no {', no '.join(blank)} (columns: {there})"))
        rows.append(Record(line, source, {**value, **found}))
    refuse(path, problems, len(records))
    return rows


def refuse(path: str, problems: Sequence[Problem], n_rows: int) -> None:
    """Raises DataError with the problems in the order of their lines, or with the lack of any row."""
    if problems:
        bad = len({line for line, _ in problems})
        raise DataError(f"{path}: {bad} {'row' if bad == 1 else 'rows'} cannot be used:", sorted(problems))
    if not n_rows:
        raise DataError(f"{path} has no rows.")


def sample(rows: Sequence[T], n_rows: int | None, seed: int, what: str) -> list[T]:
    """`n_rows` of the rows in their own order, or all of them for None: a function of the seed and of len(rows).

    The first n of one shuffle, so that a larger sample of the same seed holds the smaller one.
    """
    if n_rows is None:
        return list(rows)
    if not 1 <= n_rows <= len(rows):
        raise DataError(f"{what}: n_rows is {n_rows}, but there are {len(rows)} rows. Ask for 1 to {len(rows)}.")
    order = list(range(len(rows)))
    random.Random(seed).shuffle(order)
    return [rows[i] for i in sorted(order[:n_rows])]


def kind_of(value: Any) -> str:
    """What a JSON value is, in JSON's words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, (int, float)) else type(value).__name__)


def read_text(file: Path) -> str:
    """The file's text: unpacked where it is gzip, UTF-8 with or without a byte order mark."""
    raw = file.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{file} is not a whole gzip file: {error}.") from None
    if not raw.strip():
        raise DataError(f"{file} is empty.")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        problems = [(n, f"byte {e.start + 1}: {e.reason}") for n, e in _each(raw.split(b"\n"), bytes.decode)]
        utf16 = " It looks like UTF-16." if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise DataError(f"{file} is not UTF-8.{utf16} Save it as UTF-8.", problems) from None


def _each(lines: Iterable[bytes], decode: Callable[[bytes], Any]) -> Iterable[tuple[int, UnicodeDecodeError]]:
    for n, line in enumerate(lines, 1):
        try:
            decode(line)
        except UnicodeDecodeError as error:
            yield n, error


def read_json(path: str, file: Path) -> tuple[list[Record], list[Problem]]:
    """A JSON array, one JSON object, or JSON Lines, told apart by the text and not by the suffix."""
    text = read_text(file)
    start = _BLANK.match(text).end()  # type: ignore[union-attr]
    if text[start : start + 1] == "[":
        return _array(path, text, start)
    try:
        whole, end = _DECODER.raw_decode(text, start)
        if _BLANK.fullmatch(text, end):
            at = text.count("\n", 0, start) + 1
            return [Record(at, f"{path}:{at}", whole)], []
    except (ValueError, RecursionError):
        pass  # read line by line, the broken ones are named below
    records: list[Record] = []
    problems: list[Problem] = []
    # Only \n ends a line: U+2028 and U+0085 may stand unescaped inside a JSON string, and splitlines() would cut there.
    for n, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                records.append(Record(n, f"{path}:{n}", json.loads(line)))
            except (ValueError, RecursionError) as error:
                problems.append((n, _broken(error)))
    return records, problems


def _array(path: str, text: str, at: int) -> tuple[list[Record], list[Problem]]:
    """The elements of a JSON array, one at a time, for the sake of their line numbers."""
    records: list[Record] = []
    line, counted = 1, 0
    at = _BLANK.match(text, at + 1).end()  # type: ignore[union-attr]
    closed = text[at : at + 1] == "]"
    while not closed:
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = _DECODER.raw_decode(text, at)
        except (ValueError, RecursionError) as error:
            # The line is where the parser stopped; nothing after it can be told apart.
            return records, [(getattr(error, "lineno", line), _broken(error))]
        records.append(Record(line, f"{path}:{line}", value))
        at = _BLANK.match(text, at).end()  # type: ignore[union-attr]
        closed = text[at : at + 1] == "]"
        if not closed:
            if text[at : at + 1] != ",":
                return records, [(text.count("\n", 0, at) + 1, "broken JSON: a comma or ] is missing")]
            at = _BLANK.match(text, at + 1).end()  # type: ignore[union-attr]
    if not _BLANK.fullmatch(text, at + 1):
        more = _BLANK.match(text, at + 1).end()  # type: ignore[union-attr]
        what = "text after the end of the array (in JSON Lines, rows are objects)"
        return records, [(text.count("\n", 0, more) + 1, what)]
    return records, []


def _broken(error: Exception) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"broken JSON at column {error.colno}: {error.msg}"
    return f"broken JSON: {'nested too deeply' if isinstance(error, RecursionError) else error}"


def _read_table(path: str, file: Path, suffix: str, header: set[str], sole: str) -> tuple[list[Record], list[Problem]]:
    lines = re.split(r"(?<=\n)", read_text(file))
    if suffix == ".txt":
        return [Record(n, f"{path}:{n}", {sole: t.strip()}) for n, t in enumerate(lines, 1) if t.strip()], []
    # A .tsv quotes nothing (GLUE's sentences hold lone quotes); a .csv is strict, since a quote that is never closed
    # would otherwise swallow the rest of the file without a word.
    if suffix == ".tsv":
        reader = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, strict=True)
    cells: list[tuple[int, list[str]]] = []
    before = 0
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                cells.append((before + 1, row))
            before = reader.line_num
    except csv.Error as error:
        raise DataError(f"{path}: broken CSV.", [(before + 1, f"{error}; is a quote never closed?")]) from None
    first = [name.strip() for name in cells[0][1]] if cells else []
    if header & set(first):
        body, width = cells[1:], len(first)
    elif sole and all(len(row) == 1 for _, row in cells):
        if first and " " not in first[0]:  # taken for a prompt, a header nobody foresaw would be one row too many
            raise DataError(f"{path}: the first line, {first[0]!r}, looks like a header; call that column {sole!r}.")
        body, first, width = cells, [sole], 1
    else:
        raise DataError(
            f"{path}: the first line names none of the columns {', '.join(sorted(header))}; it is {', '.join(first)!r}."
            + (" For one prompt a line, with commas in it, use a .txt file." if sole else "")
        )
    problems = [(n, f"{len(row)} cells where the header has {width}") for n, row in body if len(row) != width]
    whole = [(n, row) for n, row in body if len(row) == width]
    return [Record(n, f"{path}:{n}", dict(zip(first, row, strict=True))) for n, row in whole], problems


def read_hub(name: str, config: str | None, split: str) -> list[Record]:
    """One split of a Hub dataset; what stands in the way is said with the way round it."""
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(
            f"{name} is no local file, and the Hub needs `pip install 'unforgotten[data]'`. Or give `path:` a file."
        ) from None
    try:
        rows = load_dataset(name, config, split=split)
    except Exception as error:  # the Hub fails in a dozen classes of three packages; each means that there are no rows
        first = (str(error).strip().splitlines() or [""])[0]
        raise DataError(
            f"{name} (split {split}) cannot be read from the Hub: {type(error).__name__}: {first.rstrip('.')}.\n"
            f"If it is gated, accept its terms at https://huggingface.co/datasets/{name} and run `hf auth login`; "
            "or give `path:` a local file."
        ) from error
    return [Record(i, f"{name}/{split}:{i}", dict(row)) for i, row in enumerate(rows)]


def put(path: Path, text: str) -> None:
    """Writes a text file whole or not at all, and the folders that it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
