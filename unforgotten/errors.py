"""Every exception of the package, drawn as a tree.

    UnforgottenError                  base; the command line prints it and exits with 2
    ├── RecipeError                   a recipe, flag or field that cannot be run
    │   └── UnknownName               no such method, dataset, judge or field; carries the nearest names
    ├── DataError                     a file or its rows; `problems` names the lines
    ├── TemplateError                 a chat template whose loss mask or end of turn cannot be told
    ├── ModelError                    a model or adapter that cannot be loaded or be θ_safe
    ├── UnsupportedError              a set-up in which a method cannot be right (FSDP1, DeepSpeed, packing …)
    ├── JudgeError                    a judge that is missing or cannot judge these replies
    ├── EndpointError                 a server that refuses a request, or does not answer however often it is asked
    ├── SandboxError                  model-written code is to be run, and nothing here can confine it
    ├── TrainingError                 training stopped: NaN loss, a store that belongs to other weights …
    ├── LeaseLost                     another process took over what this one, silent for too long, was working on
    └── Unfinished                    some runs of a comparison failed; `rows` has the figures of the others

A message names the place and the mend. There is no fallback behind any of them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


class UnforgottenError(Exception):
    """What a user can mend; the message says how."""


class RecipeError(UnforgottenError):
    """A recipe, flag or field that cannot be run."""


class UnknownName(RecipeError):
    """No such name; offers the nearest ones."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, sorted(known)
        near = difflib.get_close_matches(name, self.known, n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(repr(n) for n in near)}?" if near else f"There are: {', '.join(self.known)}."
        super().__init__(f"Unknown {kind} {name!r}. {hint}")


def _with_problems(message: str, problems: Sequence[tuple[int, str]], shown: int = 20) -> str:
    lines = [f"  line {line}: {what}" for line, what in problems[:shown]]
    if len(problems) > shown:
        lines.append(f"  … and {len(problems) - shown} more")
    return "\n".join([message, *lines])


class DataError(UnforgottenError):
    """A data file or its rows. `problems` holds (line number, what is wrong), of which 20 are printed."""

    shown_rows = 20

    def __init__(self, message: str, problems: Sequence[tuple[int, str]] = ()) -> None:
        self.problems = list(problems)
        super().__init__(_with_problems(message, self.problems, self.shown_rows))


class TemplateError(UnforgottenError):
    """A chat template whose loss mask or end of turn cannot be told, or rows that it cannot write; `problems` as in
    DataError."""

    def __init__(self, message: str, problems: Sequence[tuple[int, str]] = ()) -> None:
        self.problems = list(problems)
        super().__init__(_with_problems(message, self.problems))


class ModelError(UnforgottenError):
    """A model or adapter that cannot be loaded, or cannot be θ_safe."""


class UnsupportedError(UnforgottenError):
    """A set-up in which a method cannot be right."""


class JudgeError(UnforgottenError):
    """A judge that is missing or cannot judge these replies."""


class EndpointError(UnforgottenError):
    """A server that refuses a request, or does not answer however often it is asked."""


class SandboxError(UnforgottenError):
    """Model-written code is to be run, and nothing here can confine it; it is never run without."""


class TrainingError(UnforgottenError):
    """Training stopped; the last complete checkpoint is kept."""


class LeaseLost(UnforgottenError):
    """Another process works on what this one held; it stops before it writes anything more."""


class Unfinished(UnforgottenError):
    """Some runs of a comparison failed; the others are done and kept. `rows`: their figures."""

    def __init__(self, message: str, rows: Sequence[dict[str, Any]] = ()) -> None:
        self.rows = list(rows)
        super().__init__(message)
