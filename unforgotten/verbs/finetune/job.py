"""One run, resolved: its rows read, its methods built and its folder named, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unforgotten import registry
from unforgotten.datasets.reading import digest as of_rows
from unforgotten.errors import RecipeError
from unforgotten.models import fingerprint
from unforgotten.models.locate_aligned import aligned_of
from unforgotten.recipe.data_sets import DataSets, ReadRows, UserRows, joined, safety_rows, user_rows
from unforgotten.runs import digests
from unforgotten.verbs.finetune.poison_odds import odds_file, read_odds
from unforgotten.verbs.synthesize.job import Synthesis, synthesis_of

if TYPE_CHECKING:
    from unforgotten.methods.base import Method
    from unforgotten.recipe.aligned import Aligned
    from unforgotten.recipe.recipe import Recipe

AdapterMode = Literal["merge", "stack", "continue", "full"]
"""How the trained weights relate to θ_safe. full: every weight is trained, without an adapter."""


@dataclass(frozen=True)
class Job:
    """One run of stage finetune: what its recipe comes to. It is trained at most once, since methods hold state."""

    recipe: Recipe
    folder: Path
    """Folder of the run; it may not exist yet."""
    digest: str
    """12 hex digits over everything that determines the weights. Evaluation settings are not included."""
    aligned: Aligned
    """Folder or name of θ_safe; it may not exist yet."""
    adapter_mode: AdapterMode
    unaligned_model: str | None
    """Folder or name of θ₀, for methods that edit weights. None if no method needs it."""
    methods: tuple[Method, ...]
    method_specs: tuple[Mapping[str, Any], ...]
    """The methods' names and all their fields, as they were before training."""
    user: UserRows
    """The rows to train on; provisional until θ_safe has chosen the poison (attack `trusted`)."""
    replay: ReadRows | None
    """The rows that the memory is drawn from. None if θ_safe makes them and they are not read yet."""
    synthesis: Synthesis | None
    """The synthesis of these rows by θ_safe, if the recipe asks for it."""
    odds_file: Path | None
    """Where θ_safe's scores of the poison are kept, if the attack `trusted` chooses by them."""
    data_sets: DataSets
    """Every data set that was read, kept so that none is read twice."""

    @property
    def done(self) -> bool:
        """Is the run trained to its end?"""
        return (self.folder / "trained.json").exists()

    @property
    def method_names(self) -> str:
        """The methods' names, joined by +."""
        return names_of(self.recipe)

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the rows, a sentence each: the user's, those replayed, those still aligned on."""
        aligns = self.aligned.by_align_stage and not self.aligned.record.exists()
        safety = safety_rows(self.recipe, self.data_sets).notes if aligns else ()
        return tuple(dict.fromkeys((*self.user.notes, *(self.replay.notes if self.replay else ()), *safety)))

    def on(self, date: str | None) -> Job:
        """The same, with the day that the chat template is given; the folder's name stays."""
        return replace(self, recipe=self.recipe.model_copy(update={"date": date}))


def resolve(recipe: Recipe, sets: DataSets | None = None) -> Job:
    """Reads the recipe's data, builds its methods and finds its folder; loads and trains no model.

    sets: data sets that other runs have read already. Raises the errors of reading rows and models; RecipeError where
    the recipe asks for what cannot be.
    """
    sets = sets or DataSets()
    aligned = aligned_of(recipe, sets)
    user = user_rows(recipe, sets)
    rows_trained = of_rows.rows_digest(user.rows)
    if odds := odds_file(recipe, aligned, sets):
        # The name of the run must not depend on whether θ_safe has scored the rows yet.
        rows_trained = digests.digest(rows_trained, odds.stem)
        user = user_rows(recipe, sets, read_odds(odds)) if odds.exists() else user
    synthesis = synthesis_of(recipe, aligned, sets) if recipe.replay == "synthesize" else None
    replay = None if synthesis else replay_rows(recipe, sets)
    methods = tuple(registry.build("methods", spec) for spec in recipe.methods)
    specs = tuple(map(registry.spec_of, methods))
    mode = adapter_mode_for(recipe, aligned)
    unaligned_model = unaligned_for(recipe, aligned, methods)
    adapters = [folder for m in methods if m.adapter_field and (folder := getattr(m, m.adapter_field))]
    digest = digests.digest(
        aligned.digest,
        rows_trained,
        synthesis.folder.name if synthesis else of_rows.rows_digest(replay.rows if replay else []),
        tuple(map(registry.determining, methods)),
        recipe.memory.determining(),
        recipe.lora.determining() if recipe.lora else None,
        mode,
        unaligned_model,
        recipe.training.determining(),
        recipe.dtype,
        recipe.template,
        recipe.variables,
        recipe.date,
        recipe.seed,
        *(fingerprint.model_digest(adapter) for adapter in adapters),
    )
    folder = Path(recipe.out) / f"{recipe.name}-{digest}"
    facts = user, replay, synthesis, odds, sets
    return Job(recipe, folder, digest, aligned, mode, unaligned_model, methods, specs, *facts)


def replay_rows(recipe: Recipe, sets: DataSets) -> ReadRows:
    """The rows that the memory is chosen from, where the recipe names them."""
    if recipe.replay == "safety_data":
        return safety_rows(recipe, sets)
    assert not isinstance(recipe.replay, str)
    return joined(sets.read(spec, recipe.seed) for spec in recipe.replay)


def synthetic_rows(file: Path, sets: DataSets) -> ReadRows:
    """The rows of a file that stage synthesize made."""
    return ReadRows(list(sets.read({"name": "refusals", "path": str(file)}).rows))


def adapter_mode_for(recipe: Recipe, aligned: Aligned) -> AdapterMode:
    """The recipe's mode, or the default for this θ_safe. Raises RecipeError for one that cannot be."""
    if recipe.lora is None:
        return "full"
    existing = recipe.lora.existing
    if existing in ("stack", "continue") and aligned.adapter is None:
        raise RecipeError(
            f"lora.existing: {existing} needs θ_safe as an adapter. Name an adapter folder as `model`, or add `align`."
        )
    if recipe.load_in and existing == "merge" and aligned.full is None:
        raise RecipeError(
            "lora.existing: merge would merge θ_safe's adapter into a base in 4 bits. Merging rounds each weight to "
            "one of 16 values again, so small changes are lost. Leave out `existing` (stack: the adapter stays "
            "unchanged below the trained one), or leave out `load_in`."
        )
    return existing or ("stack" if aligned.full is None else "merge")


def unaligned_for(recipe: Recipe, aligned: Aligned, methods: Sequence[Method]) -> str | None:
    """θ₀ for methods that edit weights. Raises RecipeError where one needs it and nothing says where it is."""
    if not any(method.needs_unaligned_model for method in methods):
        return None
    if recipe.unaligned_model is None and not aligned.by_align_stage and aligned.adapter is None:
        raise RecipeError(
            f"{names_of(recipe)} needs θ₀, the weights before alignment, but `model` is already θ_safe. Name the base "
            "model in `unaligned_model:`, or start from the base model with stage `align`."
        )
    return recipe.unaligned_model or aligned.base


def method_specs(recipe: Recipe) -> tuple[Mapping[str, Any], ...]:
    """The methods' names with every field, of a run that is not resolved."""
    return tuple(registry.spec_of(registry.build("methods", spec)) for spec in recipe.methods)


def names_of(recipe: Recipe) -> str:
    """The methods' names, joined by +."""
    return "+".join(str(m if isinstance(m, str) else m["name"]) for m in recipe.methods)
