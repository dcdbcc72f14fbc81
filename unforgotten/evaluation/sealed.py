"""Whose a folder's replies and figures are: what this user wrote is sealed, and what another left is put aside."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from unforgotten.runs import trust

KEPT = ("replies", "results.json")
"""What a measurement leaves that a gate goes by."""


@dataclass
class Seal:
    """Is all that a gate goes by in a folder this user's?"""

    ours: bool


@contextmanager
def sealed(folder: Path) -> Iterator[Seal]:
    """What is written within it is this user's, unless something lay there before that was not."""
    seal = Seal(trust.is_sealed(folder, *KEPT))
    try:
        yield seal
    finally:
        if seal.ours:
            trust.seal(folder, *KEPT)


def forget(folder: Path) -> None:
    """Puts aside replies that another user left, and removes their figures: the model is asked again."""
    there = folder / "replies"
    if there.is_symlink() or there.exists():
        there.rename(folder / f"replies-of-others-{uuid.uuid4().hex[:12]}")
    (folder / "results.json").unlink(missing_ok=True)


def forget_comparisons(folder: Path) -> None:
    """Takes away differences of figures that are about to be replaced.

    gate.json stays: it says which weights, prompts and settings it is about, and an export asks whether it is of these.
    """
    (folder / "contrast.json").unlink(missing_ok=True)
