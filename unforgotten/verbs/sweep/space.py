"""What is searched: fields of the method and of the recipe, each with its values, checked before anything is run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unforgotten import registry
from unforgotten.errors import RecipeError, UnknownName
from unforgotten.recipe import arguments, renamed
from unforgotten.recipe.sweep import Range
from unforgotten.recipe.training import Lora, MemorySettings, Training

if TYPE_CHECKING:
    from pydantic import BaseModel

    from unforgotten.recipe.recipe import Recipe

SECTIONS: dict[str, type[BaseModel]] = {"training": Training, "memory": MemorySettings, "lora": Lora}
"""Sections of a recipe that may be searched: they determine the run, but no stage before it."""
COMPUTED = {"chunk_tokens"}
"""Fields that only change how something is computed. They are searched only if sweep.fields names them."""
DECADE = 10.0
DIGITS = 4
"""Digits of a number that is tried. The recorded number is exactly the number that ran, and short enough to type."""

Settings = dict[str, Any]
"""A value for each searched field."""


@dataclass(frozen=True)
class Place:
    """One field, and the values that it may take."""

    name: str
    """As the recipe names it."""
    owner: int | str
    """The method's position in the list, or the section of the recipe."""
    field: str
    own: Any
    """The recipe's own value."""
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()
    given: bool = True
    """Whether the recipe says where to search."""

    def holds(self, value: Any) -> bool:
        """Is it one of the values?"""
        if self.choices:
            return value in self.choices
        return isinstance(value, (int, float)) and not isinstance(value, bool) and self.low <= value <= self.high

    def rounded(self, value: Any) -> Any:
        """A number as it is tried: whole, or of a few digits, within the ends."""
        if self.choices or self.whole:
            return value
        return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)

    def text(self) -> str:
        """`weight: 0.1 to 10, by factors (the recipe has 1)`."""
        if self.choices:
            values = ", ".join(str(value) for value in self.choices)
        else:
            values = f"{self.low:g} to {self.high:g}" + (", by factors" if self.log else "")
            values += ", whole" if self.whole else ""
        return f"{self.name}: {values} (the recipe has {self.own})" + ("" if self.given else "; by default")


def places(recipe: Recipe) -> list[Place]:
    """The searched fields, in the recipe's order. Raises RecipeError or UnknownName that names the field."""
    asked = recipe.sweep.fields if recipe.sweep else {}
    searched = [_given(recipe, name, where) for name, where in asked.items()] if asked else _defaults(recipe)
    if not searched:
        raise RecipeError(
            f"{_names(recipe)} has no field with a value to search around. Name fields in sweep.fields, such as "
            "{training.learning_rate: {low: 1.0e-5, high: 1.0e-3, log: true}}."
        )
    twice = [
        p.name for i, p in enumerate(searched) if any((p.owner, p.field) == (q.owner, q.field) for q in searched[:i])
    ]
    if twice:
        raise RecipeError(f"sweep.fields names a field twice: {', '.join(twice)}.")
    if recipe.memory.n_rows is not None and any((p.owner, p.field) == ("memory", "share") for p in searched):
        raise RecipeError(
            "sweep.fields.memory.share has no effect while memory.n_rows is set. Set memory.n_rows to null."
        )
    for place in searched:
        # Bounds are intervals: where both ends are taken, so is all between them.
        for value in place.choices or _ends(place):
            try:
                _checked(recipe, place, value)
            except RecipeError as error:
                raise RecipeError(f"sweep.fields.{place.name} cannot be {value!r}: {error}") from None
    return searched


def own(searched: Sequence[Place]) -> Settings | None:
    """The recipe's own setting, where it is one of those that are searched."""
    return {p.name: p.own for p in searched} if all(p.holds(p.own) for p in searched) else None


def varied(recipe: Recipe, searched: Sequence[Place], settings: Mapping[str, Any], seed: int | None = None) -> Recipe:
    """The recipe of a run with these settings: the same that `finetune` would make of it, but for a probe."""
    methods = [dict({"name": m} if isinstance(m, str) else m) for m in recipe.methods]
    changes: dict[str, Any] = {"sweep": None, "compare": None, "probe": None}
    for place in searched:
        value = settings[place.name]
        if isinstance(place.owner, int):
            methods[place.owner][place.field] = value
        else:
            before = changes.get(place.owner) or getattr(recipe, place.owner).model_dump(exclude_unset=True)
            changes[place.owner] = before | {place.field: value}
    changes["method"] = methods if isinstance(recipe.method, list) else methods[0]
    return recipe.varied(**changes, **({} if seed is None else {"seed": seed}))


def _ends(place: Place) -> tuple[Any, Any]:
    return (int(place.low), int(place.high)) if place.whole else (place.low, place.high)


def _checked(recipe: Recipe, place: Place, value: Any) -> None:
    varied(recipe, [place], {place.name: value})


def _given(recipe: Recipe, name: str, where: Range | list[Any]) -> Place:
    owner, field, own_value, schema = _located(recipe, name)
    kinds = _kinds(schema)
    if isinstance(where, list):
        return Place(name, owner, field, own_value, choices=tuple(where))
    if not kinds & {"number", "integer"}:
        raise RecipeError(
            f"sweep.fields.{name} is not a number. Give a list of values, such as {_values(schema) or '…'}."
        )
    whole = "number" not in kinds
    if whole and (where.low % 1 or where.high % 1):
        raise RecipeError(
            f"sweep.fields.{name} takes whole numbers, not {where.low:g} to {where.high:g}. Give whole numbers."
        )
    return Place(name, owner, field, own_value, where.low, where.high, where.log, whole)


def _located(recipe: Recipe, name: str) -> tuple[int | str, str, Any, Mapping[str, Any]]:
    """Owner, field, the recipe's value and the schema of a field's name."""
    first, dot, rest = name.partition(".")
    methods = _methods(recipe)
    if dot and first in SECTIONS:
        section = getattr(recipe, first)
        if section is None:
            raise RecipeError(f"sweep.fields.{name}: the recipe has no {first}.")
        fields = SECTIONS[first].model_json_schema()["properties"]
        if first == "training" and rest not in fields and (passed := arguments.passed_through(rest)):
            default, schema = passed
            return first, rest, (section.model_extra or {}).get(rest, default), schema
        if rest not in fields:
            raise UnknownName(f"field of {first}, in sweep.fields", rest, fields)
        return first, rest, getattr(section, rest), fields[rest]
    field = rest if dot else name
    having = [i for i, (m, _, fields) in enumerate(methods) if field in fields and (not dot or m == first)]
    if len(having) > 1:
        choices = " or ".join(f"{methods[i][0]}.{field}" for i in having)
        raise RecipeError(f"sweep.fields.{name}: several methods have this field. Write {choices}.")
    if not having:
        if new := renamed.searched(name):
            raise RecipeError(f"sweep.fields.{name} is called sweep.fields.{new} here.")
        known = [f if len(methods) == 1 else f"{m}.{f}" for m, _, fields in methods for f in fields]
        raise UnknownName(
            "field in sweep.fields",
            name,
            [*known, *(f"{s}.{f}" for s, cls in SECTIONS.items() for f in cls.model_fields)],
        )
    _, spec, fields = methods[having[0]]
    return having[0], field, spec[field], fields[field]


def _methods(recipe: Recipe) -> list[tuple[str, dict[str, Any], dict[str, dict[str, Any]]]]:
    """Name, every field's value, and the fields' schemas, of each method."""
    built = [registry.build("methods", spec) for spec in recipe.methods]
    return [(str((spec := registry.spec_of(m))["name"]), spec, registry.fields(type(m))) for m in built]


def _defaults(recipe: Recipe) -> list[Place]:
    methods = _methods(recipe)
    searched = []
    for i, (method, spec, fields) in enumerate(methods):
        for field, schema in fields.items():
            name = field if len(methods) == 1 else f"{method}.{field}"
            if field not in COMPUTED and (place := _about(name, i, field, spec[field], schema)):
                searched.append(place)
    return searched


def _about(name: str, owner: int, field: str, value: Any, schema: Mapping[str, Any]) -> Place | None:
    """All values of a choice; of a number a decade to either side. Near an upper end (a decay below 1) what is varied
    by factors is the distance to it; an end beyond two decades only keeps nonsense out. None for what has no value to
    start from."""
    if values := _values(schema):
        return Place(name, owner, field, value, choices=tuple(values), given=False)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        return None
    least, most = schema.get("minimum", schema.get("exclusiveMinimum", 0)), schema.get("maximum")
    below = schema.get("exclusiveMaximum")
    whole = "number" not in _kinds(schema)
    end = most if most is not None else below
    if end is not None and end <= value * DECADE**2:
        low = max(least, end - (end - value) * DECADE)
        if low <= schema.get("exclusiveMinimum", -math.inf):  # a value that the field cannot have
            low = least + (value - least) / DECADE
        high = float(end) if most is not None else end - (end - value) / DECADE
        return Place(name, owner, field, value, float(f"{low:.6g}"), float(f"{high:.6g}"), whole=whole, given=False)
    low, high = value / DECADE, value * DECADE
    if whole:
        low, high = float(max(1, math.ceil(low))), float(high)
    return Place(name, owner, field, value, float(f"{low:.6g}"), float(f"{high:.6g}"), True, whole, given=False)


def _kinds(schema: Mapping[str, Any]) -> set[str]:
    return {str(part.get("type")) for part in (schema, *schema.get("anyOf", ()))}


def _values(schema: Mapping[str, Any]) -> list[Any]:
    if "enum" in schema:
        return list(schema["enum"])
    return [False, True] if schema.get("type") == "boolean" else []


def _names(recipe: Recipe) -> str:
    return "+".join(name for name, _, _ in _methods(recipe))
