"""Writes docs/methods.md, datasets.md, judges.md, recipe.md and api.md from the docstrings: `make docs`.

`--check` only compares.

A component's first docstring line is its claim; the sentence under each field says what the field does. Loads no torch.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import api_page
import recipe_page
from markup import GENERATED, cell, settings, table

from unforgotten import registry
from unforgotten.datasets.base import Dataset
from unforgotten.runs import field_docs

DOCS = Path(__file__).parent
INTRO = {
    "methods": "Methods that preserve safety. In a recipe: `method: der`, or `method: {name: der, weight: 5}`.",
    "datasets": "Data sets for training and for evaluation. In a recipe: a name, or `{name: jsonl, path: rows.jsonl}`.",
    "judges": "Judges decide whether a reply is harmful and whether it refuses. In a recipe: a name, or `{name: …}`.",
}


DATA_FOLDER = """Set `UNFORGOTTEN_DATA` to a folder of published files, and no network is needed. Where `path` is the
default Hub id and the split's file is there, the file is read. Other paths, and files that are not there, are read as
ever. The command says which file stands in; environment.json has its name under the variable and its sha256. A run's
name depends on the rows alone, so the folder may lie anywhere. Sets without a default `path` take it in the recipe:
`path: "${UNFORGOTTEN_DATA:-data}/medsafetybench/ft_safety_med_n900.json"`."""


def page(room: str) -> str:
    """The page of one room: a table of claims, then each component with its settings."""
    own = {name: cls for name in registry.names(room) if (cls := _own(room, name))}
    lines = [
        f"# {room.capitalize()}",
        "",
        INTRO[room],
        "",
        GENERATED,
        "",
        *_overview(room, own),
    ]
    lines += [*_data_folder(own), *_of_every_set()] if room == "datasets" else []
    shared = registry.settings_of(Dataset) if room == "datasets" else ()
    for name, cls in own.items():
        lines += ["", f"## {name}", "", field_docs.docstring(cls)]
        if rows := settings(s for s in field_docs.settings(cls) if s.name not in shared):
            lines += ["", *rows]
    return "\n".join(lines) + "\n"


def _data_folder(own: dict[str, type]) -> list[str]:
    """What $UNFORGOTTEN_DATA does, and the files that data sets look for there."""
    rows = [
        [f"[{name}](#{name})", f"`{split}`", f"`{file}`"]
        for name, cls in own.items()
        for split, file in cls.published.items()  # type: ignore[attr-defined]
    ]
    return ["", "## A folder of files", "", DATA_FOLDER, "", *table(["data set", "split", "file"], rows)]


def _of_every_set() -> list[str]:
    """The settings that each set has, written once."""
    return ["", "## Settings of every set", "", *settings(field_docs.settings(Dataset))]


def _overview(room: str, own: dict[str, type]) -> list[str]:
    more = list(next(iter(own.values())).facts()) if room == "methods" else []  # type: ignore[attr-defined]
    rows = []
    for name, cls in own.items():
        facts = [cell(cls.facts()[c]) for c in more]  # type: ignore[attr-defined]
        rows.append([f"[{name}](#{name})", *facts, cell(_claim(cls, more))])
    lines = table(["name", *more, "what it does"], rows)
    if room == "methods":
        lines += ["", "turns: when the method acts in a run. step: cost of a step; F is one forward of the user batch."]
    return lines


def _claim(cls: type, more: list[str]) -> str:
    """What it does; without the papers, where they have a column."""
    claim = field_docs.claim(cls)
    return re.sub(r" \[[^]]*\d{4}\.\d{5}[^]]*\]$", "", claim) if "arXiv" in more else claim


def _own(room: str, name: str) -> type | None:
    cls = registry.load(room, name)
    return cls if cls.__module__.startswith("unforgotten.") else None  # others document their own


def main() -> int:
    """Write the pages; with --check, return 1 where one is stale."""
    stale = []
    pages = {room: page(room) for room in registry.ROOMS}
    pages |= {"recipe": recipe_page.page(), "api": api_page.page()}
    for name, text in pages.items():
        file = DOCS / f"{name}.md"
        if not file.is_file() or file.read_text(encoding="utf-8") != text:
            stale.append(file.name)
            if "--check" not in sys.argv:
                file.write_text(text, encoding="utf-8")
    if "--check" in sys.argv and stale:
        print(f"stale: {', '.join(stale)}; run `make docs`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
