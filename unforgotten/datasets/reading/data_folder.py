"""$UNFORGOTTEN_DATA: a folder of published files, read in place of the Hub ids that data sets name by default.

A file goes by its name under the variable, so that records and messages do not depend on where the folder lies.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from unforgotten.errors import DataError
from unforgotten.runs import safe_text

VARIABLE = "UNFORGOTTEN_DATA"


class ReadFile(NamedTuple):
    """A file that rows were read from."""

    name: str
    """As the recipe writes it, or `${UNFORGOTTEN_DATA}/…`."""
    sha256: str
    """Of the file's bytes, compressed as they lie there."""


def folder() -> Path | None:
    """The folder that the variable names; None if it is not set. Raises DataError where it names no folder."""
    given = os.environ.get(VARIABLE)
    if not given:
        return None
    try:
        place = Path(given).expanduser()
        next(os.scandir(place), None)  # stat alone does not tell that a folder may not be read
    except (OSError, RuntimeError, ValueError) as error:  # RuntimeError: ~name without such a user
        why = str(getattr(error, "strerror", None) or error).rstrip(".")
        raise DataError(
            f"The environment variable {VARIABLE} names {safe_text.line(given[:200])}, which cannot be read as a "
            f"folder: {why}. Set it to a folder of data files, as docs/datasets.md shows, or unset it."
        ) from None
    return place


def stand_in(name: str) -> str | None:
    """`${UNFORGOTTEN_DATA}/name` if that file is there, else None. Raises DataError where it cannot be read."""
    if (place := folder()) is None or not os.path.lexists(file := place / name):
        return None
    try:
        os.close(os.open(file, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)))
        why = "" if file.is_file() else "no file"
    except OSError as error:
        why = error.strerror or str(error)
    if why:  # a broken link is no wish for the Hub
        raise DataError(f"${{{VARIABLE}}}/{name} is there, but cannot be read: {why}. Mend or remove it.")
    return f"${{{VARIABLE}}}/{name}"


def sha256(file: Path) -> str:
    """64 hex digits over the bytes of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
