"""A folder that is made beside its place and renamed into it, whole or not at all, by a name that no other takes.

A process number is no such name: in containers every process is number 1, and so is the one that was killed before it.
Each folder says who makes it; what a dead process left is removed by the next that makes the same one.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unforgotten.errors import RecipeError
from unforgotten.runs import atomic, lease

OWNER = ".owner.json"
SILENT_SECONDS = 7 * 86400.0
"""Of a process on another machine, or in a container that is gone, nothing is known: its folder is left for a week."""


@contextmanager
def folder(target: Path, *, alone: bool = False) -> Iterator[Path]:
    """A new folder beside `target`; what has not been published by the end is removed.

    alone: the lease of what `target` lies in is held, so that whatever else was begun there is left over.
    """
    part = atomic.part_of(target)
    atomic.private_folder(part.parent)
    _sweep(target, alone)
    atomic.private_folder(part)
    (part / OWNER).write_text(json.dumps(lease.identity()), encoding="utf-8")
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def publish(part: Path, target: Path) -> None:
    """Renames the folder into its place. Raises RecipeError where another process was faster."""
    (part / OWNER).unlink()
    try:
        part.rename(target)
    except OSError as error:
        if not target.exists():
            raise
        raise RecipeError(
            f"{target} exists already. Another process made it in the meantime, and it was not changed ({error})."
        ) from None


def _sweep(target: Path, alone: bool) -> None:
    """Removes what dead processes left of the same folder."""
    for left in target.parent.glob(f".{_literal(target.name)}.*"):
        if left.is_dir() and not left.is_symlink() and (alone or _is_left(left)):
            shutil.rmtree(left, ignore_errors=True)


def _is_left(part: Path) -> bool:
    try:
        owner = json.loads((part / OWNER).read_text(encoding="utf-8"))
        return lease.is_dead(owner) or time.time() - (part / OWNER).stat().st_mtime > SILENT_SECONDS
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return False  # not one of ours, or one that is just being published


def _literal(name: str) -> str:
    """A name as it stands, for `glob`."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)
