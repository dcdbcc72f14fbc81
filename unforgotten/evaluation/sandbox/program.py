"""What a sandbox runs, where, and what came of it."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Protocol

from annotated_types import Ge, Gt

from unforgotten import registry
from unforgotten.registry import Count

Status = Literal["passed", "failed", "timeout", "memory", "output", "scratch", "killed"]
"""failed: an exception, a check that does not hold, or an early end; killed: it died of a signal; the others: that
limit was hit."""


@dataclass(frozen=True, slots=True)
class ProgramOutcome:
    """What became of one program."""

    status: Status
    why: str
    """One line: exception and message, or the limit that was hit; empty where it passed."""
    seconds: float
    """From the moment at which the process was ready to run the program."""
    output: str = ""
    """The first 16 KiB of what it printed, standard error included."""
    value: Any = None
    """What the check left in `result`, as JSON."""

    @property
    def passed(self) -> bool:
        return self.status == "passed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A text to run, how it is checked, and how much it may use."""

    text: str
    check: str = ""
    """Python over `candidate` (inside/checker.py lists its names); without one, running to the end passes."""
    entry_point: str = ""
    """The name of the program's function, which the check calls."""
    data: Any = None
    """What the check finds as `data`: anything that JSON can write."""
    timeout_s: Annotated[float, Gt(0)] = 4.0
    memory_bytes: Count = 1 << 30
    """Address space of the program's process (RLIMIT_AS), Python itself included."""
    scratch_bytes: Annotated[int, Ge(0)] = 16 << 20
    """All files in the scratch folder together, and each of them."""
    output_bytes: Annotated[int, Ge(0)] = 16 << 20
    """More than this printed ends the program."""
    threads: Count = 32
    """Threads at a time; other processes there may be none."""

    def __post_init__(self) -> None:
        registry.check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessPlace:
    """Where one process runs."""

    prefix: tuple[str, ...] = ()
    """The command before Python's own."""
    scratch: str
    """The scratch folder as the process sees it."""
    watched: Path
    """The same folder from outside, where it is measured."""
    landlock: bool
    """Landlock must hold; where mounts hide files already, it is used if it is there."""
    keep_search: bool = False
    """Python lies in a folder that other users cannot enter (root's home), and no mount brings it out."""


class Confines(Protocol):
    """What running one program needs of a sandbox (`sandbox.base.Sandbox`)."""

    name: ClassVar[str]

    def place(self, program: Program) -> AbstractContextManager[ProcessPlace]:
        """A fresh scratch folder and the way into it."""
