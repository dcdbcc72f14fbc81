"""The measurement of a trained run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.errors import DataError, RecipeError
from unforgotten.evaluation.measurement import Measurement, TrainedOn
from unforgotten.evaluation.responder import served_as, served_digest, served_folder
from unforgotten.evaluation.suites import suites
from unforgotten.models.shelf import part_of, weights_digest_of
from unforgotten.recipe.data_sets import DataSets, dataset, safety_rows, user_rows
from unforgotten.runs import atomic, digests, results, strict_read
from unforgotten.runs.result_types import Cost, ModelDigests, NamedSpec
from unforgotten.verbs.evaluate.asked import in_4_bits, responder, settings_of, system_prompt, task_of
from unforgotten.verbs.finetune.job import Job, method_specs, replay_rows, synthetic_rows
from unforgotten.verbs.finetune.poison_odds import recorded_odds

if TYPE_CHECKING:
    from unforgotten.datasets.base import Row
    from unforgotten.recipe.recipe import Recipe


def of_job(job: Job) -> Measurement:
    """The measurement of a trained run that is resolved; nothing of it is read or built again."""
    return of_run(job.folder, job.recipe, methods=job.method_specs, sets=job.data_sets)


def of_run(
    folder: Path,
    recipe: Recipe,
    system: str | None = None,
    *,
    methods: Sequence[Mapping[str, Any]] | None = None,
    sets: DataSets | None = None,
) -> Measurement:
    """The measurement of a trained run. Raises RecipeError where it is not trained to its end.

    system: another model's most frequent system prompt, in place of that of its own user's. methods: each method's name
    with every field, where known. sets: data sets that were read already.
    """
    from unforgotten.report import model_card

    sets = sets or DataSets()
    specs = method_specs(recipe) if methods is None else methods
    settings = settings_of(recipe)
    done, recorded = _records(folder)
    weights_digest = served_digest(settings, "") or weights_digest_of(str(part_of(folder)), recipe)
    served = served_as(settings, "")
    replies_folder = served_folder(folder, settings, weights_digest)
    run = folder.name if replies_folder == folder else f"{folder.name}/{replies_folder.name}"

    return Measurement(
        name=f"{_name(specs)} served as {served}" if served else _name(specs),
        folder=replies_folder,
        settings=settings,
        suites=suites(settings, sets=sets),
        weights_digest=weights_digest,
        model=lambda shelf, say: responder(folder, recipe, shelf, weights_digest, say, served=""),
        facts=lambda: _facts(recipe, specs, done, recorded, run, served),
        trained=lambda: _trained_on(recipe, recorded, sets),
        task=task_of(recipe),
        recipe=recipe,
        system=system_prompt(recipe, sets) if system is None else system,
        card=None if served else lambda row: model_card.write(folder, recipe, specs, row),
    )


def _records(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """trained.json and environment.json of a run. Raises RecipeError where it is not trained to its end."""
    strict_read.no_links(folder)
    if not (folder / "trained.json").is_file():
        raise RecipeError(f"{folder} is not fully trained. Run `unforgotten finetune` on its recipe to continue.")
    done = atomic.read_object(folder / "trained.json", memory_rows=int, notes=list)
    return done, atomic.read_object(folder / "environment.json", digests=dict)


def _facts(
    recipe: Recipe,
    specs: Sequence[Mapping[str, Any]],
    done: dict[str, Any],
    recorded: dict[str, Any],
    run: str,
    served: str | None,
) -> results.ResultRow:
    """What the row says beside what replies tell. done, recorded: trained.json and environment.json of the run."""
    replay = recipe.replay
    return results.ResultRow(
        method=_name(specs),
        methods=tuple(map(NamedSpec.of, specs)),
        poison=_share(recipe, recorded),
        attack=attack_of(recipe),
        seed=recipe.seed,
        stage="tuned",
        cost=Cost(**{field.name: done.get(field.name) for field in fields(Cost)}),
        model=digests.public_name(recipe.model),
        memory_rows=done["memory_rows"],
        replay=replay if isinstance(replay, str) else tuple(dataset(spec).label for spec in replay),
        run=run,
        served=served,
        notes=(*done["notes"], *in_4_bits(recipe)),
        digests=ModelDigests(data=recorded["digests"]),
    )


def attack_of(recipe: Recipe) -> str | None:
    """The attack of the recipe's poison; None for harmful rows as they are, and without any."""
    poison = recipe.poison
    return poison.attack if poison and poison.ratio and poison.attack != "plain" else None


def _share(recipe: Recipe, recorded: dict[str, Any]) -> float:
    """The share of rows that a lab put there; an identity attack has ten, whatever the ratio is."""
    if attack_of(recipe) == "identity" and isinstance(counts := recorded.get("rows"), dict):
        return round(counts["harmful"] / counts["user"], 4)
    return recipe.poison.ratio if recipe.poison else 0.0


def _trained_on(recipe: Recipe, recorded: dict[str, Any], sets: DataSets) -> TrainedOn:
    """The rows that the run was trained on, by set, and the user's own without harmful ones."""
    user = user_rows(recipe, sets, recorded_odds(recipe, recorded.get("odds")))
    rows: dict[str, Sequence[Row]] = {
        "safety": safety_rows(recipe, sets).rows,
        "poison": user.harmful,
        "user": user.clean,
    }
    if recipe.replay != "safety_data":
        rows["replay"] = _replayed(recipe, recorded, sets)
    return TrainedOn(rows, user.clean)


def _name(specs: Sequence[Mapping[str, Any]]) -> str:
    return "+".join(str(spec["name"]) for spec in specs)


def _replayed(recipe: Recipe, recorded: dict[str, Any], sets: DataSets) -> list[Row]:
    """The rows that the run's memory was chosen from; synthetic ones as they were made then, whatever is asked now."""
    if recipe.replay != "synthesize":
        return replay_rows(recipe, sets).rows
    replay = str(recorded.get("replay"))
    file = Path(recipe.out) / replay
    if not file.is_file() or ".." in Path(replay).parts or Path(replay).is_absolute():
        raise DataError(
            f"There is no {file}, which holds the safety rows that this run's model made. Without it, nobody can tell "
            "which prompts the model was trained on. Put the file back."
        )
    return synthetic_rows(file, sets).rows
