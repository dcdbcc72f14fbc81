"""What `help`, `unforgotten list` and docs/ say of a class: its claim, and each field with type, default and sentence.

All of it is read from the source: the class's docstring, its annotations, and the string under each field.
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import sys
import textwrap
import types
import typing
from abc import ABCMeta
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal, TypeVar

Class = TypeVar("Class", bound=type)
_HEAD = "\nFields:"


@dataclasses.dataclass(frozen=True)
class Setting:
    """One field of a class, in words."""

    name: str
    type: str
    """Such as `float ≥ 0`."""
    default: str
    """The default as Python code. Empty if the field is required."""
    sentence: str
    """The sentence under the field. Empty if there is no source file, as in a notebook."""


class _Docstring:
    """A docstring that lists the class's fields; written when somebody reads it."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __get__(self, instance: object, owner: type) -> str:
        return with_fields(owner)


class Described(ABCMeta):
    """A class whose `help` lists its fields, with type, default and sentence; and likewise its subclasses."""

    # pydoc looks a class's docstring up on its metaclass first, and ABCMeta has one that hides the class's own.
    __doc__ = vars(type)["__doc__"]

    def __init__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **more: Any) -> None:
        super().__init__(name, bases, namespace, **more)
        described(cls)


def described(cls: Class) -> Class:
    """The same for one class, as a decorator above `@dataclass`."""
    if isinstance(text := vars(cls).get("__doc__"), str):
        cls.__doc__ = _Docstring(text)  # type: ignore[assignment]
    return cls


def with_fields(cls: type) -> str:
    """A class's docstring, and below it each field with type, default and sentence."""
    lines = []
    for setting in settings(cls):
        lines.append(f"    {setting.name}: {setting.type}" + (f" = {setting.default}" if setting.default else ""))
        lines += [textwrap.indent(setting.sentence, " " * 8)] * bool(setting.sentence)
    return "\n".join([docstring(cls), *([_HEAD, *lines] if lines else [])])


def docstring(cls: type) -> str:
    """A class's docstring as its author wrote it, without the list of fields."""
    text = vars(cls).get("__doc__")
    return inspect.cleandoc(text.text if isinstance(text, _Docstring) else (text or "").partition(_HEAD)[0])


def claim(cls: type) -> str:
    """The first line of it: what the class does."""
    return docstring(cls).partition("\n")[0]


def settings(cls: type) -> list[Setting]:
    """Every field that a caller may set, of a dataclass or of a part of a recipe; none of any other class."""
    if parts := vars(cls).get("__pydantic_fields__"):
        return [
            Setting(name, _of_part(field), "" if field.is_required() else _default(field), field.description or "")
            for name, field in parts.items()
        ]
    if "__dataclass_fields__" not in vars(cls):  # no dataclass, or one that is only being made
        return []
    sentences = _sentences(cls)
    return [
        Setting(f.name, type_text(_hint(cls, f.name)), _default(f), sentences.get(f.name, ""))
        for f in dataclasses.fields(cls)
        if f.init
    ]


@cache
def _sentences(cls: type) -> dict[str, str]:
    """The string under each field, inherited ones too."""
    texts: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        try:
            [node] = ast.parse(textwrap.dedent(inspect.getsource(each))).body if each.__module__ != "builtins" else []
        except (OSError, TypeError, ValueError, SyntaxError):  # made in a console: there is no source
            continue
        for field, below in pairwise(getattr(node, "body", [])):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    texts[name] = inspect.cleandoc(text)
    return texts


def _hint(cls: type, name: str) -> Any:
    """The type of a field; its source where that cannot be evaluated, as of an import for the type checker alone."""
    owner = next(c for c in cls.__mro__ if name in vars(c).get("__annotations__", {}))
    hint = owner.__annotations__[name]
    holder: Any = types.SimpleNamespace(__annotations__={name: hint})
    try:
        return typing.get_type_hints(holder, vars(sys.modules[owner.__module__]), None, include_extras=True)[name]
    except Exception:
        return hint


def _of_part(field: Any) -> str:
    return type_text(Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation)


def _default(field: Any) -> str:
    """As Python writes it; of a dataclass's field or a recipe's."""
    if field.default_factory not in (dataclasses.MISSING, None):
        return repr(field.default_factory())
    if hasattr(type(field.default), "__pydantic_fields__"):  # a part of a recipe, whose fields have defaults too
        return f"{type(field.default).__name__}()"
    return "" if field.default is dataclasses.MISSING else repr(field.default)


_SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "multiple_of": "a multiple of", "pattern": "matching"}


def type_text(hint: Any) -> str:
    """A type as a reader wants it: `float ≥ 0`, `'auto' | 'trainer'`, `list[str] | None`."""
    if isinstance(hint, str):
        return hint
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        marks = [m for given in inner[1:] for m in getattr(given, "metadata", [given])]  # pydantic's Field has several
        bounds = [
            f"{sign} {value}"
            for m in marks
            for word, sign in _SIGNS.items()
            if (value := getattr(m, word, None)) is not None
        ]
        first, *more = sorted(type_text(inner[0]).split(" | "), key=lambda t: t == "None")
        return " | ".join([" and ".join([f"{first} {bounds[0]}", *bounds[1:]]) if bounds else first, *more])
    if origin in (typing.Union, types.UnionType):
        return " | ".join(type_text(part) for part in inner)
    if origin is Literal:
        return " | ".join(map(repr, inner))
    if hint in (None, types.NoneType):
        return "None"
    if origin is not None:
        names = ", ".join("…" if part is ... else type_text(part) for part in inner if not isinstance(part, list))
        return f"{getattr(origin, '__name__', origin)}[{names}]"
    return getattr(hint, "__name__", str(hint))
