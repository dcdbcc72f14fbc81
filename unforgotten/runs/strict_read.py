"""Files of run folders, which may be a stranger's: regular files, within a size, read without ever waiting.

A pipe would keep a reader waiting for ever, and a device has no end. The bound is a setting: UNFORGOTTEN_MAX_RECORD_MB.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from unforgotten.errors import DataError, RecipeError

VARIABLE = "UNFORGOTTEN_MAX_RECORD_MB"
MEGABYTES = 128
"""The longest file of a run folder that is read whole, where the variable says nothing else."""


WRITTEN = ("replies", "probe", "figures", "tables", "exports")
"""Folders of a run or a comparison that verbs write in, or clear."""


def content(path: Path, most: int | None = None) -> bytes:
    """The bytes of a regular file, or of the first `most` of them. Raises OSError, also for a file beyond the bound."""
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    with os.fdopen(number, "rb") as file:
        mode = os.fstat(number).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        if not stat.S_ISREG(mode):
            raise OSError(f"{path} is a pipe or a device. Name a regular file.")
        if most is not None:
            return file.read(most)
        data = file.read((limit := bound()) + 1)
    if len(data) > limit:
        raise OSError(f"{path} has more than {limit >> 20} MB ({VARIABLE}).")
    return data


def text(path: Path) -> str:
    """The text of such a file. Raises OSError, and UnicodeDecodeError (a ValueError) where it is no UTF-8."""
    return content(path).decode("utf-8").replace("\r\n", "\n")


def value(path: Path) -> Any:
    """The JSON value in such a file. Raises OSError, and ValueError where it is none or nests beyond reading."""
    return loads(text(path))


def lines(path: Path) -> list[Any]:
    """The values of JSON Lines. Only a line feed ends one: text may hold U+2028 and the like, where splitlines cuts."""
    return [loads(line) for line in text(path).split("\n") if line.strip()]


def no_links(folder: Path) -> None:
    """Raises DataError where a folder that we write in, within that of a run or a comparison, is a link."""
    for place in (*(folder / name for name in WRITTEN), *folder.glob("served-*")):
        if place.is_symlink():
            raise DataError(f"{place} is a link, so files would be written elsewhere. Put a real folder in its place.")


def loads(words: str) -> Any:
    """A JSON value of text. Raises ValueError, also for one that nests beyond what Python reads."""
    try:
        return json.loads(words)
    except RecursionError:
        raise ValueError("it nests too deeply") from None


def bound() -> int:
    """The bound in bytes, as its variable or MEGABYTES has it."""
    given = os.environ.get(VARIABLE, "")
    if given and not (given.isascii() and given.isdecimal() and 0 < int(given) < 1 << 30):
        raise RecipeError(f"{VARIABLE} is {given[:40]!r}; it must be a whole number above 0.")
    return int(given or MEGABYTES) << 20
