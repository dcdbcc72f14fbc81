"""$UNFORGOTTEN_DATA: a folder of published files, read in place of the Hub ids that data sets name by default.

A file goes by its name under the variable, so that records and messages do not depend on where the folder lies.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple

from unforgotten.errors import DataError

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
    place = Path(given).expanduser()
    if not place.is_dir():
        raise DataError(
            f"The environment variable {VARIABLE} names {given}, and there is no such folder. Set it to a folder of "
            "data files, as docs/datasets.md shows, or unset it."
        )
    return place


def stand_in(name: str) -> str | None:
    """`${UNFORGOTTEN_DATA}/name` if that file is there, else None. Raises what `folder` raises."""
    place = folder()
    return f"${{{VARIABLE}}}/{name}" if place is not None and (place / name).is_file() else None


def sha256(file: Path) -> str:
    """64 hex digits over the bytes of a file."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
