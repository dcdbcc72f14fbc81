"""What stands in a file becomes records: JSON Lines, JSON, CSV, TSV, plain text, packed or not, and Parquet.

It knows lines, columns and encodings, and neither the Hub nor conversations. A reader returns records and problems side
by side, so that the caller can add its own and the user sees all of them at once. Limits are those of `bounds`.
"""

from __future__ import annotations

import codecs
import csv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from unforgotten.datasets.reading import unpack
from unforgotten.errors import DataError
from unforgotten.runs.bounds import bounds, fresh, over
from unforgotten.runs.strict_json import TooLong, Window, broken, loads

Problem = tuple[int, str]

TABLES = (".csv", ".tsv", ".txt")
PACKED = (".gz", ".xz")
SUFFIXES = (*TABLES, ".json", ".jsonl", ".ndjson", ".parquet", *PACKED)
_UTF_16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
_LINES_A_ROW = 10
"""Lines that a row of a table may have in the mean, in quoted cells."""
_BATCH_BYTES = 512 << 20
"""What the rows of Parquet that are unpacked together may come to, were each as long as its whole column."""


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


class SourceLine(NamedTuple):
    """One line of a file, its end included; `problem` says why it cannot be read, if it cannot."""

    number: int
    text: str
    problem: str = ""


def lines(path: str, file: Path, most: int | None = None) -> Iterator[SourceLine]:
    """The file's lines, UTF-8 with or without a byte order mark. Only \\n ends one: U+2028 may stand inside a string.

    Raises DataError where the file is empty, UTF-16, or has more lines than `most`.
    """
    limits = fresh()
    most = most or limits.rows
    _count_lines(path, file, most)
    blank = True
    with unpack.stream(path, file) as stream:
        n = 0
        while raw := stream.readline(limits.row_bytes + 2):
            n += 1
            if n == 1:
                if raw.startswith(_UTF_16) or b"\0" in raw[:4]:
                    raise DataError(f"{path} is not UTF-8. It looks like UTF-16. Save it as UTF-8.")
                raw = raw.removeprefix(codecs.BOM_UTF8)
            if len(raw) > limits.row_bytes and not raw.endswith(b"\n"):
                yield SourceLine(n, "", f"longer than a row may be: {over('row_bytes', limits.row_bytes)} bytes")
                _skip_line(stream)
                blank = False
            else:
                blank = blank and not raw.strip()
                yield _line(n, raw)
    if blank:
        raise DataError(f"{path} is empty.")


def _count_lines(path: str, file: Path, most: int) -> None:
    """Passes over the whole file, so that one beyond a limit is refused before a line of it is parsed."""
    n = 0
    with unpack.stream(path, file) as stream:
        while piece := stream.read(unpack.PIECE):
            if (n := n + piece.count(b"\n")) > most:
                raise DataError(f"{path} has more than {most:,} lines; {over('rows', bounds().rows)}. Split it.")


def _skip_line(stream: BinaryIO) -> None:
    while (rest := stream.readline(unpack.PIECE)) and not rest.endswith(b"\n"):
        pass


def _line(n: int, raw: bytes) -> SourceLine:
    if b"\0" in raw:
        return SourceLine(n, "", "holds NUL bytes, so it is not text")
    try:
        return SourceLine(n, raw.decode())
    except UnicodeDecodeError as error:
        return SourceLine(n, "", f"byte {error.start + 1}: {error.reason}: not UTF-8. Save the file as UTF-8")


def _whole_lines(path: str, file: Path, most: int | None = None) -> Iterator[tuple[int, str]]:
    """Lines of a file that is read as one: a problem in one line ends it, and all such lines are named."""
    problems: list[Problem] = []
    for line in lines(path, file, most):
        if line.problem:
            problems.append((line.number, line.problem))
        elif not problems:
            yield line.number, line.text
    if problems:
        raise DataError(f"{path} cannot be read as it stands.", problems)


def read_json(path: str, file: Path) -> tuple[list[Record], list[Problem]]:
    """A JSON array, one JSON object, or JSON Lines, told apart by the text and not by the suffix."""
    fresh()
    with unpack.stream(path, file) as stream:
        window = Window(stream)
        try:
            window.blank()
            if window.next() == "[":
                return _array(path, window)
            at = window.line
            value = window.value()
            window.blank()
            if not window.next():
                return [Record(at, f"{path}:{at}", value)], []
        except UnicodeDecodeError:
            if window.first == b"[":
                list(_whole_lines(path, file))  # raises, and names the lines
        except (ValueError, RecursionError, TooLong):
            pass  # read line by line, the broken ones are named below
    records: list[Record] = []
    problems: list[Problem] = []
    for n, text, problem in lines(path, file):
        if problem:
            problems.append((n, problem))
        if len(problems) >= bounds().problems:
            break
        if text.strip():
            try:
                records.append(Record(n, f"{path}:{n}", loads(text.removesuffix("\n"))))
            except (ValueError, RecursionError) as error:
                problems.append((n, broken(error)))
    return records, problems


def _array(path: str, window: Window) -> tuple[list[Record], list[Problem]]:
    """The elements of a JSON array, one at a time, for the sake of their line numbers."""
    records: list[Record] = []
    limits = bounds()
    window.skip()
    window.blank()
    closed = window.next() == "]"
    while not closed:
        line = window.line
        if len(records) >= limits.rows:
            raise DataError(f"{path} has more than {limits.rows:,} rows; {over('rows', limits.rows)}. Split it.")
        try:
            value = window.value()
        except TooLong:
            return records, [(line, f"longer than a row may be: {over('row_bytes', limits.row_bytes)} bytes")]
        except UnicodeDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            # The line is where the parser stopped; nothing after it can be told apart.
            return records, [(getattr(error, "lineno", line), broken(error))]
        records.append(Record(line, f"{path}:{line}", value))
        window.blank()
        closed = window.next() == "]"
        if not closed:
            if window.next() != ",":
                return records, [(window.line, "broken JSON: a comma or ] is missing")]
            window.skip()
            window.blank()
    window.skip()
    window.blank()
    if window.next():
        return records, [(window.line, "text after the end of the array (in JSON Lines, rows are objects)")]
    return records, []


def _read_table(path: str, file: Path, header: set[str], sole: str, quoted: bool) -> tuple[list[Record], list[Problem]]:
    limits = fresh()
    if suffix(file) == ".txt":
        lines = _whole_lines(path, file)
        return [Record(n, f"{path}:{n}", {sole: t.strip()}) for n, t in lines if t.strip()], []
    texts = (text for _, text in _whole_lines(path, file, _LINES_A_ROW * limits.rows))
    # A .tsv quotes nothing (GLUE's sentences hold lone quotes) unless the caller knows better; what is quoted is read
    # strictly, since a quote that is never closed would otherwise swallow the rest of the file without a word.
    csv.field_size_limit(limits.row_bytes)
    tabs = "\t" if suffix(file) == ".tsv" else ","
    if tabs == "\t" and not quoted:
        reader = csv.reader(texts, delimiter=tabs, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(texts, delimiter=tabs, strict=True)
    cells, before = list[tuple[int, list[str]]](), 0
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                cells.append((before + 1, row))
            before = reader.line_num
            if len(cells) > limits.rows:
                raise DataError(f"{path} has more than {limits.rows:,} rows; {over('rows', limits.rows)}. Split it.")
    except csv.Error as error:
        raise DataError(f"{path}: broken CSV.", [(before + 1, f"{error}. Close every quote")]) from None
    first = [name.strip() for name in cells[0][1]] if cells else []
    if {name.casefold() for name in header} & {name.casefold() for name in first}:
        body, width = cells[1:], len(first)
        if twice := sorted({name for name in first if name and first.count(name) > 1}):
            raise DataError(f"{path}: the header names {', '.join(map(repr, twice))} twice. Rename one of them.")
    elif sole and all(len(row) == 1 for _, row in cells):
        if first and " " not in first[0]:  # taken for a prompt, a header nobody foresaw would be one row too many
            raise DataError(f"{path}: the first line, {first[0]!r}, looks like a header. Rename it to {sole!r}.")
        body, first, width = cells, [sole], 1
    else:
        raise DataError(
            f"{path}: the first line names none of the columns {', '.join(sorted(header))}; it is {', '.join(first)!r}."
            + (" For one prompt per line, with commas in it, use a .txt file." if sole else "")
        )
    problems = [(n, f"{len(row)} cells where the header has {width}") for n, row in body if len(row) != width]
    complete = [(n, row) for n, row in body if len(row) == width]
    return [Record(n, f"{path}:{n}", dict(zip(first, row, strict=True))) for n, row in complete], problems


def read_parquet(path: str, file: Path, columns: Sequence[str] | None = None, *, held: bool = True) -> Iterator[Record]:
    """The rows one by one; of `columns` alone, where given. Lines count the rows, from 1.

    held: the caller keeps all of them, so that the whole file's limits hold, and not those of a row alone.
    """
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise DataError(f"{path} is a Parquet file, which needs `pip install 'unforgotten[data]'`.") from None
    limits, given, n = fresh(), 0, 0
    try:
        with _parquet_bytes(path, file, held) as raw, ParquetFile(raw) as table:
            largest = _refuse_large(path, file, table.metadata, held)
            # A text may stand in a file once and in every row: few rows at a time, and one where it stays so in memory.
            most_inflated = max(unpack.FREE_BYTES, limits.inflation * file.stat().st_size)
            shared = "dictionary<" in str(table.schema_arrow)
            batch_rows = 1 if shared else max(1, min(64, _BATCH_BYTES // max(1, largest)))
            for batch in table.iter_batches(batch_size=batch_rows, columns=list(columns) if columns else None):
                given += batch.nbytes
                if batch.nbytes > limits.row_bytes * max(1, batch.num_rows):
                    raise DataError(f"{path}: row {n + 1} is too large; {over('row_bytes', limits.row_bytes)} bytes.")
                if held and given > most_inflated:
                    raise DataError(
                        f"{path} unpacks to more than {limits.inflation} times its size; "
                        f"{over('inflation', limits.inflation)}."
                    )
                if held and given > limits.file_bytes:
                    raise DataError(f"{path} holds too much data: {over('file_bytes', limits.file_bytes)} bytes.")
                for value in batch.to_pylist():
                    n += 1
                    yield Record(n, f"{path}:{n}", value)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path} is not a complete Parquet file: {error}.") from None


def _parquet_bytes(path: str, file: Path, held: bool) -> BinaryIO:
    return unpack.regular(path, file) if held else file.open("rb")


def _refuse_large(path: str, file: Path, facts: Any, held: bool) -> int:
    """Refuses by what the file says of itself, before anything is unpacked; its largest column chunk, in bytes."""
    limits = bounds()
    groups = [facts.row_group(i) for i in range(facts.num_row_groups)]
    unpacked = [sum(group.column(i).total_uncompressed_size for i in range(group.num_columns)) for group in groups]
    if held and facts.num_rows > limits.rows:
        raise DataError(f"{path} has {facts.num_rows:,} rows; {over('rows', limits.rows)}. Split it.")
    if sum(unpacked) > max(unpack.FREE_BYTES, limits.inflation * file.stat().st_size):
        raise DataError(
            f"{path} unpacks to more than {limits.inflation} times its size; {over('inflation', limits.inflation)}."
        )
    if (most := sum(unpacked) if held else max(unpacked, default=0)) > limits.file_bytes:
        raise DataError(f"{path} unpacks to {most:,} bytes; {over('file_bytes', limits.file_bytes)}.")
    return max(
        (group.column(i).total_uncompressed_size for group in groups for i in range(group.num_columns)), default=0
    )
