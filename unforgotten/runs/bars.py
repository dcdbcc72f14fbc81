"""Progress bars on stderr or lines in their place, and silence for those of other libraries."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from unforgotten.runs import safe_text
from unforgotten.runs.progress import Say

Report = Callable[[str, int, int], None]
"""Called with what is being done, how far it is, and of how many (0: unknown)."""

hidden = False
"""Set if several runs share a terminal. Progress bars are then off."""

_open: list[Lines] = []
"""Who tells progress in place of bars; the innermost is the last."""
_said_at = 0.0
"""When the last line was said, by the clock that never goes back."""


class Lines:
    """The last progress that was reported, and how it is said."""

    def __init__(self, say: Say, what: str, line: Callable[[], str] | None = None) -> None:
        """line: gives the whole line, in place of what is being done."""
        self.say, self._line = say, line
        self.what, self.done, self.n, self.since = what, 0, 0, time.monotonic()

    def tick(self, what: str, done: int, n: int) -> None:
        """Progress of what is being done."""
        if what != self.what:
            self.since = time.monotonic()
        self.what, self.done, self.n = what, done, n

    @property
    def progress(self) -> str:
        """What is being done, and how far it is; empty where nothing is known."""
        return safe_text.line(self.what) + (f": {self.done} of {self.n}" if self.n else "")

    def line(self) -> str:
        """What is being done, how far it is, and for how long."""
        if self._line is not None:
            return self._line()
        return f"  {self.progress}{',' if self.n else ':'} {time.monotonic() - self.since:.0f} s"


class _Passed(Lines):
    """Progress that another process says."""

    def __init__(self, write: Say) -> None:
        super().__init__(write, "")

    def tick(self, what: str, done: int, n: int) -> None:
        super().tick(what, done, n)
        self.say(self.progress)


@contextmanager
def in_lines(say: Say, what: str, every_seconds: float = 10.0, line: Callable[[], str] | None = None) -> Iterator[None]:
    """Progress as lines, in place of bars: one after so many seconds without any, also where nothing moves.

    what: said until progress is reported. line: gives the line in place of that. Within another `in_lines`, this one
    speaks, and the outer one goes on afterwards.
    """
    global _said_at
    if not _open:  # nobody knows for how long nothing was said: the first line comes in half the time
        _said_at = time.monotonic() - every_seconds / 2
    lines, ended = Lines(say, what, line), threading.Event()
    _open.append(lines)

    def talk() -> None:
        global _said_at
        wait_seconds = every_seconds / 2
        while not ended.wait(wait_seconds):
            silent_seconds = time.monotonic() - _said_at
            speaks_now = _open[-1:] == [lines]
            if speaks_now and silent_seconds >= every_seconds:
                _said_at = time.monotonic()
                say(lines.line())
                silent_seconds = 0.0
            left_seconds = every_seconds - silent_seconds
            wait_seconds = max(left_seconds, every_seconds / 100 if speaks_now else every_seconds / 10)

    thread = threading.Thread(target=talk, daemon=True, name="progress in lines")
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        _open.remove(lines)


@contextmanager
def passed_on(write: Say) -> Iterator[None]:
    """Progress as text for another process, which says it: each change is written, and nothing is shown here."""
    lines = _Passed(write)
    _open.append(lines)
    try:
        yield
    finally:
        _open.remove(lines)


def speaks() -> bool:
    """Whether progress is said in lines, in place of bars."""
    return bool(_open)


def current() -> str:
    """The progress that was reported last, where it is said in lines; else empty."""
    return _open[-1].progress if _open else ""


def just_spoke() -> None:
    """Says that a line was printed by something else: the next line of progress may wait."""
    global _said_at
    _said_at = time.monotonic()


def tick(what: str, done: int, n: int) -> bool:
    """Tells progress where it is said in lines; False where it is not."""
    if not _open:
        return False
    _open[-1].tick(what, done, n)
    return True


def phase(what: str) -> None:
    """Names what begins now, of which no progress is known. Nothing is shown for it on a terminal."""
    tick(what, 0, 0)


@contextmanager
def quiet_bar() -> Iterator[Report]:
    """The same as `progress_bar`, but nothing is shown on a terminal: for work that is mostly short."""
    with progress_bar(speaks()) as report:
        yield report


def hush() -> None:
    """Takes away the bars and notices of libraries: ours say what matters."""
    import warnings

    from transformers.utils import logging

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


@contextmanager
def progress_bar(wanted: bool = True) -> Iterator[Report]:
    """A bar on stderr; yields progress(what, done, of how many). Nothing on ranks but the first, or when `hidden`."""
    if wanted and _open:
        lines = _open[-1]
        before, since = (lines.what, lines.done, lines.n), lines.since
        try:
            yield lines.tick
        finally:
            lines.tick(*before)
            lines.since = since
        return
    if not wanted or hidden or os.environ.get("RANK", "0") != "0":
        yield lambda what, done, n: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=safe_text.console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, n: bar.update(task, description=safe_text.line(what), completed=done, total=n)
