"""The folder that a ladder works in: whose it is, the model that is published in it, and what is cleared away."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from unforgotten.datasets.reading.digest import rows_digest
from unforgotten.errors import RecipeError, UnforgottenError
from unforgotten.evaluation.suites import settings_digest
from unforgotten.models.folder.open import opened
from unforgotten.models.shelf import weights_digest_of
from unforgotten.recipe.data_sets import safety_rows
from unforgotten.runs import atomic, atomic_folder, digests, safe_text

if TYPE_CHECKING:
    from unforgotten.evaluation.gate import Limits
    from unforgotten.evaluation.suite_stages import Suite
    from unforgotten.verbs.repair.subject import Subject

TRAINS = {"data", "poison", "safety_data", "replay", "memory", "method", "settings", "lora", "training", "seed"}
"""Fields of the recipe that the rungs which train go by."""


def key(subject: Subject, limits: Limits, asked: list[Suite]) -> str:
    """Over all that decides what a ladder finds, so that another one never goes on in its folder."""
    models = [weights_digest_of(m, subject.recipe) for m in (subject.tuned, subject.aligned)]
    settings = settings_digest(subject.settings, asked, subject.system)
    ladder = subject.ladder.model_dump()
    trains = subject.recipe.record(include=TRAINS)
    try:
        rows = rows_digest(safety_rows(subject.recipe, subject.sets).rows)  # a patch learns one of them
    except UnforgottenError:
        rows = ""  # the patch is skipped then
    facts = models, subject.unaligned_model, asdict(limits), settings, subject.settings.judges, ladder, trains, rows
    return digests.digest(*facts)


def claim(folder: Path, key: str) -> None:
    """Takes the folder, or goes on in it. Raises RecipeError where something else is in it."""
    mark, report = folder / "work" / "of.json", folder / "repair.json"
    if report.is_file() and atomic.read_object(report).get("outcome"):
        clear(folder)
        raise RecipeError(f"{folder} is finished: its README.md says what passed. Name a new folder as --out.")
    if mark.is_file() and atomic.read_object(mark) == {"of": key}:
        return
    if folder.exists() and any(file.name != ".leases" for file in folder.iterdir()):
        raise RecipeError(f"{folder} exists already, with something else in it. Name a new folder as --out.")
    atomic.put(mark, safe_text.json_text({"of": key}) + "\n")


def publish(model: str, target: Path, revision: str | None, ours: bool) -> None:
    """Writes the model that passed to `target`, whole or not at all.

    ours: made by this ladder, so that its files may have two names. Of another's, the very bytes that were asked are
    copied: its owner may write in the files.
    """
    with atomic_folder.folder(target, alone=True) as part:
        if ours:
            shutil.copytree(model, part, copy_function=_link, dirs_exist_ok=True)
        else:
            place = opened(model, None if Path(model).expanduser().is_dir() else revision)
            for name in place.files:
                (part / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(place.path / name, part / name)
        atomic_folder.publish(part, target)


def withdraw(target: Path) -> None:
    """Removes a model that was published by a call that was killed before its report."""
    if target.exists():
        target.rename(left := atomic.part_of(target))
        shutil.rmtree(left)


def clear(folder: Path) -> None:
    """Removes the candidates that lie in the folder of a ladder that is finished."""
    for left in (folder / "work").glob("*/model"):
        shutil.rmtree(left, ignore_errors=True)


def _link(source: str, target: str) -> str:
    """A second name of a file of ours, or a copy on another disk."""
    try:
        os.link(Path(source).resolve(), target)
    except OSError:
        shutil.copyfile(source, target)
    return target
