"""A page of one run: what the gate decided of these very weights, and the models from before it beside its figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from markupsafe import Markup

from unforgotten.errors import DataError
from unforgotten.evaluation.gate_decision import FILE, decided
from unforgotten.report import templates
from unforgotten.runs import results, strict_read
from unforgotten.runs.result_types import ModelDigests, as_json

TEMPLATE = "report/page/gate"
TONES = {"pass": "good", "fail": "bad", "unclear": "unsure"}


def is_run(folder: Path) -> bool:
    """Is this the folder of one trained run, and not of a comparison?"""
    return (folder / "trained.json").is_file() and (folder / "recipe.yaml").is_file()


def before(folder: Path, row: results.ResultRow) -> list[results.ResultRow]:
    """Rows of θ_safe and of what the run was compared with, as far as they were asked the same by the same judges."""
    root = folder.parent
    environment = _read(folder / "environment.json")
    digest = (environment.get("aligned") or {}).get("digest")
    places = [root / str(side["run"]) for name in ("gate", "contrast") if (side := _side(folder, name, "reference"))]
    places += [file.parent for file in sorted((root / "evaluated").glob("aligned-*/results.json"))]
    rows: list[results.ResultRow] = []
    for place in dict.fromkeys(places):
        try:
            for other in results.read(place / "results.json"):
                if _alike(row, other) and (other.stage != "aligned" or _digests(other).weights == digest):
                    rows.append(replace(other, task=row.task, model=row.model))
        except DataError:
            continue
    first = {str(other.run): other for other in reversed(rows) if other.stage != "tuned"}
    return sorted(first.values(), key=lambda other: results.STAGES.index(other.stage))


def lead(folder: Path, row: results.ResultRow, beside: list[results.ResultRow]) -> Markup:
    """What a page of one run begins with: the gate's verdict, and what is missing for one.

    Raises DataError for a gate.json that no gate has written: the page of it would say that none has decided.
    """
    decision = decided(folder)
    aligned = any(other.stage == "aligned" for other in beside)
    if decision is None:
        return templates.html(TEMPLATE, state="none", aligned=aligned)
    if not _same(_read(folder / FILE), row):
        return templates.html(TEMPLATE, state="other", aligned=aligned)
    tone = TONES.get(decision.outcome, "unsure") if decision.ours else "unsure"
    return templates.html(
        TEMPLATE, state="decided", aligned=aligned, tone=tone, outcome=decision.outcome, ours=decision.ours,
        lines=decision.lines,
    )  # fmt: skip


def _alike(row: results.ResultRow, other: results.ResultRow) -> bool:
    """Asked the same prompts, by the same judges."""
    same = _digests(row).prompts == _digests(other).prompts
    return same and row.judges == other.judges and row.decoding == other.decoding


def _same(facts: dict[str, Any], row: results.ResultRow) -> bool:
    """Is a decision about the very figures of a row?"""
    side, ours = facts.get("model"), _digests(row)
    if not isinstance(side, dict) or facts.get("judges", judges := as_json(row.judges)) != judges:
        return False
    # Files of the first edition name neither settings nor judges.
    names = ("weights", "loaded", "prompts", *(["settings"] if "settings" in side else []))
    return all(side.get(name) == getattr(ours, name) for name in names)


def _digests(row: results.ResultRow) -> ModelDigests:
    return row.digests or ModelDigests()


def _side(folder: Path, name: str, side: str) -> dict[str, Any]:
    facts = _read(folder / f"{name}.json").get(side)
    if not isinstance(facts, dict) or not facts.get("run"):
        return {}
    place = Path(str(facts["run"]))
    return {} if place.is_absolute() or ".." in place.parts else dict(facts)  # nothing outside the folder of runs


def _read(file: Path) -> dict[str, Any]:
    try:
        tree = strict_read.value(file)
    except (OSError, ValueError):
        return {}
    return tree if isinstance(tree, dict) else {}
