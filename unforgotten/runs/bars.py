"""Progress bars on stderr or lines in their place, and silence for those of other libraries."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from unforgotten.runs import safe_text
from unforgotten.runs.progress import Say

hidden = False
"""Set if several runs share a terminal. Progress bars are then off."""


_lines: Lines | None = None


class Lines:
    """The last progress that was told, said again and again."""

    def __init__(self, say: Say, what: str) -> None:
        self.say, self.what, self.done, self.n, self.since = say, what, 0, 0, time.monotonic()

    def tick(self, what: str, done: int, n: int) -> None:
        """Progress of what is being done."""
        if what != self.what:
            self.since = time.monotonic()
        self.what, self.done, self.n = what, done, n

    def line(self) -> str:
        """What is being done, how far it is, and for how long."""
        of = f" {self.done} of {self.n}," if self.n else ""
        return f"  {safe_text.line(self.what)}:{of} {time.monotonic() - self.since:.0f} s"


@contextmanager
def in_lines(say: Say, what: str, every_seconds: float = 10.0) -> Iterator[None]:
    """Progress as lines, in place of bars: one every so many seconds, also where nothing moves. what: said at first."""
    global _lines
    before, ended = _lines, threading.Event()
    lines = _lines = Lines(say, what)

    def talk() -> None:
        while not ended.wait(every_seconds):
            say(lines.line())

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _lines = before


def tick(what: str, done: int, n: int) -> bool:
    """Tells progress where it is said in lines; False where it is not."""
    if _lines is None:
        return False
    _lines.tick(what, done, n)
    return True


def hush() -> None:
    """Takes away the bars and notices of libraries: ours say what matters."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


@contextmanager
def progress_bar(wanted: bool = True) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on stderr; yields progress(what, done, of how many). Nothing on ranks but the first, or when `hidden`."""
    if wanted and _lines is not None:
        yield _lines.tick
        return
    if not wanted or hidden or os.environ.get("RANK", "0") != "0":
        yield lambda what, done, n: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=safe_text.console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, n: bar.update(task, description=safe_text.line(what), completed=done, total=n)
