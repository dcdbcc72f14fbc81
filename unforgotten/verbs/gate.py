"""`evaluate --against … --gate …`: a model and what it is compared with, asked the same prompts by the same judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.errors import ModelError, RecipeError
from unforgotten.evaluation.contrast import Contrast, contrast
from unforgotten.evaluation.gate import Decision, Limits, gate
from unforgotten.evaluation.gate_decision import FILE, Decided, decided
from unforgotten.evaluation.measure_all import measure_all
from unforgotten.evaluation.measurement import Measurement
from unforgotten.models.folder.open import pinned
from unforgotten.models.shelf import part_of, weights_digest_of
from unforgotten.runs import atomic, digests, results, safe_text, trust
from unforgotten.runs.progress import Say, quiet
from unforgotten.runs.result_types import as_json
from unforgotten.verbs.evaluate.run import of_run
from unforgotten.verbs.evaluate.stage import of_stage
from unforgotten.verbs.evaluate.target import another, measurement

if TYPE_CHECKING:
    from unforgotten.recipe.recipe import Recipe


Compared = tuple[list[results.ResultRow], list[Contrast], Decision | None]
"""The scores of a target and of its reference, their differences, and the decision if limits are given."""


def against(
    target: str,
    reference: str | None = None,
    limits: Limits | None = None,
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    say: Say = quiet,
) -> Compared:
    """Measures a target and, with the same settings, what it is compared with; decides where there are limits.

    reference: `aligned` or `base` (of the target's own recipe), a run folder, a model folder or a Hub id. What was
    found is kept beside the target's results, as contrast.json and gate.json. Raises as `evaluate` does; RecipeError
    where a limit is a change and nothing says from what.
    """
    return against_all([target], reference, limits, recipe, overrides, say)[0]


def against_all(
    targets: Sequence[str],
    reference: str | None = None,
    limits: Limits | None = None,
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    say: Say = quiet,
) -> list[Compared]:
    """The same of several targets, each with a reference and a decision of its own; each judge is loaded once.

    All that can be refused is refused before any of them is asked.
    """
    with pinned(), digests.in_full() if limits is not None else nullcontext():
        return _against(targets, reference, limits, recipe, overrides, say)


def _against(
    targets: Sequence[str],
    reference: str | None,
    limits: Limits | None,
    recipe: Recipe | None,
    overrides: Mapping[str, Any] | None,
    say: Say,
) -> list[Compared]:
    pairs: list[tuple[Measurement, Measurement | None]] = []
    for target in targets:
        subject = measurement(target, recipe, overrides, say)
        if limits is not None:
            limits.check(reference is not None, {s.kind for s in subject.suites}, subject.settings.samples)
        if subject.settings.endpoint and len(targets) > 1:
            raise RecipeError("evaluate.endpoint serves one model under one name. Give one target per command.")
        if reference is not None and subject.settings.endpoint:
            raise RecipeError(
                "--against asks two models, but evaluate.endpoint serves only one. Leave out --against, or evaluate "
                "each model separately."
            )
        pairs.append((subject, None if reference is None else _reference(reference, subject, say)))
    if limits is not None:
        for each in (m for pair in pairs for m in pair if m is not None):
            each.distrust_others(say)
    measured = iter(measure_all([m for pair in pairs for m in pair if m is not None], say))
    return [
        _compared(subject, next(measured), other, next(measured) if other else None, limits) for subject, other in pairs
    ]


def _compared(
    subject: Measurement,
    ours: results.ResultRow,
    other: Measurement | None,
    theirs: results.ResultRow | None,
    limits: Limits | None,
) -> Compared:
    """Compares two that are measured, decides, and keeps both beside the first."""
    mine = (ours, subject.folder)
    its = None if other is None or theirs is None else (theirs, other.folder)
    rows = [ours] if theirs is None else [ours, theirs]
    differ = [] if its is None else contrast(mine, its)
    decision = None if limits is None else gate(limits, mine, its)
    sides = dict(zip(("model", "reference"), map(_side, rows), strict=False)) | {"judges": as_json(ours.judges)}
    if differ:
        _keep(subject.folder / "contrast.json", sides | {"differences": [c.json() for c in differ]})
    if decision is not None:
        _keep(subject.folder / FILE, sides | {"limits": asdict(limits) if limits else None} | decision.json())
        trust.seal(subject.folder, FILE)
    return rows, differ, decision


def _side(row: results.ResultRow) -> dict[str, Any]:
    """Which weights stand on one side of a comparison: those in memory, whatever their folder is called."""
    side = {name: getattr(row, name) for name in ("model", "method", "stage", "seed", "run")}
    return side | {name: getattr(row.digests, name) for name in ("weights", "loaded", "prompts", "settings")}


def _keep(path: Path, facts: dict[str, Any]) -> None:
    atomic.put(path, safe_text.json_text(facts, nan=True) + "\n")


def _reference(name: str, subject: Measurement, say: Say) -> Measurement:
    """What a target is compared with, asked the same prompts by the same judges."""
    assert subject.recipe is not None
    if name in ("aligned", "base"):
        return of_stage(subject.recipe, name, say, system=subject.system)
    folder = Path(name).expanduser()
    if (folder / "recipe.yaml").is_file():
        from unforgotten.recipe.read import load_recipe

        changes = {"evaluate": subject.settings, "out": str(folder.parent)}
        measured = of_run(
            folder,
            load_recipe(folder / "recipe.yaml", origin=trust.of_run(folder)).model_copy(update=changes),
            system=subject.system,
        )
        if trust.of_run(folder) == "foreign":
            measured.distrust()
        if measured.row is None and (folder / "results.json").is_file():
            measured.move(
                folder.parent / "evaluated" / f"{folder.name}-{measured.digest}"
            )  # its own figures stay its own
        return measured
    called = digests.public_name(name)
    return of_stage(another(subject.recipe, name), "base", say, system=subject.system, called=called)


def check_gated(run: Path, recipe: Recipe) -> Decided | None:
    """What a gate decided on these weights, of which every byte is read; None where no gate has decided.

    Raises ModelError where the weights are others than its gate.json decided on, DataError where it is none.
    """
    decision = decided(run)
    with digests.in_full():  # without a decision too: what is read here is what is released
        now = weights_digest_of(str(part_of(run)), recipe)
    if decision is not None and decision.weights != now:
        raise ModelError(
            f"{run} holds weights that its gate did not decide on (the gate saw {decision.weights}, now {now}). "
            "Evaluate the run again with --gate, or remove its gate.json."
        )
    return decision
