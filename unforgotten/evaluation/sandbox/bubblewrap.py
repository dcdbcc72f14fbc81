"""bubblewrap: namespaces and mounts hide the machine; inside, the same Landlock, seccomp and rlimits hold.

The process has a file system of Python's libraries and its scratch folder, no network, and sees no other process. The
scratch folder is one of the machine's: a file system in memory could be limited in bytes, but not in files. As root it
works with mounts alone; other users need user namespaces, which Docker's default profile and Ubuntu from 23.10 refuse
them.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from unforgotten.evaluation.sandbox import interpreter, scratch
from unforgotten.evaluation.sandbox.base import Sandbox
from unforgotten.evaluation.sandbox.program import ProcessPlace, Program

SCRATCH = "/scratch"
# Root keeps its own namespace of users: only there can it become one that is not root outside either. The rights are
# those that it needs for that; they go with it.
_AS_ROOT = ("--cap-drop", "ALL", *(a for c in ("SETUID", "SETGID", "CHOWN") for a in ("--cap-add", f"CAP_{c}")))


class Bubblewrap(Sandbox):
    """Confines by the program `bwrap`, 0.7 or newer."""

    name: ClassVar[str] = "bubblewrap"
    needs: ClassVar[str] = (
        "bubblewrap 0.7 or newer (`apt install bubblewrap`, `dnf install bubblewrap`), and user namespaces for those "
        "who are not root (on Ubuntu, an AppArmor profile for bwrap)"
    )

    def facts(self) -> dict[str, Any]:
        return super().facts() | {"version": _version()}

    @contextmanager
    def place(self, program: Program) -> Iterator[ProcessPlace]:
        with scratch.fresh() as folder:
            prefix = (*_walls(), "--bind", str(folder), SCRATCH, "--remount-ro", "/", "--chdir", SCRATCH, "--")
            yield ProcessPlace(prefix=prefix, scratch=SCRATCH, watched=folder, landlock=False)


def _version() -> str:
    completed = subprocess.run([_bwrap(), "--version"], capture_output=True, text=True, timeout=10, check=False)
    return completed.stdout.strip().removeprefix("bubblewrap ")


def _bwrap() -> str:
    return shutil.which("bwrap") or "bwrap"


@cache
def _walls() -> tuple[str, ...]:
    """Everything but the scratch folder, whose size is a program's own."""
    made: dict[str, None] = {}
    binds: list[str] = []
    for path in (*interpreter.readable(), interpreter.executable()):
        # bwrap closes the folders that it makes above a hidden one (root's home) to the user that the program becomes.
        made |= dict.fromkeys(str(p) for p in reversed(Path(path).parents) if str(p) != "/")
        binds += ["--dev-bind" if path in interpreter.DEVICES else "--ro-bind", path, path]
    taken = {path for path in interpreter.readable() if os.path.isdir(path)}
    folders = [p for p in made if not any(p == t or p.startswith(t + "/") for t in taken)]
    return (
        _bwrap(),
        *("--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts", "--unshare-cgroup-try"),
        *(_AS_ROOT if os.geteuid() == 0 else ("--unshare-user",)),
        # No --new-session: the processes are in a session of their own already, and in one group they die together.
        "--die-with-parent",
        *(argument for folder in folders for argument in ("--perms", "0755", "--dir", folder)),
        *binds,
    )
