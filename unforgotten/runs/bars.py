"""Progress bars on stderr, and silence for those of other libraries."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from unforgotten.runs import safe_text

hidden = False
"""Set if several runs share a terminal. Progress bars are then off."""


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
    if not wanted or hidden or os.environ.get("RANK", "0") != "0":
        yield lambda what, done, n: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=safe_text.console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=None)
        yield lambda what, done, n: bar.update(task, description=safe_text.line(what), completed=done, total=n)
