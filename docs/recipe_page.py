"""docs/recipe.md: every key of a recipe, from the models in unforgotten/recipe/."""

from __future__ import annotations

import ast
import re
import types
import typing
from collections.abc import Collection
from typing import Annotated, Any

import yaml
from markup import GENERATED, cell, code, table

from unforgotten.recipe.base import Strict
from unforgotten.recipe.recipe import Recipe
from unforgotten.runs import field_docs
from unforgotten.runs.field_docs import Setting

INTRO = """# Recipe

A recipe is a YAML file. `unforgotten finetune my.yaml` reads it, and so does every other command. Only `model` is
required. [Start](start.md) and [your own model and data](your-model-and-data.md) have examples.

- `--set` changes a key for one command: `--set training.learning_rate=2e-4`.
- `extends: demo` takes over the keys of another recipe. Keys that the file has itself count first.
- A [method](methods.md), a [data set](datasets.md) and a [judge](judges.md) are each a name, such as `der`, or a
  mapping of the name and settings, such as `{name: der, weight: 5}`.
- `${UNFORGOTTEN_NAME}` in a value is that environment variable; `${UNFORGOTTEN_NAME:-text}` is `text` where it is not
  set. `UNFORGOTTEN_DATA` names a [folder of data files](datasets.md#a-folder-of-files).

θ₀ is the model before alignment, and θ_safe the aligned one."""
COMPONENTS = {
    "[method](methods.md)": ("method",),
    "[data set](datasets.md)": ("data", "safety_data", "replay", "harm", "refusal", "utility"),
    "[judge](judges.md)": ("judge",),
}
WORDS = {"str": "text", "int": "whole number", "float": "number", "bool": "`true` or `false`", "Any": "any value"}
NUMBERS = {"None": "`null`", "False": "`false`", "4294967296": "2³²"}


def page() -> str:
    """The page: the keys at the top, then each section with its keys."""
    lines = [INTRO, "", GENERATED, "", "## Keys at the top", "", *_keys(Recipe, "")]
    for name, part in sections().items():
        lines += ["", f"## {name}", "", field_docs.docstring(part), ""]
        shared = next((n for n, p in sections().items() if p in part.__mro__[1:] and "." not in n), None)
        if shared:
            lines += [f"The keys of [{shared}](#{anchor(shared)}), and:", ""]
        lines += _keys(part, name, sections()[shared].model_fields if shared else ())
    return "\n".join(lines) + "\n"


def sections() -> dict[str, type[Strict]]:
    """Every part that is a mapping of its own, by its dotted key; a part that stands in two places by its first."""
    firsts: dict[type[Strict], str] = {}
    for name, part in _below(Recipe, ""):
        firsts.setdefault(part, name)
    return {name: part for part, name in firsts.items()}


def anchor(name: str) -> str:
    """Of a section's heading."""
    return name.replace(".", "")


def _below(model: type[Strict], above: str) -> list[tuple[str, type[Strict]]]:
    direct = [(f"{above}{name}", part) for name, f in model.model_fields.items() for part in _parts(f.annotation)]
    return [pair for name, part in direct for pair in ((name, part), *_below(part, f"{name}."))]


def _parts(hint: Any) -> list[type[Strict]]:
    """The parts of a recipe that a type names."""
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
        return [hint] if issubclass(hint, Strict) else []
    inner = typing.get_args(hint)[:1] if typing.get_origin(hint) is Annotated else typing.get_args(hint)
    return [part for each in inner for part in _parts(each)]


def _keys(model: type[Strict], above: str, without: Collection[str] = ()) -> list[str]:
    rows = [
        (code(s.name), cell(in_words(s.name, s.type)), _default(s), cell(s.sentence))
        for s in field_docs.settings(model)
        if s.name not in without
    ]
    return table(("key", "value", "default", "meaning"), rows)


def in_words(name: str, hint: str) -> str:
    """A type as YAML's reader knows it: `list of [data set](datasets.md) or null`."""
    component = next((link for link, names in COMPONENTS.items() if name in names), "")
    hint = hint.replace("str | dict[str, Any]", component or "str | dict[str, Any]")
    hint = re.sub(r"str matching (\S+)", r"text matching `\1`", hint).replace(
        "dict[str, dict[str, Any]]", "mapping of mappings"
    )
    for section, part in sections().items():
        hint = re.sub(rf"\b{part.__name__}\b", f"[{section}](#{anchor(section)})", hint)
    while (simpler := re.sub(r"\b(?:list|tuple)\[((?:[^\[\]]|\[[^\[\]]*\]\()*)\]", r"list of \1", hint)) != hint:
        hint = simpler
    hint = re.sub(r"dict\[str, (.*)\]", r"mapping to \1", hint).replace(" | ", " or ")
    hint = re.sub(r"'([^']*)'", r"`\1`", hint)
    return re.sub(r"\b(\w+)\b(?![^`\[]*[`\]])", lambda word: (WORDS | NUMBERS).get(word[0], word[0]), hint)


def _default(setting: Setting) -> str:
    """As YAML writes it."""
    if not setting.default:
        return "required"
    if setting.default.endswith("()"):
        return "`{}`"
    return code(
        yaml.safe_dump(ast.literal_eval(setting.default), default_flow_style=True, width=1000).partition("\n")[0]
    )
