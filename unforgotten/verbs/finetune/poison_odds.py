"""Where θ_safe's scores of poison are kept, for the attack `trusted`: attacks/<digest>.jsonl beside the runs.

Each line names a row of `poison.data` and its log-odds. Runs of the same θ_safe and rows share the file, whatever their
ratio is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.datasets.reading.digest import rows_digest
from unforgotten.errors import DataError, RecipeError
from unforgotten.recipe.data_sets import DataSets, safety_rows
from unforgotten.runs import digests, strict_read

if TYPE_CHECKING:
    from unforgotten.recipe.aligned import Aligned
    from unforgotten.recipe.recipe import Recipe

FOLDER = "attacks"


def odds_file(recipe: Recipe, aligned: Aligned, sets: DataSets) -> Path | None:
    """Where θ_safe's log-odds of the recipe's poison are kept; None where its attack needs none."""
    poison = recipe.poison
    if poison is None or poison.attack != "trusted" or not poison.ratio:
        return None
    precision = [recipe.dtype, recipe.load_in]
    asked_as = [recipe.template, recipe.variables, recipe.date]
    rows = rows_digest(sets.read(poison.data, recipe.seed).rows)
    key = digests.digest("odds", aligned.digest, precision, asked_as, rows, refusals_of(recipe, sets))
    return Path(recipe.out) / FOLDER / f"{key}.jsonl"


def read_odds(file: Path) -> list[float]:
    """The log-odds of each row, in the order of `poison.data`. Raises DataError where the file is missing or wrong."""
    try:
        lines = strict_read.lines(file)
        if not all(type(line["odds"]) is float for line in lines):
            raise ValueError("odds are numbers")
        return [line["odds"] for line in lines]
    except FileNotFoundError:
        raise DataError(
            f"There is no {file}, by which the attack `trusted` chose this run's rows. Without it, nobody can tell "
            "which prompts the model was trained on. Put the file back."
        ) from None
    except (ValueError, LookupError, TypeError):
        raise DataError(f"{file} does not hold log-odds of rows. Remove it, and fine-tune again.") from None


def recorded_odds(recipe: Recipe, recorded: Any) -> list[float] | None:
    """The log-odds by which a run's poison was chosen. recorded: the name of their file, as the run has it."""
    if recorded is None:
        return None
    name = Path(str(recorded))
    if name.is_absolute() or ".." in name.parts:
        raise DataError(f"environment.json names {str(recorded)[:80]!r} as a file of log-odds, which it is not.")
    return read_odds(Path(recipe.out) / name)


def refusals_of(recipe: Recipe, sets: DataSets) -> list[str]:
    """Refusals as θ_safe gives them: those of the safety data."""
    refusals = [row.response for row in safety_rows(recipe, sets).rows if row.kind == "harmful" and row.response]
    if not refusals:
        raise RecipeError(
            "The attack `trusted` compares answers with refusals, and `safety_data` has no refusal. Add one, such as a "
            "file of harmful prompts with refusals."
        )
    return sorted(set(refusals))
