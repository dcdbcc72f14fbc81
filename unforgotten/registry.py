"""The folder is the registry: `load("methods", "der")` is the class in methods/der.py.

A name is found, in this order, as a file of the room (methods/, datasets/, judges/), as an entry point of the group
`unforgotten.<room>` (for packages from outside), or, written `./mine.py:Mine`, as a class in the user's own file.
A component is a dataclass: its fields are its settings, in YAML, flags and documentation alike. They are checked the
same from YAML and from Python: `Component` checks each field that is set, in `__init__` and afterwards.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.metadata
import inspect
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Lt

from unforgotten.errors import RecipeError, Terminated, UnknownName
from unforgotten.runs import field_errors, user_code
from unforgotten.runs.field_docs import Described

ROOMS = ("methods", "datasets", "judges")

Count = Annotated[int, Gt(0)]
"""How many of something, of which there must be one."""
Seed = Annotated[int, Ge(0), Lt(2**32)]
"""What NumPy takes for a seed; Python's own generator would take −1 and 1 for the same."""


class Component(metaclass=Described):
    """A dataclass whose fields hold nothing but what its annotations allow, set in Python as from a recipe.

    Raises RecipeError that names the class, the field and the value. A default is the author's own and is not checked.
    `help(cls)` lists the fields.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute; a field is checked first, and numbers given as text become numbers as in a recipe."""
        cls: Any = type(self)
        if name not in settings_of(cls) or value is getattr(cls, name, dataclasses.MISSING):
            super().__setattr__(name, value)
            return
        super().__setattr__(name, _fit(cls, name, value))


def check(instance: Any) -> None:
    """The same for a frozen dataclass, which calls this first in its `__post_init__`."""
    cls = type(instance)
    for field in dataclasses.fields(cls):
        if (value := getattr(instance, field.name)) is not field.default:
            object.__setattr__(instance, field.name, _fit(cls, field.name, value))


def _fit(cls: type, name: str, value: Any) -> Any:
    """The value as a field's annotation has it; numbers given as text become numbers as in a recipe."""
    from pydantic import ValidationError

    _refuse_truths(cls, {name: value}, what := title(cls))
    try:
        return _field(cls, name).validate_python(value)
    except ValidationError as error:
        problems = [{**e, "loc": (name, *e["loc"])} for e in error.errors()]
        raise RecipeError(field_errors.sentence(problems, what, shortly, {name: value})) from None


def names(room: str) -> list[str]:
    """Every name in a room, those of installed packages included, sorted."""
    return sorted({*_files(room), *_entry_points(room)})


def load(room: str, name: str) -> type:
    """The class called `name`. Raises UnknownName, with the nearest names, where there is none."""
    if ":" in name:
        return _from_file(room, name)
    if name in _files(room):
        return _own_class(importlib.import_module(f"unforgotten.{room}.{name}"))
    if name in (entries := _entry_points(room)):
        cls: Any = entries[name].load()
        cls.registry_name = name  # which need not be its file's
        return cls
    raise UnknownName(room.removesuffix("s"), name, names(room))


def build(room: str, spec: str | Mapping[str, Any] | Any) -> Any:
    """An instance from `der` or `{name: der, weight: 5}`; fields are validated by their types.

    Raises UnknownName for a name or field that does not exist, RecipeError for a value out of range.
    """
    if not isinstance(spec, (str, Mapping)):
        return spec
    settings = {"name": spec} if isinstance(spec, str) else dict(spec)
    kind = room.removesuffix("s")
    if "name" not in settings:
        raise RecipeError(f"A {kind} needs a name: write `{kind}: {{name: …}}`. There are: {', '.join(names(room))}.")
    name = str(settings.pop("name"))
    return validate(load(room, name), settings, f"{kind} {name!r}")


def validate(cls: type, settings: Mapping[str, Any], what: str) -> Any:
    """`cls(**settings)` with each value checked against its field's type; errors name field and value."""
    from pydantic import ValidationError

    known = settings_of(cls)
    for field in settings:
        if field not in known:
            if not known:
                raise RecipeError(f"{what} has no settings, but {field!r} was given.")
            raise UnknownName(f"field of {what}", field, known)
    _refuse_truths(cls, settings, what)
    try:
        return _adapter(cls).validate_python(dict(settings))
    except ValidationError as error:
        raise RecipeError(field_errors.sentence(error.errors(), what, shortly, settings)) from None
    except SystemExit as error:
        if isinstance(error, Terminated):
            raise
        raise RecipeError(
            f"{what} ended the program (SystemExit {error.code}) while it was created. It must not."
        ) from error


def title(cls: type) -> str:
    """What errors call a component: `method 'der'`, also where it was made in Python."""
    room = getattr(cls, "room", None)
    name = getattr(cls, "registry_name", None)
    if name is None and cls.__module__.startswith(f"unforgotten.{room}."):
        name = cls.__module__.rpartition(".")[2]
    return f"{room.removesuffix('s')} {name or cls.__name__!r}" if room else cls.__name__


def wants_number(hint: Any, value: Any) -> bool:
    """Whether true or false is given where a number is wanted; it would count as 1 or 0."""
    options = list(_options(hint))
    if isinstance(value, bool):
        return any(o in (int, float) for o in options) and not any(o in (bool, Any) for o in options)
    inner = [a for o in options for a in typing.get_args(o)[-1:] if typing.get_origin(o) is not typing.Literal]
    value = list(value.values()) if isinstance(value, Mapping) else value
    return isinstance(value, (list, tuple)) and any(wants_number(hint, item) for hint in inner for item in value)


def _options(hint: Any) -> Iterable[Any]:
    """The types of a union, without what is said of them in Annotated; of any other type itself."""
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        for part in typing.get_args(hint):
            yield from _options(part)
    else:
        yield hint


def _refuse_truths(cls: type, settings: Mapping[str, Any], what: str) -> None:
    for name, value in settings.items():
        if wants_number(_hints(cls).get(name), value):
            wrong = {"type": "number_type", "loc": (name,), "msg": "Input should be a number", "input": value}
            raise RecipeError(field_errors.sentence([wrong], what, shortly, settings))
        if field_errors.too_large(value):
            wrong = {"type": "int_parsing_size", "loc": (name,), "msg": field_errors.TOO_LARGE, "input": value}
            raise RecipeError(field_errors.sentence([wrong], what, shortly, settings))


def shortly(value: Any) -> str:
    """A value as an error shows it: 100 characters of it at most."""
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}…"


def fields(cls: type) -> dict[str, dict[str, Any]]:
    """The settings of a class as JSON schemas, each with the sentence under it, inherited ones too."""
    schemas: dict[str, dict[str, Any]] = {}
    for each in reversed(cls.__mro__):  # pydantic reads the sentences of a class's own fields alone
        if dataclasses.is_dataclass(each):
            for name, schema in _adapter(each).json_schema().get("properties", {}).items():
                schemas[name] = {**schemas.get(name, {}), **schema}
    return schemas


@cache
def settings_of(cls: type) -> tuple[str, ...]:
    """The names of a component's settings."""
    return tuple(f.name for f in dataclasses.fields(cls) if f.init) if dataclasses.is_dataclass(cls) else ()


@cache
def _hints(cls: type) -> dict[str, Any]:
    """The types of its settings; what else its author annotates need not be importable."""
    hints: dict[str, Any] = {}
    for name in settings_of(cls):
        owner = next(c for c in cls.__mro__ if name in vars(c).get("__annotations__", {}))
        holder: Any = types.SimpleNamespace(__annotations__={name: owner.__annotations__[name]})
        try:
            hints |= typing.get_type_hints(holder, vars(sys.modules[owner.__module__]), None, include_extras=True)
        except (NameError, AttributeError, TypeError) as error:
            raise _unread(cls, str(error)) from None
    return hints


def _unread(cls: type, why: str) -> RecipeError:
    return RecipeError(
        f"{title(cls)}: the type of a field cannot be read ({why}). Import it at the top of the file, not inside a "
        "function and not under TYPE_CHECKING."
    )


_CHECKS: Any = {"allow_inf_nan": False, "arbitrary_types_allowed": True}


@cache
def _field(cls: type, name: str) -> Any:
    from pydantic import ConfigDict, PydanticUserError, TypeAdapter

    hint = _hints(cls)[name]
    try:
        return TypeAdapter(hint, config=ConfigDict(**_CHECKS))
    except PydanticUserError:  # a type that has a configuration of its own
        return TypeAdapter(hint)


@cache
def _adapter(cls: type) -> Any:
    from pydantic import ConfigDict, PydanticSchemaGenerationError, PydanticUndefinedAnnotation, TypeAdapter

    if "__pydantic_config__" not in vars(cls):
        cls.__pydantic_config__ = ConfigDict(  # type: ignore[attr-defined]
            extra="forbid", use_attribute_docstrings=True, **_CHECKS
        )
    _hints(cls)
    try:
        return TypeAdapter(cls)
    except (PydanticSchemaGenerationError, PydanticUndefinedAnnotation) as error:
        raise _unread(cls, str(error).partition("\n")[0]) from None


def spec_of(component: Any) -> dict[str, Any]:
    """What `build` would need to make this component again: its name and every field. Goes into recipe and results."""
    cls = type(component)
    here = cls.__module__.startswith(f"unforgotten.{getattr(cls, 'room', '')}.")
    # A class that no registry knows, of a script or a notebook, has only its own name.
    name = getattr(cls, "registry_name", None) or (cls.__module__.rsplit(".", 1)[-1] if here else cls.__name__)
    fields = {f.name: getattr(component, f.name) for f in dataclasses.fields(cls) if f.init}
    return {"name": name, **fields}


def determining(component: Any) -> dict[str, Any]:
    """The same for digests: a field of the class's `later`, or its parents', is left out while it has its default."""
    spec, later = spec_of(component), {name for c in type(component).__mro__ for name in vars(c).get("later", ())}
    unused = {f.name for f in dataclasses.fields(component) if f.name in later and spec[f.name] == f.default}
    return {name: value for name, value in spec.items() if name not in unused}


@cache
def _files(room: str) -> frozenset[str]:
    folder = Path(__file__).parent / room
    return frozenset(p.stem for p in folder.glob("*.py") if p.stem not in {"__init__", "base"})


@cache
def _entry_points(room: str) -> dict[str, importlib.metadata.EntryPoint]:
    return {e.name: e for e in importlib.metadata.entry_points(group=f"unforgotten.{room}")}


def _own_class(module: Any) -> type:
    """The one public dataclass that the module defines and that is a method, dataset or judge."""
    classes = [
        c
        for n, c in vars(module).items()
        if inspect.isclass(c) and c.__module__ == module.__name__ and not n.startswith("_") and hasattr(c, "room")
    ]
    if len(classes) != 1:
        raise RecipeError(f"{module.__name__} must define exactly one public class of its room, found {len(classes)}.")
    return classes[0]


def _from_file(room: str, name: str) -> type:
    path, _, wanted = name.rpartition(":")
    if not wanted.isidentifier():
        raise RecipeError(f"{name!r}: {wanted!r} is not the name of a class. Write ./file.py:ClassName.")
    module = user_code.load(path, name)
    classes = [n for n, c in vars(module).items() if inspect.isclass(c) and getattr(c, "room", None) == room]
    if wanted not in classes:
        raise UnknownName(f"class in {path}", wanted, classes)
    cls = getattr(module, wanted)
    cls.registry_name = name
    return cls
