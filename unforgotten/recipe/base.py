"""What every part of a recipe is made of: a strict model, and components checked against their class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationInfo,
    field_validator,
)

from unforgotten import registry
from unforgotten.datasets.reading import data_folder, files
from unforgotten.runs import field_errors
from unforgotten.runs.field_docs import with_fields

Spec = str | dict[str, Any]
"""A component: its name, or a mapping of `name` and fields."""


Replay = Literal["safety_data", "synthesize"] | list[Spec]
"""Where the memory's rows come from."""


def replay_source(value: Any) -> Any:
    """`replay` with each data set checked. Raises ValueError for what is neither a word that it knows nor a list."""
    words = get_args(get_args(Replay)[0])
    if isinstance(value, list):
        if stray := [word for word in words if word in value]:
            raise ValueError(f"{stray[0]} is no data set and stands alone: `replay: {stray[0]}`, without a list")
        return [safety_component(spec) for spec in value]
    if value not in words:
        raise ValueError(f"it is {', '.join(words)} or a list of data sets, such as [{{name: refusals, path: …}}]")
    return value


class Strict(BaseModel):
    """A part of a recipe: no field that is not declared, and true or false are no numbers."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False)

    @classmethod
    def __pydantic_init_subclass__(cls, **more: Any) -> None:
        cls.__doc__ = with_fields(cls)

    @field_validator("*", mode="before")
    @classmethod
    def _number(cls, value: Any, info: ValidationInfo) -> Any:
        declared = cls.model_fields.get(str(info.field_name))
        if declared is not None and registry.wants_number(declared.annotation, value):
            raise ValueError("true and false are no numbers")
        if field_errors.too_large(value):
            raise ValueError(field_errors.TOO_LARGE)
        return value


def component(room: str, spec: Spec) -> Spec:
    """Checks name and fields now, so that a typo is told before anything is loaded; keeps the spec as written."""
    built = registry.build(room, spec)
    if room == "methods" and (judge := getattr(built, "judge", None)) is not None:
        decides = registry.build("judges", judge).tells
        if "refused" not in decides:
            raise ValueError(f"judge: {judge} does not tell refusals. Choose one that does, such as keywords")
    return spec


def safety_component(spec: Spec) -> Spec:
    """The same for a data set to align on or to replay. Raises ValueError for one whose answers comply with harm."""
    if complies := registry.build("datasets", spec).complies:
        name = spec if isinstance(spec, str) else spec["name"]
        raise ValueError(
            f"{name} with `{complies}` answers harmful requests, and safety data teaches refusals. Such rows belong "
            "under `poison.data`. Name a set with refusals here"
        )
    return spec


def by_content(spec: Spec) -> Spec:
    """The spec as digests take it: in place of a file's path, its name and the sha256 of its bytes."""
    if isinstance(spec, str) or not isinstance(path := spec.get("path"), str):
        return spec
    if not (file := Path(files.expand(path))).is_file():
        return spec
    return {**spec, "path": f"{file.name} {data_folder.sha256(file)}"}


def cut(data: Any, rows: int) -> Any:
    """Data sets, in lists or alone, of at most so many rows each; the names of sources that are no data set stay.

    A set of fewer rows gives all that it has, unless it names an `n_rows`: that stays a promise, of a trial's size.
    """
    if isinstance(data, list):
        return [cut(item, rows) for item in data]
    if data in get_args(get_args(Replay)[0]):
        return data
    spec = {"name": data} if isinstance(data, str) else dict(data)
    bound = "most_rows" if spec.get("n_rows") is None else "n_rows"
    return spec | {bound: min(spec.get(bound) or rows, rows)}


def checked_methods(spec: Any) -> Any:
    """A method or a list of them, each checked as `component` does."""
    for method in spec if isinstance(spec, list) else [spec]:
        component("methods", method)
    return spec


def replaced(value: Any, written: Mapping[str, str]) -> Any:
    """The same value with texts as they were written, before variables were filled in."""
    if isinstance(value, str):
        return written.get(value, value)
    if isinstance(value, Mapping):
        return {k: replaced(v, written) for k, v in value.items()}
    return [replaced(v, written) for v in value] if isinstance(value, (list, tuple)) else value
