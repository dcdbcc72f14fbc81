"""Reference solutions run first: where a set's own solutions do not pass here, a score of 0 % would be this machine's.

Each pass is cached by program, tests, Python and numpy, so the next evaluation starts at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from unforgotten.datasets.base import Dataset, Row
from unforgotten.errors import SandboxError
from unforgotten.evaluation.suite_stages import Suite

if TYPE_CHECKING:
    from unforgotten.evaluation.sandbox.base import Sandbox

Progress = Callable[[str, int, int], None]
SHOWN = 10
"""Faults that a message names."""
_MISSING = re.compile(r"No module named '([\w.]+)'")


def check(suites: Iterable[Suite], sandbox: Sandbox, progress: Progress = lambda what, done, n: None) -> None:
    """Runs the reference of every prompt that is scored by running a reply, each once.

    Raises SandboxError where one does not pass: a rate over a task that cannot be solved here would be wrong. To
    evaluate without the task, take it out of the file.
    """
    for suite in suites:
        if suite.kind == "utility" and suite.dataset is not None and suite.dataset.executes:
            rows = list({row.answer: row for row in suite.rows}.values())
            tick = partial(progress, f"{suite.label}: references")
            if faults := _faults(suite.dataset, rows, sandbox, tick):
                raise SandboxError(_message(suite.label, faults, len(rows), sandbox.name))


def _faults(dataset: Dataset, rows: list[Row], sandbox: Sandbox, tick: Callable[[int, int], None]) -> list[str]:
    done = 0

    def fault(row: Row) -> str:
        nonlocal done
        why = dataset.reference_fault(row, sandbox.run)
        done += 1
        tick(done, len(rows))
        return why

    return [why for why in sandbox.map(fault, rows) if why]


def _message(label: str, faults: list[str], n: int, name: str) -> str:
    missing = sorted({match.group(1).partition(".")[0] for why in faults if (match := _MISSING.search(why))})
    mend = "Take these tasks out of the file, or mend them."
    if missing:
        more = "Install it: `pip install numpy`." if missing == ["numpy"] else "Take out the tasks that need more."
        mend = (
            f"{' and '.join(missing)} cannot be imported in the sandbox ({name}), which has Python's standard library, "
            f"and numpy where it is installed beside unforgotten. {more}"
        )
    shown = "".join(f"\n  {why}" for why in faults[:SHOWN])
    rest = f"\n  … and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
    return (
        f"{label}: the reference solutions of {len(faults)} of {n} tasks do not pass here, so no reply to them can be "
        f"scored:{shown}{rest}\n{mend}"
    )
