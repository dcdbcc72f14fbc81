"""Writes docs/methods.md, datasets.md and judges.md from the docstrings: `make docs`; `--check` only compares.

A component's first docstring line is its claim; the sentence under each field says what the field does. Loads no torch.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from unforgotten import registry
from unforgotten.report.table import prose, table_of
from unforgotten.report.writers import markdown
from unforgotten.runs import described

DOCS = Path(__file__).parent
INTRO = {
    "methods": "How a fine-tuning preserves safety. In a recipe: `method: der`, or `method: {name: der, weight: 5}`.",
    "datasets": "What a model is trained on or asked. In a recipe: a name, or `{name: jsonl, path: rows.jsonl}`.",
    "judges": "What decides whether a reply is harmful, and whether it refuses. In a recipe: a name, or `{name: …}`.",
}


def page(room: str) -> str:
    """The page of one room: a table of claims, then each component with its settings."""
    own = {name: cls for name in registry.names(room) if (cls := _own(room, name))}
    lines = [
        f"# {room.capitalize()}",
        "",
        INTRO[room],
        "",
        "*Generated from the docstrings by `make docs`; change them there.*",
        "",
        *_overview(room, own),
    ]
    for name, cls in own.items():
        lines += ["", f"## {name}", "", described.docstring(cls), *_settings(cls)]
    return "\n".join(lines) + "\n"


def _overview(room: str, own: dict[str, type]) -> list[str]:
    more = list(next(iter(own.values())).facts()) if room == "methods" else []  # type: ignore[attr-defined]
    rows = [
        [f"[{name}](#{name})", *(cls.facts()[c] for c in more), described.claim(cls)]  # type: ignore[attr-defined]
        for name, cls in own.items()
    ]
    lines = _table(["name", *more, "what it does"], rows)
    if room == "methods":
        lines += ["", "turns: where in a run it steps in. step: its cost, F being one forward of the user's batch."]
    return lines


def _own(room: str, name: str) -> type | None:
    cls = registry.load(room, name)
    return cls if cls.__module__.startswith("unforgotten.") else None  # others document their own


def _settings(cls: type) -> list[str]:
    rows = []
    for setting in described.settings(cls):
        default = f"`{setting.default}`" if setting.default else "required"
        rows.append([f"`{setting.name}`", f"`{setting.type}`", default, setting.sentence])
    return ["", *_table(["setting", "type", "default", "meaning"], rows)] if rows else []


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return markdown.lines(table_of([prose(title) for title in titles], rows), escaped=_cell)


def _cell(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def main() -> int:
    """Write the pages; with --check, return 1 where one is stale."""
    stale = []
    for room in registry.ROOMS:
        file, text = DOCS / f"{room}.md", page(room)
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
