"""The Python that runs inside: this one, of its packages numpy alone; and the orders that it reads from no file."""

from __future__ import annotations

import importlib.util
import marshal
import os
import stat
import sys
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ENVIRONMENT = {"PYTHONHASHSEED": "0"}
"""A verdict must not hang on the order of a set; it is taken out of the environment before the program starts."""

# As -I would have it, but for the seed: no user's packages, no folder of the script on the path, no site, no .pyc.
FLAGS = ("-s", "-P", "-S", "-B", "-X", "utf8")

# Reads (modules, role, order) and calls the role's main. The modules keep their names, so that they find each other.
_START = """
import marshal, sys, types
modules, role, order = marshal.load(sys.stdin.buffer)
for name, code in modules:
    sys.modules[name] = module = types.ModuleType(name)
    if code: exec(code, module.__dict__)
    parent, _, own = name.rpartition(".")
    if parent: setattr(sys.modules[parent], own, module)
sys.modules[role].main(order)
"""

_ROOM = "unforgotten.evaluation.sandbox.inside"
_PARENTS = tuple(".".join(_ROOM.split(".")[: n + 1]) for n in range(_ROOM.count(".") + 1))
_INSIDE = (
    "syscalls",
    "kernel",
    "lockdown",
    "packages",
    "values",
    "channel",
    "guest",
    "checker",
)  # each after those it imports


def command() -> tuple[str, ...]:
    """Starts the Python that waits for an order on its standard input."""
    return (executable(), *FLAGS, "-c", _START)


def order(role: str, what: Mapping[str, Any]) -> bytes:
    """What the process `role` (guest, checker) reads before anything else."""
    return marshal.dumps(([*((name, None) for name in _PARENTS), *_modules()], f"{_ROOM}.{role}", dict(what)))


@cache
def _modules() -> list[tuple[str, Any]]:
    folder = Path(__file__).parent / "inside"
    sources = {name: (folder / f"{name}.py").read_text(encoding="utf-8") for name in _INSIDE}
    return [(f"{_ROOM}.{name}", compile(text, f"{name}.py", "exec")) for name, text in sources.items()]


@cache
def executable() -> str:
    """The interpreter itself, not a virtual environment's link to it."""
    return os.path.realpath(getattr(sys, "_base_executable", None) or sys.executable)


@cache
def readable() -> tuple[str, ...]:
    """What a program may read: Python's libraries, numpy's where it is installed, the C library, and two devices."""
    paths = [os.path.dirname(os.path.realpath(os.__file__))]
    for prefix in (sys.base_prefix, sys.base_exec_prefix):
        paths += [os.path.join(prefix, "lib"), os.path.join(prefix, sys.platlibdir)]
    for folder in packages().values():
        paths += [folder, f"{folder}.libs"]  # the second has the C libraries of a wheel
    paths += ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/etc/ld.so.cache", *DEVICES]
    return tuple(path for path in dict.fromkeys(paths) if os.path.exists(path))


@cache
def packages() -> dict[str, str]:
    """Packages that may be imported inside, and their folders. Tests of published code import numpy; it is here with
    Transformers. Nothing else is: what a program can reach is kept small."""
    specs = {name: importlib.util.find_spec(name) for name in ("numpy",)}
    return {
        name: os.path.dirname(os.path.realpath(spec.origin)) for name, spec in specs.items() if spec and spec.origin
    }


@cache
def versions() -> dict[str, str]:
    """Of these packages."""
    return {name: metadata.version(name) for name in packages()}


DEVICES = ("/dev/null", "/dev/urandom")


@cache
def hidden() -> bool:
    """Is there a folder on the way to Python's libraries that other users cannot enter, such as root's home?"""
    ways = {parent for path in readable() for parent in (Path(path), *Path(path).parents)}
    return any(not p.stat().st_mode & stat.S_IXOTH for p in ways if p.is_dir())
