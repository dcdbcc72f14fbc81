"""What every test of a hostile program asks: it was stopped, the next one runs, and nothing is left behind."""

from __future__ import annotations

import time
from pathlib import Path

from unforgotten.evaluation.sandbox.base import Sandbox
from unforgotten.evaluation.sandbox.program import ProgramOutcome


def stopped(outcome: ProgramOutcome) -> ProgramOutcome:
    """Whatever it was, it did not get through, and one line says why."""
    assert not outcome.passed, "the program did what it was to be stopped from"
    assert len(outcome.why) > 5 and "\n" not in outcome.why
    return outcome


def run(sandbox: Sandbox, text: str, **settings) -> ProgramOutcome:
    """The outcome of a hostile program; afterwards the sandbox still works."""
    outcome = sandbox.run(text, **{"timeout_s": 30.0, **settings})
    assert sandbox.run("x = 1", timeout_s=30.0).passed
    return stopped(outcome)


def processes() -> set[int]:
    """Those that run programs, by what they were started with."""
    actual = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"marshal.load(sys.stdin.buffer)" in (process / "cmdline").read_bytes():
                actual.add(int(process.name))
        except OSError:  # gone meanwhile
            pass
    return actual


def descendants(pid: int) -> set[int]:
    """The processes that this one started, and those that they did."""
    actual, todo = set(), [pid]
    while todo:
        for file in Path("/proc").glob(f"{todo.pop()}/task/*/children"):
            todo += (children := [int(n) for n in file.read_text().split()])
            actual |= set(children)
    return actual


def within(seconds: float, holds) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if holds():
            return True
        time.sleep(0.1)
    return False
