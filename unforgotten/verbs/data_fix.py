"""`data fix`: a clean file of a user's upload, whole or not at all, and what was dropped and changed, by line."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from unforgotten.datasets.jsonl import Jsonl, records_of
from unforgotten.datasets.reading import files
from unforgotten.datasets.reading.fix import Fixed, fixed
from unforgotten.errors import DataError
from unforgotten.runs import atomic


def fix(file: str, out: str | None = None, *, force: bool = False) -> tuple[Path, Fixed]:
    """Writes the rows that can be learnt, all as `messages`, and returns the file and what became of the rows.

    Raises DataError where no row is left, or the file to write is there already and `force` is not given.
    """
    source = Path(files.expand(file))
    target = Path(files.expand(out)) if out else _beside(source)
    if target.exists() and source.exists() and target.samefile(source):
        raise DataError(f"{target} is the input file. Name another file with --out.")
    if target.is_symlink() or (target.exists() and not (force and target.is_file())):
        raise DataError(f"{target} exists already. Name another file with --out, or add --force.")
    cleaned = fixed(*records_of(file))
    if not cleaned.lines:
        raise DataError(f"{file}: no row that can be trained on is left.", cleaned.dropped)
    text = "\n".join(cleaned.lines) + "\n"
    _check(target.name, text, cleaned.lines)
    try:
        atomic.put(target, text)
    except OSError as error:
        raise DataError(f"{target} cannot be written: {error.strerror}.") from None
    return target, cleaned


def _beside(source: Path) -> Path:
    name = source.name.split(".")[0] or "rows"
    return source.with_name(f"{name}.fixed.jsonl")


def _check(name: str, text: str, lines: list[str]) -> None:
    """Reads the file as training will, before it stands under its name."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / name
        file.write_text(text, encoding="utf-8")
        again = fixed(*records_of(str(file)))
        if again != Fixed(lines, [], []) or len(Jsonl(path=str(file)).rows()) != len(lines):
            raise DataError(f"{name} would be read differently after writing. Nothing was written.")
