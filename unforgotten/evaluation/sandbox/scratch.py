"""The scratch folder of one process: made, measured and removed. No file system limits it, so it is watched."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from unforgotten.errors import SandboxError

MOST_ENTRIES = 1000
"""Empty files cost no bytes but still a place on the disk."""
TOO_DEEP = "folders too deep to be measured"
GONE_S = 10.0
"""How long a process that was killed may hold on to its folder, on a busy machine."""


@contextmanager
def fresh() -> Iterator[Path]:
    """A folder that is gone afterwards, whatever was left in it."""
    folder = Path(tempfile.mkdtemp(prefix="unforgotten-"))
    try:
        yield folder
    finally:
        _remove_soon(folder)


def too_much(folder: Path, most_bytes: int) -> str:
    """What is too much in the folder, or empty. Its owner may be changing it meanwhile; no link is followed."""
    n_bytes = entries = 0
    todo = [folder]
    while todo:
        try:
            with os.scandir(todo.pop()) as listing:
                listed = list(islice(listing, MOST_ENTRIES + 1 - entries))
        except (FileNotFoundError, NotADirectoryError):  # moved or removed meanwhile
            continue
        except PermissionError:  # it could hold anything, and so could what lies too deep
            return "a closed folder"
        except OSError:
            return TOO_DEEP
        entries += len(listed)
        if entries > MOST_ENTRIES:
            return f"more than {MOST_ENTRIES} files"
        for entry in listed:
            try:
                facts = entry.stat(follow_symlinks=False)
            except FileNotFoundError:
                continue
            except OSError:
                return TOO_DEEP
            n_bytes += facts.st_blocks * 512  # what it takes up: a file of holes takes nothing
            if stat.S_ISDIR(facts.st_mode):
                todo.append(Path(entry.path))
    return f"more than {most_bytes >> 20} MiB in files" if n_bytes > most_bytes else ""


def _remove_soon(folder: Path) -> None:
    """Removes the folder; a process that was killed behind bubblewrap's back may take a moment to be gone."""
    until = time.monotonic() + GONE_S
    while True:
        try:
            return remove(folder)
        except OSError as error:
            if time.monotonic() > until:
                raise SandboxError(f"The scratch folder {folder} cannot be removed: {error}.") from error
            time.sleep(0.02)


def remove(folder: Path) -> None:
    """Removes the folder and all in it. Nobody may be using it any more.

    Folders are pulled up to the top before they are emptied: however deep they were nested, no path gets long, and one
    that its owner closed (mode 0) is opened first.
    """
    name = secrets.token_hex(16)  # drawn now, so that nothing that was left in there can have it
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
            above = folder / f"{name}.{number}"
            os.rename(entry.path, above)
            todo.append(above)
        if here != folder:
            os.rmdir(here)
    os.rmdir(folder)
