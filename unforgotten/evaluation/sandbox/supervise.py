"""Runs one program: starts its process and its checker's, watches clock, output and scratch, reads the verdict.

caller ── order ──▶ checker ◀── calls, answers ──▶ guest ◀── order ── caller
   ▲                   │                             │
   └────── verdict ────┘         output ─────────────┘
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import selectors
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

from unforgotten.errors import SandboxError
from unforgotten.evaluation.sandbox import interpreter, scratch
from unforgotten.evaluation.sandbox.process import Child
from unforgotten.evaluation.sandbox.program import Confines, ProcessPlace, Program, ProgramOutcome, Status

End = tuple[Status, str, Any]
"""Status, why, and what the check left."""

START_S = 60.0
"""A process that is not ready by then is the machine's fault, not the program's."""
CHECKER_BYTES = 2 << 30
"""Memory of a checker: it holds what it was handed and what the program returned."""
WORD_BYTES, VERDICT_BYTES = 64 << 10, 64 << 20
"""How much a guest and a checker may report."""
WATCH_S = 0.05
"""How often the scratch folder is measured."""
FILES = 32
"""Open files; deleted ones hold space that measuring does not see, so this many × scratch_bytes is the most."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two processes."""

    child: Child
    place: ProcessPlace
    token: str = ""


def run(sandbox: Confines, program: Program) -> ProgramOutcome:
    """One program's outcome. Raises SandboxError where no verdict can be had."""
    with ExitStack() as stack:
        if not program.check:
            return _Watch(program, _start(stack, sandbox, "guest", program, ())).outcome()
        calls, answers = os.pipe(), os.pipe()
        try:
            guest = _start(stack, sandbox, "guest", program, (calls[0], answers[1]))
            checker = _start(stack, sandbox, "checker", program, (answers[0], calls[1]))
        finally:
            for fd in (*calls, *answers):  # each side must see when the other's end is closed
                os.close(fd)
        return _Watch(program, guest, checker).outcome()


def _start(stack: ExitStack, sandbox: Confines, role: str, program: Program, ends: tuple[int, ...]) -> Side:
    place = stack.enter_context(sandbox.place(program))
    try:
        child = stack.enter_context(Child((*place.prefix, *interpreter.command()), ends))
    except OSError as error:
        raise SandboxError(f"The sandbox {sandbox.name} could not be started: {error}.") from error
    order: dict[str, Any] = {"report": child.their_report_fd, "calls": ends or None, "packages": interpreter.packages()}
    token = secrets.token_hex(16)
    if role == "guest":
        order |= {"text": program.text, "entry_point": program.entry_point, "token": token}
    else:
        order |= {"text": program.check, "data": program.data}
    order["confine"] = _confine(role, place, program, child.process.pid)
    child.order = memoryview(interpreter.order(role, order))
    return Side(child, place, token)


def _confine(role: str, place: ProcessPlace, program: Program, pid: int) -> dict[str, Any]:
    memory = program.memory_bytes if role == "guest" else max(CHECKER_BYTES, program.memory_bytes)
    return {
        "scratch": place.scratch,
        "readable": list(interpreter.readable()),
        "landlock": place.landlock,
        "uid": 1_500_000_000 + pid,  # beyond the numbers that systems give out
        "keep_search": place.keep_search,
        "memory_bytes": memory,
        "file_bytes": program.scratch_bytes,
        "files": FILES,
        "cpu_seconds": 2 * int(program.timeout_s) + 10,
        "tasks": program.threads + _tasks_of_this_user(),
    }


def _tasks_of_this_user() -> int:
    """RLIMIT_NPROC counts the threads of a user, not of a process. What root starts becomes a user of its own."""
    if not (uid := os.geteuid()):
        return 0
    tasks = 0
    for process in os.scandir("/proc"):
        try:
            if process.name.isdigit() and process.stat().st_uid == uid:
                tasks += len(os.listdir(f"{process.path}/task"))
        except OSError:  # gone meanwhile
            pass
    return tasks


class _Watch:
    """The processes of one program until there is a verdict, or a limit is hit."""

    def __init__(self, program: Program, guest: Side, checker: Side | None = None) -> None:
        self.program, self.guest, self.checker = program, guest, checker
        self.sides = [guest, *([checker] if checker else [])]
        self.teller = checker or guest
        self.began: float | None = None

    def outcome(self) -> ProgramOutcome:
        started = time.monotonic()
        with selectors.DefaultSelector() as selector:
            for side in self.sides:
                most = WORD_BYTES if side is self.guest else VERDICT_BYTES
                child = side.child
                selector.register(child.order_fd, selectors.EVENT_WRITE, child.write_order)
                selector.register(child.report_fd, selectors.EVENT_READ, partial(child.read_report, most))
                selector.register(child.output_fd, selectors.EVENT_READ, child.read_output)
            while not (end := self._end(time.monotonic(), started)):
                for key, _ in selector.select(WATCH_S):
                    step: Callable[[], bool] = key.data
                    if step():
                        selector.unregister(key.fd)
        seconds = time.monotonic() - (self.began or started)
        child = self.guest.child
        child.read_output()  # what was printed before the last answer
        status, why, value = end
        output = child.output.decode(errors="replace")
        return ProgramOutcome(status, _line(why), round(seconds, 4), _printable(output), value)

    def _end(self, now: float, started: float) -> End | None:
        too_much = self._too_much()
        if (message := self.teller.child.message) is not None:
            return too_much or self._reported(message)  # what was hit just before the end counts as well
        for side in self.sides:
            if not side.child.ready and (side.child.reported or now - started > START_S):
                side.child.read_output()
                said = _line(side.child.output.decode(errors="replace").strip().rpartition("\n")[2])
                raise SandboxError(f"The sandbox could not be set up: {said or 'it did not start in time'}.")
        if self.teller.child.reported:
            return self._untold()
        if self.began is None and all(side.child.ready for side in self.sides):
            self.began = now
        program = self.program
        if not too_much and self.began is not None and now - self.began > program.timeout_s:
            return "timeout", f"still running after {program.timeout_s:.3g} s", None
        return too_much

    def _too_much(self) -> End | None:
        program = self.program
        if self.guest.child.printed_bytes > program.output_bytes:
            return "output", f"printed more than {program.output_bytes >> 20} MiB", None
        if what := scratch.too_much(self.guest.place.watched, program.scratch_bytes):
            return "scratch", f"left {what} in its scratch folder", None
        return None

    def _reported(self, message: bytes) -> End:
        try:
            report = json.loads(message)
        except (ValueError, RecursionError):
            report = None
        if self.checker is None:
            if isinstance(report, dict) and report.get("loaded") == self.guest.token:
                return "passed", "", None
            facts = report.get("raised") if isinstance(report, dict) else None
            if isinstance(facts, list) and len(facts) == 3 and isinstance(facts[0], str) and isinstance(facts[1], str):
                return self._raised(facts)
            return "failed", "wrote into the sandbox's own report", None
        if report["status"] == "raised":
            return self._raised(report["facts"])
        if report["status"] == "gone":
            return self._died()
        return report["status"], report["why"], report.get("value")

    def _untold(self) -> End:
        if self.checker is None:
            return self._died()
        return "failed", "its check died of what it returned", None

    def _raised(self, facts: list[Any]) -> End:
        kind, message, number = facts
        why = f"{kind}: {message}" if message else kind
        if kind == "MemoryError":
            return "memory", f"{why} (limit: {self.program.memory_bytes >> 20} MiB)", None
        if number in (errno.EFBIG, errno.ENOSPC):
            return "scratch", f"{why} (limit: {self.program.scratch_bytes >> 20} MiB)", None
        return "failed", f"{why} (it ended itself)" if kind == "SystemExit" else why, None

    def _died(self) -> End:
        try:
            status = self.guest.child.process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "failed", "closed the channel of its answers", None
        # bubblewrap gives on a signal as a shell does.
        number = -status if status < 0 else status - 128 if status > 128 and self.guest.place.prefix else 0
        if not number:
            return "failed", f"ended itself with exit status {status} before it was done", None
        name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
        return "killed", f"died of {name}", None


def _line(text: str) -> str:
    """One line for people; a program's message must not move a terminal's cursor."""
    return " ".join(_printable(text).split())[:300]


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)
