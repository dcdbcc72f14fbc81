"""One process at a time works on a run folder; a second one waits, and then finds the work done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def alone(folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Holds the lock of `folder`, which need not exist yet. The system lets go of it where its process dies.

    Two processes in one folder would delete each other's checkpoints.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say(f"Another process is at work on {folder}; waiting until it is done.")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
