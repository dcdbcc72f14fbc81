"""The scratch folder of one process, where no file system of its own limits it: made, measured and removed."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MOST_ENTRIES = 1000
"""Empty files cost no bytes but still a place on the disk."""


@contextmanager
def fresh() -> Iterator[Path]:
    """A folder that is gone afterwards, whatever was left in it."""
    folder = Path(tempfile.mkdtemp(prefix="unforgotten-"))
    try:
        yield folder
    finally:
        remove(folder)


def too_much(folder: Path, most_bytes: int) -> str:
    """What is too much in the folder, or empty. Its owner may be changing it meanwhile; no link is followed."""
    n_bytes = entries = 0
    todo = [folder]
    while todo:
        try:
            with os.scandir(todo.pop()) as found:
                for entry in found:
                    entries += 1
                    if entries > MOST_ENTRIES:
                        return f"more than {MOST_ENTRIES} files"
                    facts = entry.stat(follow_symlinks=False)
                    n_bytes += facts.st_blocks * 512  # what it takes up: a file of holes takes nothing
                    if stat.S_ISDIR(facts.st_mode):
                        todo.append(Path(entry.path))
        except PermissionError:  # it could hold anything
            return "a closed folder"
        except OSError:
            continue
    return f"more than {most_bytes >> 20} MiB in files" if n_bytes > most_bytes else ""


def remove(folder: Path) -> None:
    """Removes the folder and all in it. Nobody may be using it any more.

    Folders are pulled up to the top before they are emptied: however deep they were nested, no path gets long, and one
    that its owner closed (mode 0) is opened first.
    """
    todo, number = [folder], 0
    while todo:
        here = todo.pop()
        os.chmod(here, 0o700)
        for entry in list(os.scandir(here)):
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            os.chmod(entry.path, 0o700)  # a folder that moves writes its own `..`
            number += 1
            # A name that cannot be there: what a program left is at the top only before the first is moved.
            above = folder / f"{folder.name}.{number}"
            os.rename(entry.path, above)
            todo.append(above)
        if here != folder:
            os.rmdir(here)
    os.rmdir(folder)
