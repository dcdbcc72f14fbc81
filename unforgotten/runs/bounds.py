"""How much of a stranger's file is read: stated limits with their defaults, each of which the environment may move."""

from __future__ import annotations

import dataclasses
import os
from dataclasses import dataclass

from unforgotten.errors import RecipeError

PREFIX = "UNFORGOTTEN_MAX_"


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """Limits on a file of rows, and on a row's text. What is beyond one is refused by name; nothing is cut."""

    file_bytes: int = 1 << 30
    """Maximum size of a file, packed and unpacked, in bytes (1 GiB)."""
    row_bytes: int = 8 << 20
    """Maximum size in bytes of one row in the file: a line of JSON Lines, an element of an array, a cell of a table (8
    MiB)."""
    rows: int = 1_000_000
    """Maximum number of rows of one file, with the blank lines of JSON Lines."""
    inflation: int = 100
    """Maximum ratio of unpacked to packed size of a .gz, .xz or Parquet file. The first 16 MiB do not count."""
    problems: int = 10_000
    """Maximum number of bad rows of one file. Reading ends there."""
    depth: int = 64
    """Maximum depth of nested objects and lists in one row."""
    turns: int = 1_000
    """Maximum number of turns of one conversation."""
    values: int = 20_000
    """Maximum number of values, such as texts and numbers, in the turns and tools of one row."""
    characters: int = 1 << 19
    """Maximum number of characters that a chat template writes for one row (524,288). Each token takes 1 kB while
    counting."""

    def __post_init__(self) -> None:
        for name, value in dataclasses.asdict(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise RecipeError(f"{variable(name)} must be a whole number of at least 1, not {value!r}.")


def variable(name: str) -> str:
    """The environment variable that moves a limit."""
    return PREFIX + name.upper()


def bounds() -> Bounds:
    """The limits in force: those of the last `fresh`."""
    return _in_force[0] if _in_force else fresh()


def fresh() -> Bounds:
    """The limits of the environment as it is now: UNFORGOTTEN_MAX_FILE_BYTES and so on, else the defaults.

    Called once for each file, since `bounds` is asked for every row. Raises RecipeError where such a variable is not a
    whole number of at least 1.
    """
    given: dict[str, int] = {}
    for field in dataclasses.fields(Bounds):
        if text := os.environ.get(variable(field.name), "").strip():
            if not (text.isascii() and text.isdecimal() and len(text) < 19):
                raise RecipeError(f"{variable(field.name)} must be a whole number of at least 1, not {text[:40]!r}.")
            given[field.name] = int(text)
    _in_force[:] = [Bounds(**given)]
    return _in_force[0]


def over(name: str, limit: int) -> str:
    """What a message says of a limit, and of the variable that moves it."""
    return f"the limit is {limit:,} ({variable(name)})"


_in_force: list[Bounds] = []
