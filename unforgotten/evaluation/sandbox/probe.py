"""Opens the first sandbox that proves itself here: hostile programs are run in it, and each must be stopped.

What is installed says little: a container may have bubblewrap and forbid its namespaces, a kernel may know Landlock and
have it switched off. There is no way around it: where nothing holds, nothing is run.
"""

from __future__ import annotations

import os
import sys
import tempfile
from functools import cache
from pathlib import Path

from unforgotten.errors import SandboxError
from unforgotten.evaluation.sandbox.base import Sandbox
from unforgotten.evaluation.sandbox.bubblewrap import Bubblewrap
from unforgotten.evaluation.sandbox.landlock import Landlock

SANDBOXES: tuple[type[Sandbox], ...] = (Bubblewrap, Landlock)
"""In the order in which they are tried."""

# Each attempt that succeeds is named in the error that the program ends with.
_HOSTILE = """
import os, socket, sys
got = []
def attempt(what, do):
    try: do()
    except (OSError, MemoryError): return
    got.append(what)
attempt("read a file outside", lambda: open({secret!r}).read())
attempt("listed the folder above it", lambda: os.listdir({folder!r}))
attempt("wrote a file outside", lambda: open({folder!r} + "/written", "w"))
attempt("read another process's memory map", lambda: open("/proc/1/maps").read())
attempt("opened a socket", lambda: socket.socket())
attempt("started a process", lambda: os.fork())
attempt("ran a program", lambda: os.posix_spawn("/bin/sh", ["sh", "-c", ":"], {{}}))
attempt("took 4 GB of memory", lambda: bytearray(4 << 30))
attempt("signalled another process", lambda: os.kill(os.getppid() or 1, 0))
if os.environ: got.append("saw the environment")
if os.getuid() == 0: got.append("was root")
if got: raise RuntimeError("; ".join(got))
open("own", "w").write("own")
assert open("own").read() == "own"
"""
_MODULES = "import collections, ctypes, decimal, functools, itertools, json, math, random, re, string, typing"


def open_sandbox(prefer: str | None = None) -> Sandbox:
    """The first of bubblewrap and Landlock that stops hostile programs here, or the one that `prefer` names.

    Raises SandboxError, which says why each fails and what to install or enable.
    """
    known = {kind.name: kind for kind in SANDBOXES}
    if prefer is not None and prefer not in known:
        raise SandboxError(f"There is no sandbox {prefer!r}. There are: {', '.join(known)}.")
    failures = []
    for kind in [known[prefer]] if prefer else SANDBOXES:
        if not (why := _fault(kind)):
            return kind()
        failures.append(f"  {kind.name}: {why}\n    It needs {kind.needs}.")
    raise SandboxError(
        "Model-written code is to be run, and no sandbox holds on this machine. It is not run without one.\n"
        + "\n".join(failures)
    )


@cache
def _fault(kind: type[Sandbox]) -> str:
    """Why this sandbox cannot be used here; empty where it held."""
    if sys.platform != "linux":
        return "this is no Linux; run in a Linux container or virtual machine"
    sandbox = kind()
    with tempfile.TemporaryDirectory(prefix="unforgotten-probe-") as folder:
        secret = Path(folder) / "secret"
        secret.write_text("secret")
        # Open to all, so that it is the sandbox that refuses, and not the file's mode.
        os.chmod(folder, 0o777)
        os.chmod(secret, 0o666)
        for program in (_MODULES, _HOSTILE.format(secret=str(secret), folder=folder)):
            try:
                outcome = sandbox.run(program, timeout_s=30.0)
            except SandboxError as error:
                return str(error).splitlines()[0]
            if not outcome.passed:
                return f"a program in it ended with {outcome.status}: {outcome.why}"
    return ""
