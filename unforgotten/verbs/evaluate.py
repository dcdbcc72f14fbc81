"""Stage evaluate: a run, θ₀, θ_safe or any model is asked the recipe's prompts, and its row of results written.

    runs/<run>/                      replies/  results.json  README.md (the model card)
    runs/evaluated/<stage>-<digest>/ the same of θ₀ and θ_safe, asked once for all runs that start there
    runs/<run>/served-<digest>/      the same of what a server has under some name (evaluate.endpoint): its weights were
                                     not seen, so the run's own figures and card stay as they are

Replies first, verdicts after: all models are asked, one after another; then, with none of them in memory, each judge is
loaded once and reads everything. What is measured already, with the same settings, prompts and judges, is read.
"""

# Long because runs, stages and single models are measured here side by side, each in its own words.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.datasets.reading import files
from unforgotten.errors import DataError, RecipeError
from unforgotten.evaluation.measurement import Measurement, TrainedOn, measure_all
from unforgotten.evaluation.responder import LocalModel, Model, ServedModel, served_as, served_digest, served_folder
from unforgotten.evaluation.suites import suites, system_of
from unforgotten.models.locate_aligned import aligned_of
from unforgotten.models.shelf import Shelf, chat_of, part_of, weights_of
from unforgotten.recipe.aligned import Aligned
from unforgotten.recipe.rows import DataSets, dataset, safety_rows, user_rows
from unforgotten.runs import atomic, digests, results, strict_read, trust
from unforgotten.runs.progress import Say, quiet
from unforgotten.runs.result_types import Cost, ModelDigests, NamedSpec
from unforgotten.verbs.align import align, base_of
from unforgotten.verbs.finetune.job import Job, method_specs, replay_rows, resolve, synthetic_rows

if TYPE_CHECKING:
    from unforgotten.datasets.base import Row
    from unforgotten.recipe.evaluate import Evaluate
    from unforgotten.recipe.recipe import Recipe


def evaluate(
    target: str | Sequence[str],
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    say: Say = quiet,
) -> list[results.ResultRow]:
    """Measures runs (by their folders or recipes), model folders or Hub ids: first asks all, then judges all.

    recipe: whose `evaluate:` is used; a run has its own. overrides: fields of a recipe or run, by dotted name.
    Raises RecipeError where nothing says what to measure, or where a recipe's run is not trained.
    """
    targets, sets = [target] if isinstance(target, str) else list(target), DataSets()
    measurements = [measurement(each, recipe, overrides, say, sets) for each in targets]
    for measured, name in zip(measurements, _apart([m.called for m in measurements], targets), strict=True):
        measured.called = name
    if len(measurements) > 1 and any(m.settings.endpoint for m in measurements):
        raise RecipeError("evaluate.endpoint serves one model under one name: give one target at a time.")
    return measure_all(measurements, say)


def _apart(names: Sequence[str | None], targets: Sequence[str]) -> list[str | None]:
    """Names of models asked by themselves; folders that end alike are named from where their paths part."""
    unique = list(names)
    for i, name in enumerate(names):
        parts = Path(targets[i]).expanduser().resolve().parts
        alike = [  # the same folder, written twice, has no name that would tell it apart
            t
            for n, t in zip(names, targets, strict=True)
            if n == name and Path(t).expanduser().resolve().parts != parts
        ]
        if name is not None and alike and Path(targets[i]).expanduser().is_dir():
            others = [Path(t).expanduser().resolve().parts for t in alike]
            length = next((k for k in range(1, len(parts)) if all(o[-k:] != parts[-k:] for o in others)), len(parts))
            unique[i] = "/".join(parts[-length:])
    return unique


def another(recipe: Recipe, model: str) -> Recipe:
    """The recipe for another model. Its own data did not train that one, so nothing of it may be called that one's."""
    changes: dict[str, Any] = {"model": model, "revision": None, "align": None, "data": None, "safety_data": []}
    return recipe.model_copy(update=changes | {"poison": None})


def measurement(
    target: str,
    recipe: Recipe | None = None,
    overrides: Mapping[str, Any] | None = None,
    say: Say = quiet,
    sets: DataSets | None = None,
) -> Measurement:
    """What `evaluate` of one target will measure; loads no model, but trains θ_safe where a recipe has none yet.

    sets: data sets that were read already.
    """
    from unforgotten.recipe.read import load_recipe

    sets = sets or DataSets()
    folder = Path(target).expanduser()
    if (folder / "recipe.yaml").is_file():
        if strange := [f for f in overrides or {} if recipe is None and not f.startswith("evaluate")]:
            raise RecipeError(f"{', '.join(strange)} cannot be changed for a run that is trained; only evaluate.… can.")
        whose = trust.of_run(folder)
        try:
            target_recipe = load_recipe(folder / "recipe.yaml", overrides if recipe is None else None, origin=whose)
        except RecipeError as error:
            if whose == "operator" or recipe is None:
                raise
            say(f"{error} It is measured as a model of unknown training.")
            unknown = another(recipe, str(part_of(folder)))
            return of_stage(unknown, "base", say, system=_system(recipe, sets), sets=sets)
        settings = (recipe or target_recipe).evaluate
        as_asked = target_recipe.model_copy(update={"evaluate": settings, "out": str(folder.parent)})
        measured = of_run(folder, as_asked, sets=sets)
        if whose == "foreign":
            if measured.row is not None or (folder / "replies").exists():
                say(f"{folder} was not trained here: its replies and figures are put aside, and it is asked anew.")
            measured.distrust()
        return measured
    if recipe is None and not folder.is_dir():
        if files.is_hub_id(target) and not folder.exists():
            raise RecipeError(f"There is no recipe file {target}. If it is a model, name a recipe by --recipe FILE.")
        target_recipe = load_recipe(target, overrides)
        if target_recipe.data is None:
            return of_stage(target_recipe, "aligned" if target_recipe.align else "base", say, sets=sets)
        job = resolve(target_recipe, sets)
        if not job.done:
            raise RecipeError(f"The run of {target} is not trained yet: `unforgotten finetune {target}` does that.")
        return of_job(job)
    if recipe is None:
        raise RecipeError(f"{target} is a model: name a recipe whose `evaluate:` is to be used, by --recipe FILE.")
    system, called = _system(recipe, sets), digests.public_name(target)
    return of_stage(another(recipe, target), "base", say, system=system, called=called, sets=sets)


def evaluate_run(folder: Path, recipe: Recipe, say: Say = quiet) -> results.ResultRow:
    """Measures a trained run; writes its replies/, results.json and README.md. What is measured already is read."""
    return measure_all([of_run(folder, recipe)], say)[0]


def evaluate_stage(recipe: Recipe, stage: str, say: Say = quiet) -> results.ResultRow:
    """Measures θ₀ or θ_safe, once for all runs that start there: kept in <out>/evaluated/<model>-<digest>/."""
    return measure_all([of_stage(recipe, stage, say)], say)[0]


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
    settings = _settings(recipe)
    strict_read.no_links(folder)
    if not (folder / "trained.json").is_file():
        raise RecipeError(f"{folder} is not trained to its end: `unforgotten finetune` on its recipe goes on with it.")
    done = atomic.record(folder / "trained.json", memory_rows=int, notes=list)
    recorded = atomic.record(folder / "environment.json", digests=dict)
    weights = served_digest(settings, "") or weights_of(str(part_of(folder)), recipe)
    name = "+".join(str(spec["name"]) for spec in specs)
    served = served_as(settings, "")
    replies_folder = served_folder(folder, settings, weights)

    def trained() -> TrainedOn:
        user = user_rows(recipe, sets)
        seen: dict[str, Sequence[Row]] = {
            "safety": safety_rows(recipe, sets).rows,
            "poison": user.harmful,
            "user": user.clean,
        }
        if recipe.replay != "safety_data":
            seen["replay"] = _replayed(recipe, recorded, sets)
        return TrainedOn(seen, user.clean)

    def facts() -> results.ResultRow:
        return results.ResultRow(
            method=name,
            methods=tuple(map(NamedSpec.of, specs)),
            poison=recipe.poison.ratio if recipe.poison else 0.0,
            seed=recipe.seed,
            stage="tuned",
            cost=Cost(**{field.name: done.get(field.name) for field in fields(Cost)}),
            model=digests.public_name(recipe.model),
            memory_rows=done["memory_rows"],
            replay=recipe.replay
            if isinstance(recipe.replay, str)
            else tuple(dataset(spec).label for spec in recipe.replay),
            run=folder.name if replies_folder == folder else f"{folder.name}/{replies_folder.name}",
            served=served,
            notes=(*done["notes"], *_in_4_bits(recipe)),
            digests=ModelDigests(data=recorded["digests"]),
        )

    return Measurement(
        name=f"{name} served as {served}" if served else name,
        folder=replies_folder,
        settings=settings,
        suites=suites(settings, sets=sets),
        weights=weights,
        model=lambda shelf, say: _model(folder, recipe, shelf, weights, say, served=""),
        facts=facts,
        trained=trained,
        task=_task(recipe),
        recipe=recipe,
        system=_system(recipe, sets) if system is None else system,
        card=None if served else lambda row: model_card.write(folder, recipe, specs, row),
    )


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
    settings, sets = _settings(recipe), sets or DataSets()
    asked = suites(settings, sets=sets)  # told before anything is trained or loaded, should it be missing
    where = align(recipe, say, sets) if stage == "aligned" else aligned_of(recipe, sets)
    base = base_of(recipe, say)
    weights = where.digest if stage == "aligned" else weights_of(base, recipe)
    weights = served_digest(settings, recipe.model) or weights
    system = _system(recipe, sets) if system is None else system
    made = stage == "aligned" and where.by_align_stage
    asked_as: list[Any] = [] if made else [recipe.template, recipe.variables, recipe.date]
    asked_as += [system] if system else []
    asked_as += [settings.endpoint.public()] if settings.endpoint else []
    run = Path("evaluated") / f"{stage}-{digests.digest(weights, asked_as)}"

    def facts() -> results.ResultRow:
        record = atomic.record(where.record) if made else {}
        unknown = "The rows that this model was trained on are not known here: overlap is not counted."
        return results.ResultRow(
            name=called,
            seed=recipe.seed if made else None,
            stage="aligned" if stage == "aligned" else "base",
            cost=Cost(train_seconds=record.get("seconds")),
            model=digests.public_name(recipe.model),
            run=str(run),
            served=served_as(settings, recipe.model),
            notes=(*([] if made else [unknown]), *_in_4_bits(recipe)),
        )

    return Measurement(
        name=f"the {stage} model" if recipe.align else str(digests.public_name(recipe.model)),
        called=called,
        folder=Path(recipe.out) / run,
        settings=settings,
        suites=asked,
        weights=weights,
        model=lambda shelf, say: _model(where if stage == "aligned" else base, recipe, shelf, weights, say),
        facts=facts,
        trained=lambda: TrainedOn({"safety": safety_rows(recipe, sets).rows}) if made else None,
        task=_task(recipe),
        recipe=recipe,
        system=system,
    )


def _model(
    target: Path | str | Aligned, recipe: Recipe, shelf: Shelf, weights: str, say: Say, served: str | None = None
) -> Model:
    settings = _settings(recipe)
    if settings.endpoint is None:
        return LocalModel(lambda: shelf.model(target, recipe), chat_of(target, recipe), weights, settings, say)
    return ServedModel(
        recipe.model if served is None else served,
        chat_of(target, recipe) if settings.endpoint.template == "here" else None,
        settings,
    )


def _replayed(recipe: Recipe, recorded: dict[str, Any], sets: DataSets) -> list[Row]:
    """The rows that the run's memory was chosen from; synthetic ones as they were made then, whatever is asked now."""
    if recipe.replay != "synthesize":
        return replay_rows(recipe, sets).rows
    replay = str(recorded.get("replay"))
    file = Path(recipe.out) / replay
    if not file.is_file() or ".." in Path(replay).parts or Path(replay).is_absolute():
        raise DataError(
            f"There is no {file}, the safety rows that this run's model made: without them nobody can tell which "
            "prompts are among them. Put the file back."
        )
    return synthetic_rows(file, sets).rows


def _in_4_bits(recipe: Recipe) -> list[str]:
    """What figures of a base in 4 bits should say; a server loads weights as it pleases."""
    if recipe.load_in is None or (recipe.evaluate and recipe.evaluate.endpoint):
        return []
    return ["The replies are those of the base in 4 bits (nf4); with the unquantised base they differ."]


def _system(recipe: Recipe, sets: DataSets) -> str:
    """The system prompt that the recipe's user rows have most often; empty where there are none."""
    if recipe.data is None or (recipe.evaluate and "user" not in recipe.evaluate.conditions):
        return ""
    return system_of(sets.read(recipe.data, recipe.seed).rows)


def _settings(recipe: Recipe) -> Evaluate:
    if recipe.evaluate is None:
        raise RecipeError("The recipe has no `evaluate:`, so nothing says what to measure.")
    return recipe.evaluate


def _task(recipe: Recipe) -> str | None:
    return dataset(recipe.data).label if recipe.data is not None else None
