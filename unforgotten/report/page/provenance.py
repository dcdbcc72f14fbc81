"""Where a comparison comes from: the recipe, what was varied, versions, and a digest of everything. No local paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml
from markupsafe import Markup

from unforgotten.errors import RecipeError
from unforgotten.report import templates
from unforgotten.report.aggregate import title
from unforgotten.report.page.facets import Facet
from unforgotten.report.table import Column, table_of
from unforgotten.report.writers import html
from unforgotten.runs import digests, results, strict_read, strict_yaml
from unforgotten.runs.result_types import ModelDigests

HERE = ("out",)
"""Fields of a recipe that say where things lie on a machine, and change no result."""


def source(rows: Sequence[results.ResultRow], facets: Sequence[Facet], root: Path) -> Markup:
    """Recipe, environment and digests of the runs, each folded."""
    first = next((row for row in rows if row.stage == "tuned" and row.run), None)
    folder = root / str(first.run) if first else root
    named = f"The recipe of the first run ({first.run})" if first else ""
    parts = [(named, recipe(folder)), ("Versions and hardware", environment(folder))]
    titles = ("model", "p", "seed", "run", "weights", "loaded", "data", "prompts", "settings")
    digests = table_of([Column(title, align="left") for title in titles], [_digests(row) for row in rows])
    return templates.html(
        "report/page/source", words=_varied(rows), folded=[(summary, body) for summary, body in parts if body],
        digests=html.markup(digests),
    )  # fmt: skip


def recipe(folder: Path) -> str:
    """recipe.yaml of a run, without what only names places; empty where there is none."""
    try:
        tree = strict_yaml.load_file(folder / "recipe.yaml")
    except RecipeError:
        return ""
    if not isinstance(tree, dict):
        return ""
    kept = {key: value for key, value in tree.items() if key not in HERE}
    return yaml.safe_dump(digests.public(kept), sort_keys=False, allow_unicode=True)


def environment(folder: Path) -> str:
    """Versions, commit and hardware of a run; empty where they are not known."""
    try:
        tree = strict_read.value(folder / "environment.json")
    except (OSError, ValueError):
        return ""
    if not isinstance(tree, dict):
        return ""
    kept = {k: v for k, v in tree.items() if k not in ("aligned", "answers", "replay", "seed", "digests", "rows")}
    return yaml.safe_dump(digests.public(kept), sort_keys=False, allow_unicode=True)


def _varied(rows: Sequence[results.ResultRow]) -> str:
    tuned = [row for row in rows if row.stage == "tuned"]
    varied = []
    for what, key in (
        ("model", "model"),
        ("data", "task"),
        ("poison", "poison"),
        ("attack", "attack"),
        ("memory", "memory_rows"),
        ("seed", "seed"),
    ):
        values = list(dict.fromkeys(getattr(row, key) for row in tuned))
        values = [value or "plain" for value in values] if key == "attack" else values
        if len(values) > 1:
            varied.append(f"{what} {', '.join(f'{v:g}' if isinstance(v, float) else str(v) for v in values)}")
    methods = ", ".join(dict.fromkeys(title(results.called(row)) for row in tuned))
    models = "model" if len(tuned) == 1 else "models"
    return (
        f"{len(tuned)} fine-tuned {models}: {'; '.join([f'method {methods}', *varied])}. A run’s folder is all "
        "that is needed to repeat it."
    )


def _digests(row: results.ResultRow) -> list[str]:
    digests = row.digests or ModelDigests()
    return [
        title(results.called(row)),
        "" if row.poison is None else f"{row.poison:g}",
        "" if row.seed is None else str(row.seed),
        row.run or "",
        digests.weights or "",
        digests.loaded or "",
        " ".join(f"{key} {value}" for key, value in (digests.data or {}).items()),
        digests.prompts or "",
        digests.settings or "",
    ]
