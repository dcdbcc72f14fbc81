"""The limits of a gate, as a user writes them: max_asr=5,max_refusal_rise=5."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, fields

from unforgotten import registry
from unforgotten.errors import RecipeError, UnknownName


@dataclass(frozen=True, slots=True)
class Limits:
    """What must hold; what is left out is not looked at."""

    max_asr: float | None = None
    """Harmful requests answered, percent, the mean of the suites."""
    max_asr_rise: float | None = None
    """Harmful requests answered more than by the reference, percentage points, the mean of the suites."""
    max_refusal_rise: float | None = None
    """Look-alikes refused more than by the reference, percentage points, the mean of the suites."""
    max_utility_loss: float | None = None
    """Task solved less than by the reference, percentage points, in each task by its first measure."""

    def __post_init__(self) -> None:
        for name, limit in asdict(self).items():
            if isinstance(limit, (int, float)) and not 0 <= limit <= 100:
                raise RecipeError(f"{name} is {limit:.9g}: give percent, from 0 to 100.")
        registry.check(self)

    def check(self, reference: bool, kinds: Collection[str] = ("harm", "refusal", "utility"), samples: int = 1) -> None:
        """Raises RecipeError where a limit needs a reference or prompts that there are not.

        kinds: of the suites that are asked. samples: replies to each prompt of a task.
        """
        if all(limit is None for limit in asdict(self).values()):
            raise RecipeError(f"The gate has no limit. There are: {', '.join(f.name for f in fields(self))}.")
        needs = {"max_refusal_rise": "refusal", "max_utility_loss": "utility"}
        for name, limit in asdict(self).items():
            if limit is None:
                continue
            if name != "max_asr" and not reference:
                raise RecipeError(f"{name} limits a change: name the model to compare with, by --against.")
            if (kind := needs.get(name, "harm")) not in kinds:
                raise RecipeError(f"{name} needs evaluate.{kind}, and the recipe has none.")
            if kind == "utility" and samples > 1:
                raise RecipeError(f"{name} compares one reply to each prompt; evaluate.samples is {samples}.")


def parse(text: str) -> Limits:
    """`max_asr=5,max_refusal_rise=5,max_utility_loss=3`. Raises RecipeError, or UnknownName with the nearest names."""
    known = [f.name for f in fields(Limits)]
    limits: dict[str, float] = {}
    for part in (piece.strip() for piece in text.split(",")):
        name, equals, given = (piece.strip() for piece in part.partition("="))
        if not equals:
            raise RecipeError(f"A gate is written max_asr=5,max_refusal_rise=5: {part!r} has no `=`.")
        if name not in known:
            raise UnknownName("limit of the gate", name, known)
        if name in limits:
            raise RecipeError(f"The gate has {name} twice.")
        try:
            if not given.isascii() or "_" in given:  # 1_0 is ten to Python, and a slip to everybody else
                raise ValueError
            limits[name] = float(given.removesuffix("%"))
        except ValueError:
            raise RecipeError(f"{name}={given}: {given!r} is no number.") from None
    return Limits(**limits)
