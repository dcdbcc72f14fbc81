"""Landlock, seccomp and rlimits: needs no privilege and no program to be installed, only Linux 5.13 or newer.

The process sees the machine's files but may open only Python's own and its scratch folder. Works inside Docker's
default profile. It can still ask whether a path exists.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from unforgotten.evaluation.sandbox import interpreter, scratch
from unforgotten.evaluation.sandbox.base import Sandbox
from unforgotten.evaluation.sandbox.program import ProcessPlace, Program


class Landlock(Sandbox):
    """Confines by the kernel alone."""

    name: ClassVar[str] = "landlock"
    needs: ClassVar[str] = (
        "Linux 5.13 or newer on x86_64 or aarch64 with Landlock switched on (`landlock` among the names in "
        "/sys/kernel/security/lsm, or lsm=landlock,… on the kernel's command line)"
    )

    @contextmanager
    def place(self, program: Program) -> Iterator[ProcessPlace]:
        with scratch.fresh() as folder:
            hidden = os.geteuid() == 0 and interpreter.hidden()
            yield ProcessPlace(scratch=str(folder), watched=folder, landlock=True, keep_search=hidden)
