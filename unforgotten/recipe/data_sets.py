"""The data sets that a recipe names, each read once, and the safety, user and poisoned rows in them."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten import registry
from unforgotten.datasets.base import Dataset, Row, bounded, check_kind
from unforgotten.datasets.reading import data_folder, files
from unforgotten.datasets.reading.data_folder import ReadFile
from unforgotten.errors import RecipeError
from unforgotten.recipe.poison import attacked
from unforgotten.runs import digests
from unforgotten.runs.progress import Say, quiet

if TYPE_CHECKING:
    from unforgotten.recipe.base import Spec
    from unforgotten.recipe.recipe import Recipe

MOST_SETS = 32
"""Data sets that are held in memory at a time; of more, the one that was used longest ago is read again."""


@dataclass(frozen=True)
class Loaded:
    """A data set and its rows."""

    dataset: Dataset
    rows: tuple[Row, ...]
    file: ReadFile | None = None
    """The file that holds the rows. None for a set on the Hub, in a folder or in the package."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the rows: keys that nothing reads, turns outside the loss."""
        return self.dataset.notes


@dataclass(frozen=True)
class ReadRows:
    """Rows of one or several data sets."""

    rows: list[Row]
    notes: tuple[str, ...] = ()
    """What a user should know of them, a sentence each."""
    files: tuple[ReadFile, ...] = ()
    """The files that they were read from."""


@dataclass(frozen=True)
class UserRows(ReadRows):
    """The rows to train on."""

    harmful_at: frozenset[int] = frozenset()
    """Places of the rows that a lab put there."""
    provisional: bool = False
    """θ_safe has still to choose the harmful rows (attack `trusted`); until then they are a random choice."""

    def settled(self) -> list[Row]:
        """The rows. Raises RecipeError where θ_safe has still to choose some."""
        if self.provisional:
            raise RecipeError(
                "The attack `trusted` chooses rows when θ_safe is there, at the start of `finetune`, so there is no "
                "upload to read yet. Use another `poison.attack` here."
            )
        return self.rows

    @property
    def harmful(self) -> list[Row]:
        """The rows that a lab put there."""
        return [row for i, row in enumerate(self.rows) if i in self.harmful_at]

    @property
    def clean(self) -> list[Row]:
        """The user's own rows."""
        return [row for i, row in enumerate(self.rows) if i not in self.harmful_at]


class DataSets:
    """Data sets by their settings, each read once: for one run, or for all runs of one comparison."""

    def __init__(self, most: int = MOST_SETS) -> None:
        """most: how many are held in memory."""
        self._most = most
        self._loaded: OrderedDict[str, Loaded] = OrderedDict()

    def read(self, spec: Spec, seed: int | None = None) -> Loaded:
        """The data set of a spec with its rows; `seed` as in `dataset`. Raises what `rows` of the set raises."""
        key = json.dumps(_settings(spec, seed), sort_keys=True, default=str)
        if key not in self._loaded:
            source = dataset(spec, seed)
            self._loaded[key] = _loaded(source)
            if len(self._loaded) > self._most:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(key)
        return self._loaded[key]


def _loaded(source: Dataset) -> Loaded:
    """The set with its rows and the file that they come from; a file that stands in for a Hub id is noted."""
    rows, place = tuple(bounded(source)), source.reads_from
    path = Path(files.expand(place)) if place else None
    file = ReadFile(place, data_folder.sha256(path)) if path and path.is_file() else None
    if file and place != getattr(source, "path", None):
        stands_in = f"{source.label} is read from {file.name} (sha256 {file.sha256[:12]}…), not from the Hub."
        source.notes = (stands_in, *source.notes)
    return Loaded(source, rows, file)


def dataset(spec: Spec, seed: int | None = None) -> Dataset:
    """The dataset of a spec; `seed` fills a `seed` field that the recipe leaves open (never for evaluation sets)."""
    built = registry.build("datasets", _settings(spec, seed))
    assert isinstance(built, Dataset)
    return built


def _settings(spec: Spec, seed: int | None) -> dict[str, Any]:
    settings: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    if seed is not None and "seed" in getattr(registry.load("datasets", settings["name"]), "__dataclass_fields__", {}):
        settings.setdefault("seed", seed)
    return settings


def read(spec: Spec, seed: int | None = None, say: Say = quiet) -> list[Row]:
    """The rows of a spec, and what is to be known of them said: keys that nothing reads, turns outside the loss."""
    loaded = DataSets().read(spec, seed)
    for note in loaded.notes:
        say(note)
    return list(loaded.rows)


def joined(sets: Iterable[Loaded]) -> ReadRows:
    """The rows of several data sets, one after another."""
    each = list(sets)
    rows, notes = [row for one in each for row in one.rows], tuple(note for one in each for note in one.notes)
    return ReadRows(rows, notes, _files(*each))


def safety_rows(recipe: Recipe, sets: DataSets) -> ReadRows:
    """Every safety row, in the order of the recipe. Raises RecipeError for rows that are no safety data."""
    loaded = []
    for spec in recipe.safety_data:
        loaded.append(safety := sets.read(spec, recipe.safety_seed))
        # Rows of a task would be taken for answered look-alikes, refusals among them too.
        check_kind(safety.dataset, safety.rows, "safety_data", ["harmful", "benign"])
    return joined(loaded)


def user_rows(recipe: Recipe, sets: DataSets, odds: Sequence[float] | None = None) -> UserRows:
    """The rows to train on. Raises RecipeError where the recipe has none, DataError for too few harmful ones.

    odds: of each row of `poison.data`, by which the attack `trusted` chooses; without them its choice is provisional.
    """
    if recipe.data is None:
        raise RecipeError("The recipe has no `data:`, so there is nothing to fine-tune on.")
    user = sets.read(recipe.data, recipe.seed)
    if recipe.poison is None or recipe.poison.ratio == 0:
        return UserRows(list(user.rows), user.notes, _files(user))
    poison = sets.read(recipe.poison.data, recipe.seed)
    # A file of the user's own that says nothing of its kind is taken at its place's word; a corpus knows better.
    silent = poison.dataset.kind_field == "kind"
    check_kind(poison.dataset, poison.rows, "poison.data", ["harmful", "task"] if silent else ["harmful"])
    done = attacked(user.rows, poison.rows, recipe.poison, poison.dataset.attack_words, recipe.seed, odds)
    notes = (*user.notes, *poison.notes, *done.notes)
    return UserRows(done.rows, notes, _files(user, poison), done.places, done.provisional)


def files_record(rows: ReadRows | None) -> list[dict[str, str]]:
    """For the record of a run: each file that rows were read from, without paths of this machine, and its digest."""
    return [digests.public(file._asdict()) for file in dict.fromkeys(rows.files if rows else ())]


def _files(*sets: Loaded) -> tuple[ReadFile, ...]:
    return tuple(one.file for one in sets if one.file)
