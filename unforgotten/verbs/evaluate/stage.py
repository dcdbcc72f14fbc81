"""Measures a model that no run trained: θ₀ or θ_safe, once for all runs that start there, or a model by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.evaluation.measurement import Measurement, TrainedOn
from unforgotten.evaluation.responder import served_as, served_digest
from unforgotten.evaluation.suites import suites
from unforgotten.models.locate_aligned import aligned_of
from unforgotten.models.shelf import weights_digest_of
from unforgotten.recipe.data_sets import DataSets, safety_rows
from unforgotten.runs import atomic, digests, results
from unforgotten.runs.progress import Say, quiet
from unforgotten.runs.result_types import Cost
from unforgotten.verbs.align import align, base_of
from unforgotten.verbs.evaluate.asked import in_4_bits, responder, settings_of, system_prompt, task_of

if TYPE_CHECKING:
    from unforgotten.recipe.aligned import Aligned
    from unforgotten.recipe.recipe import Recipe


def of_stage(
    recipe: Recipe,
    stage: str,
    say: Say = quiet,
    system: str | None = None,
    called: str | None = None,
    sets: DataSets | None = None,
) -> Measurement:
    """The measurement of θ₀ or θ_safe, which stage align makes first where it must.

    called: the name of a model that is asked by itself, and is nobody's θ₀. sets: data sets that were read already.
    """
    settings, sets = settings_of(recipe), sets or DataSets()
    asked = suites(settings, sets=sets)  # told before anything is trained or loaded, should it be missing
    where = align(recipe, say, sets) if stage == "aligned" else aligned_of(recipe, sets)
    base = base_of(recipe, say)
    weights_digest = where.digest if stage == "aligned" else weights_digest_of(base, recipe)
    weights_digest = served_digest(settings, recipe.model) or weights_digest
    system = system_prompt(recipe, sets) if system is None else system
    aligned_here = where if stage == "aligned" and where.by_align_stage else None
    run = Path("evaluated") / f"{stage}-{_digest(recipe, weights_digest, system, aligned_here)}"
    target = where if stage == "aligned" else base
    return Measurement(
        name=f"the {stage} model" if recipe.align else str(digests.public_name(recipe.model)),
        called=called,
        folder=Path(recipe.out) / run,
        settings=settings,
        suites=asked,
        weights_digest=weights_digest,
        model=lambda shelf, say: responder(target, recipe, shelf, weights_digest, say),
        facts=lambda: _facts(recipe, stage, str(run), called, aligned_here),
        trained=lambda: TrainedOn({"safety": safety_rows(recipe, sets).rows}) if aligned_here else None,
        task=task_of(recipe),
        recipe=recipe,
        system=system,
    )


def _digest(recipe: Recipe, weights_digest: str, system: str, aligned_here: Aligned | None) -> str:
    """Over the weights, and over all else that decides the prompts.

    aligned_here: the model that stage align made; its digest covers the template already.
    """
    endpoint = settings_of(recipe).endpoint
    asked_as: list[Any] = [] if aligned_here else [recipe.template, recipe.variables, recipe.date]
    asked_as += [system] if system else []
    asked_as += [endpoint.public()] if endpoint else []
    return digests.digest(weights_digest, asked_as)


def _facts(recipe: Recipe, stage: str, run: str, called: str | None, aligned_here: Aligned | None) -> results.ResultRow:
    """The facts of a row that do not come from replies. aligned_here: the model that stage align made."""
    record = atomic.read_object(aligned_here.record) if aligned_here else {}
    unknown = "The training rows of this model are unknown, so overlap with the prompts is not counted."
    return results.ResultRow(
        name=called,
        seed=recipe.safety_seed if aligned_here else None,
        stage="aligned" if stage == "aligned" else "base",
        cost=Cost(train_seconds=record.get("seconds")),
        model=digests.public_name(recipe.model),
        run=run,
        served=served_as(settings_of(recipe), recipe.model),
        notes=(*([] if aligned_here else [unknown]), *in_4_bits(recipe)),
    )
