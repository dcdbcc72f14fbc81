"""The folder is the registry: `load("methods", "der")` is the class in methods/der.py.

A name is found, in this order, as a file of the room (methods/, datasets/, judges/), as an entry point of the group
`unforgotten.<room>` (for packages from outside), or, written `./mine.py:Mine`, as a class in the user's own file.
A component is a dataclass: its fields are its settings, in YAML, flags and documentation alike.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from unforgotten.errors import RecipeError, UnknownName

ROOMS = ("methods", "datasets", "judges")


def names(room: str) -> list[str]:
    """Every name in a room, those of installed packages included, sorted."""
    return sorted({*_files(room), *_entry_points(room)})


def load(room: str, name: str) -> type:
    """The class called `name`. Raises UnknownName, with the nearest names, where there is none."""
    if ":" in name:
        return _from_file(room, name)
    if name in _files(room):
        return _own_class(importlib.import_module(f"unforgotten.{room}.{name}"))
    if name in (found := _entry_points(room)):
        cls: Any = found[name].load()
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

    known = [f.name for f in dataclasses.fields(cls) if f.init]
    for field in settings:
        if field not in known:
            if not known:
                raise RecipeError(f"{what} has no settings, but {field!r} was given.")
            raise UnknownName(f"field of {what}", field, known)
    try:
        return _adapter(cls).validate_python(dict(settings))
    except ValidationError as error:
        wrong = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or what}: {e['msg']} (got {e['input']!r})" for e in error.errors()
        )
        raise RecipeError(f"{what}: {wrong}") from None


def fields(cls: type) -> dict[str, dict[str, Any]]:
    """The settings of a class as JSON schemas, each with the sentence under it, inherited ones too."""
    found: dict[str, dict[str, Any]] = {}
    for each in reversed(cls.__mro__):  # pydantic reads the sentences of a class's own fields alone
        if dataclasses.is_dataclass(each):
            for name, schema in _adapter(each).json_schema().get("properties", {}).items():
                found[name] = {**found.get(name, {}), **schema}
    return found


@cache
def _adapter(cls: type) -> Any:
    from pydantic import ConfigDict, TypeAdapter

    if "__pydantic_config__" not in vars(cls):
        cls.__pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)  # type: ignore[attr-defined]
    return TypeAdapter(cls)


def spec_of(component: Any) -> dict[str, Any]:
    """What `build` would need to make this component again: its name and every field. Goes into recipe and results."""
    cls = type(component)
    here = cls.__module__.startswith(f"unforgotten.{getattr(cls, 'room', '')}.")
    # A class that no registry knows, of a script or a notebook, has only its own name.
    name = getattr(cls, "registry_name", None) or (cls.__module__.rsplit(".", 1)[-1] if here else cls.__name__)
    fields = {f.name: getattr(component, f.name) for f in dataclasses.fields(cls) if f.init}
    return {"name": name, **fields}


@cache
def _files(room: str) -> frozenset[str]:
    folder = Path(__file__).parent / room
    return frozenset(p.stem for p in folder.glob("*.py") if p.stem not in {"__init__", "base"})


@cache
def _entry_points(room: str) -> dict[str, importlib.metadata.EntryPoint]:
    return {e.name: e for e in importlib.metadata.entry_points(group=f"unforgotten.{room}")}


def _own_class(module: Any) -> type:
    """The one public dataclass that the module defines and that is a method, dataset or judge."""
    own = [
        c
        for n, c in vars(module).items()
        if inspect.isclass(c) and c.__module__ == module.__name__ and not n.startswith("_") and hasattr(c, "room")
    ]
    if len(own) != 1:
        raise RecipeError(f"{module.__name__} must define exactly one public class of its room, found {len(own)}.")
    return own[0]


def _from_file(room: str, name: str) -> type:
    path, _, wanted = name.rpartition(":")
    file = Path(path).expanduser()
    if not file.is_file():
        raise RecipeError(f"{name!r}: no file {file}. Write ./file.py:ClassName, relative to the current folder.")
    # One module for one file: loading it twice must give the same class, and two files of one name must not collide.
    title = f"unforgotten_user_{hashlib.sha256(str(file.resolve()).encode()).hexdigest()[:8]}_{file.stem}"
    module = sys.modules.get(title)
    if module is None:
        spec = importlib.util.spec_from_file_location(title, file)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[title] = module  # dataclasses look their module up there
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[title]
            raise
    classes = [n for n, c in vars(module).items() if inspect.isclass(c) and getattr(c, "room", None) == room]
    if wanted not in classes:
        raise UnknownName(f"class in {file}", wanted, classes)
    cls = getattr(module, wanted)
    cls.registry_name = name
    return cls
