"""Outcomes that need not be computed twice, kept under the user's cache by what determines them."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import platform
from collections.abc import Callable
from dataclasses import asdict

from unforgotten.evaluation.sandbox import interpreter
from unforgotten.evaluation.sandbox.program import Program, ProgramOutcome
from unforgotten.runs import atomic
from unforgotten.runs.digests import cache_folder

_FORM = 2
"""Changes with what a check finds and with how values are written."""


def outcome(program: Program, compute: Callable[[], ProgramOutcome]) -> ProgramOutcome:
    """The outcome kept for this program, check and data, else the computed one, which is kept if it passed.

    Limits are no part of the key: what passed under one does not change under another. Two processes may both compute;
    they write the same, whole or not at all.
    """
    facts = [
        _FORM,
        platform.python_version(),
        interpreter.versions(),
        program.text,
        program.check,
        program.entry_point,
        program.data,
    ]
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    path = cache_folder() / "sandbox" / f"{key}.json.gz"
    try:
        return ProgramOutcome(**json.loads(gzip.decompress(path.read_bytes())))
    except (OSError, EOFError, ValueError, TypeError):
        pass  # not there, or a file of another form: computed anew
    computed = compute()
    if computed.passed:
        atomic.private_folder(path.parent)
        part = atomic.part_of(path)
        part.write_bytes(gzip.compress(json.dumps(asdict(computed)).encode(), mtime=0))
        os.replace(part, path)
    return computed
