"""Files of ours on disk: written whole or not at all, in folders of this user alone, and read with a check."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path
from typing import Any

from unforgotten.errors import DataError, RecipeError, written_in
from unforgotten.runs import strict_read, variables
from unforgotten.runs.strict_json import kind_of


def put(path: Path, text: str) -> None:
    """Writes a text file whole or not at all, and the folders that it lies in; no value that --allow-env let in."""
    private_folder(path.parent)
    part = part_of(path)
    part.write_text(variables.without_secrets(text), encoding="utf-8")
    os.replace(part, path)


def private_folder(path: Path) -> Path:
    """Makes a folder, and those above it, that nobody else may enter, whatever the umask; one that is there stays.

    UNFORGOTTEN_RUNS_MODE gives others more, such as 750. Raises RecipeError where that is no mode.
    """
    given = os.environ.get("UNFORGOTTEN_RUNS_MODE") or "700"
    if not re.fullmatch(r"0?7[0-7]{2}", given):
        raise RecipeError(f"UNFORGOTTEN_RUNS_MODE is {given!r}. Set it to a mode such as 700, 750 or 755.")
    missing = [part for part in (path, *path.parents) if not part.is_dir()]
    for part in reversed(missing):
        try:
            part.mkdir(mode=0o700)
        except FileExistsError:
            if not part.is_dir():
                raise
        else:
            part.chmod(int(given, 8))
    written_in(path)
    return path


def read_object(path: Path, **wanted: type | tuple[type, ...]) -> dict[str, Any]:
    """A JSON object that we, or Transformers, left. Raises DataError that names the file and what is wrong.

    wanted: keys that must be there, and of what type.
    """
    try:
        tree = strict_read.value(path)
    except FileNotFoundError:
        raise DataError(
            f"There is no {path}, so the folder is incomplete. Put the file back, or make the run again."
        ) from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}). Restore the file as it was written.") from None
    if not isinstance(tree, dict):
        raise DataError(f"{path} must hold an object, and holds {kind_of(tree)}.")
    for key, kind in wanted.items():
        if not isinstance(tree.get(key), kind):
            there = kind_of(tree[key]) if key in tree else "nothing"
            raise DataError(
                f"{path}: {key} is {there}, which unforgotten never writes. Restore the file as it was written."
            )
    return tree


def part_of(path: Path) -> Path:
    """Where a file is written before it is renamed: a name that no other process takes, on another machine neither."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
