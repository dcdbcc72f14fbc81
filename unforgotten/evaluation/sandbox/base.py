"""What a sandbox is: it runs Python that nobody has read, and says what became of it.

    program     the text; it runs in a confined process of its own and may do there what it likes
    check       Python that calls the program's function and compares; it runs in a second confined process

How a verb uses one:

    sandbox = open_sandbox()               # before any reply is generated; SandboxError where nothing confines here
    scores = sandbox.map(lambda reply: dataset.score(reply.row, reply.text, execute=sandbox.run), replies)
    row["sandbox"] = sandbox.facts()       # results.json: which it was, with the versions its walls depend on

**What `passed` means.** With a check: the check ran to its end. No line of the program runs in the checker's process,
and what the program's function returns arrives as plain values (numbers, strings, lists …), so it cannot pass by
ending early, printing, patching builtins or asserts, or objects that equal everything: only by returning values that
the check accepts. (It may have found them in any way, by looking them up for instance.)
Without a check: the program's process said that it ran to its end, with a token it was told. That stops `sys.exit(0)`,
`os._exit(0)` and a printed mark, but not a program written against this harness, which can find the token in its own
memory. Use a check wherever a verdict counts.

**What a program cannot do**, by bubblewrap (mounts, namespaces) or Landlock, and by seccomp and rlimits in both: read
or list a file outside the libraries of Python and numpy and its scratch folder; change anything outside the scratch
folder; open a socket of any kind; start, signal, trace or outlive a process, or reach its descriptors; execute a
program; see the environment; use more memory, threads, open files, output or time than it was given.

**What it can do**: with Landlock alone, ask whether a path exists and how large it is; write to its scratch folder
until that is measured again (every 50 ms), and hold up to 32 times `scratch_bytes` in files that it has deleted and
keeps open, and `memory_bytes` in such that it has mapped; use up a processor until its time is over; attack the kernel
through the calls that inside/syscalls.py leaves it, as in any sandbox without a virtual machine. Of packages numpy
alone is inside, where it is installed: a program that needs another one fails.
"""

from __future__ import annotations

import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, ClassVar, TypeVar

from unforgotten.evaluation.sandbox import interpreter
from unforgotten.evaluation.sandbox.inside import kernel
from unforgotten.evaluation.sandbox.program import ProcessPlace, Program, ProgramOutcome

Item = TypeVar("Item")
Result = TypeVar("Result")


class Sandbox(ABC):
    """One way of confining; opened by `open_sandbox`, never made directly, so that it has proved itself.

    `run` gives the verdict on one program and may be called from several threads; `map` does so, one program per
    processor at a time. The two processes of a program take turns, so that each program keeps one processor busy; the
    most that it can take of memory is `memory_bytes` and 2 GiB for its checker.
    """

    name: ClassVar[str]
    needs: ClassVar[str]
    """What to install or enable to have it."""

    def facts(self) -> dict[str, Any]:
        """What results.json says of the sandbox: its name, and the versions that its walls depend on."""
        return {
            "name": self.name,
            "landlock_abi": kernel.landlock_abi(),
            "seccomp": True,
            "own_user": os.geteuid() == 0,
            "kernel": platform.release(),
            "python": platform.python_version(),
            "packages": interpreter.versions(),
        }

    @abstractmethod
    def place(self, program: Program) -> AbstractContextManager[ProcessPlace]:
        """A fresh scratch folder and the way into it; gone afterwards, whatever was left in it."""

    def run(self, program: str, *, remember: bool = False, **settings: Any) -> ProgramOutcome:
        """Runs one program to its end or to a limit. The settings are Program's: check, entry_point, timeout_s …

        remember: the outcome is a function of program, check and data (a reference solution's answers), so one that
        passed is kept under the user's cache and not computed again.
        Raises SandboxError where the sandbox itself cannot be set up: that is no verdict on the program. Raises
        RecipeError for a setting that Program does not allow.
        """
        from unforgotten.evaluation.sandbox import cache, supervise

        whole = Program(text=program, **settings)
        if not remember:
            return supervise.run(self, whole)
        return cache.outcome(whole, lambda: supervise.run(self, whole))

    def map(self, work: Callable[[Item], Result], items: Iterable[Item], *, jobs: int | None = None) -> list[Result]:
        """`work` of each item, in their order; `jobs` at a time, one per processor of this process where not given.

        What is waited for runs in other processes, so threads are enough.
        """
        with ThreadPoolExecutor(max_workers=jobs or _processors()) as pool:
            return list(pool.map(work, items))


def _processors() -> int:
    """Those that this process may use, which in a container can be fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
