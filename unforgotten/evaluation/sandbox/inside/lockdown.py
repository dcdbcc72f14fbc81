"""Confines the process that it runs in, for good: files, calls, user and amounts. Standard library only.

Runs before the first line of a program. The order matters: what root may do comes before root is given up, limits come
before a filter that would refuse to set them.
"""

from __future__ import annotations

import os
import resource
import signal
from typing import TypedDict

from unforgotten.evaluation.sandbox.inside import kernel

NOBODY = 65534


class LockdownSettings(TypedDict):
    """What the process that starts this one decides."""

    scratch: str
    """The one folder that may be changed; the working folder."""
    readable: list[str]
    """Python's own files."""
    landlock: bool
    """Landlock must hold; where mounts hide files already, it is used if it is there."""
    uid: int
    """What root becomes, and its scratch folder's owner: of its own, so that no other's threads count against it."""
    keep_search: bool
    """Python lies in a folder that other users cannot enter (root's home): the right to pass folders is kept."""
    memory_bytes: int
    file_bytes: int
    files: int
    cpu_seconds: int
    tasks: int
    """Threads of this user, those of other processes included."""


def enter(settings: LockdownSettings) -> None:
    """Raises OSError where any of it cannot be had; nothing must be run then."""
    os.chdir(settings["scratch"])
    if os.geteuid() == 0:
        _leave_root(settings)
    kernel.prctl("no_new_privs", kernel.PR_SET_NO_NEW_PRIVS, 1)
    # After the change of user, which clears it: if who started this dies, so does this.
    kernel.prctl("a death signal", kernel.PR_SET_PDEATHSIG, signal.SIGKILL)
    if settings["landlock"] or kernel.landlock_abi():
        # The scratch folder as the working one: root's temporary files may lie where the new user cannot go.
        kernel.landlock(settings["readable"], [".", "/dev/null"])
    _limit(settings)
    os.environ.clear()
    kernel.seccomp()


def _leave_root(settings: LockdownSettings) -> None:
    uid = settings["uid"]
    keep = _search_right() if settings["keep_search"] else None
    if keep is not None:
        kernel.prctl("keeping a capability", kernel.PR_SET_KEEPCAPS, 1)
    os.setgroups([])
    for candidate in (uid, NOBODY):  # a container may know 65,536 users only
        try:
            os.setresgid(candidate, candidate, candidate)
            os.chown(".", candidate, candidate)
            os.setresuid(candidate, candidate, candidate)
            break
        except OSError:
            if candidate == NOBODY:
                raise
    if keep is not None:
        kernel.keep_capability(keep)
    if os.getresuid()[0] == 0 or os.getresuid() != (os.getuid(),) * 3:
        raise OSError("root could not be given up")


def _search_right() -> int | None:
    """Reading alone where it can be had; a container's root often has only the right to override modes.

    Landlock still says which files, and seccomp refuses to change what Landlock does not guard (modes, owners, times).
    """
    there = kernel.capabilities()
    return next((c for c in (kernel.CAP_DAC_READ_SEARCH, kernel.CAP_DAC_OVERRIDE) if there >> c & 1), None)


def _limit(settings: LockdownSettings) -> None:
    limits = {
        resource.RLIMIT_AS: settings["memory_bytes"],
        resource.RLIMIT_FSIZE: settings["file_bytes"],
        resource.RLIMIT_NOFILE: settings["files"],
        resource.RLIMIT_NPROC: settings["tasks"],
        resource.RLIMIT_CPU: settings["cpu_seconds"],  # if nobody is left to watch the clock
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_MEMLOCK: 0,
        resource.RLIMIT_MSGQUEUE: 0,
    }
    for which, most in limits.items():
        hard = resource.getrlimit(which)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (most, most))
