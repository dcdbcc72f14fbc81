"""What stands in a file becomes records: JSON Lines, JSON, CSV, TSV, plain text, packed or not, and Parquet.

It knows lines, columns and encodings, and neither the Hub nor conversations. A reader returns records and problems side
by side, so that the caller can add its own and the user sees all of them at once.
"""

from __future__ import annotations

import csv
import gzip
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from unforgotten.errors import DataError

Problem = tuple[int, str]

TABLES = (".csv", ".tsv", ".txt")
PACKED = (".gz", ".xz")
SUFFIXES = (*TABLES, ".json", ".jsonl", ".ndjson", ".parquet", *PACKED)
_BLANK = re.compile(r"[ \t\r\n]*")  # JSON's own white space: str.strip() would also take U+2028 and the like
_DECODER = json.JSONDecoder()


class Record(NamedTuple):
    """One row as it was found, not yet checked."""

    line: int
    """The line in the file where the row begins, from 1; the index on the Hub, from 0."""
    source: str
    """`file:line` or `hub-id/split:index`, for Row.source."""
    value: Any


def suffix(file: Path) -> str:
    """`.jsonl` of rows.jsonl and of rows.jsonl.gz."""
    return Path(file.stem if file.suffix.lower() in PACKED else file.name).suffix.lower()


def read(
    path: str, file: Path, *, header: Iterable[str] = (), sole: str = "", quoted: bool = False
) -> tuple[list[Record], list[Problem]]:
    """Records and problems of a local file; `path` is what it is called in sources and errors.

    A table's first line is its header where it holds one of the names in `header`; without one, a file of one column
    (and a .txt, always) becomes rows `{sole: line}`. quoted: a .tsv is quoted as a .csv is.
    """
    if suffix(file) == ".parquet":
        return list(read_parquet(path, file)), []
    if suffix(file) in TABLES:
        return _read_table(path, file, set(header), sole, quoted)
    return read_json(path, file)


def read_text(file: Path) -> str:
    """The file's text: unpacked where it is gzip or xz, UTF-8 with or without a byte order mark."""
    raw = file.read_bytes()
    for magic, kind, unpack in ((b"\x1f\x8b", "gzip", gzip.decompress), (b"\xfd7zXZ\x00", "xz", lzma.decompress)):
        if raw.startswith(magic):
            try:
                raw = unpack(raw)
            except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
                raise DataError(f"{file} is not a whole {kind} file: {error}.") from None
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


def _lines(text: str) -> Iterator[str]:
    """Each line with its end; none is held longer than needed, since tables of 500 MB are read too."""
    start = 0
    while start < len(text):
        end = text.find("\n", start) + 1 or len(text)
        yield text[start:end]
        start = end


def _read_table(path: str, file: Path, header: set[str], sole: str, quoted: bool) -> tuple[list[Record], list[Problem]]:
    lines = _lines(read_text(file))
    if suffix(file) == ".txt":
        return [Record(n, f"{path}:{n}", {sole: t.strip()}) for n, t in enumerate(lines, 1) if t.strip()], []
    # A .tsv quotes nothing (GLUE's sentences hold lone quotes) unless the caller knows better; what is quoted is read
    # strictly, since a quote that is never closed would otherwise swallow the rest of the file without a word.
    tabs = "\t" if suffix(file) == ".tsv" else ","
    if tabs == "\t" and not quoted:
        reader = csv.reader(lines, delimiter=tabs, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(lines, delimiter=tabs, strict=True)
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


def read_parquet(path: str, file: Path, columns: Sequence[str] | None = None) -> Iterator[Record]:
    """The rows one by one; of `columns` alone, where given. Lines count the rows, from 1."""
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(f"{path} is a Parquet file, which needs `pip install 'unforgotten[data]'`.") from None
    try:
        with ParquetFile(file) as table:
            batches = table.iter_batches(batch_size=1000, columns=list(columns) if columns else None)
            for n, value in enumerate((row for batch in batches for row in batch.to_pylist()), 1):
                yield Record(n, f"{path}:{n}", value)
    except ArrowException as error:
        raise DataError(f"{path} is not a whole Parquet file: {error}.") from None
