"""A ladder's README.md: what passed, each attempt in a table, and the gate's sentences."""

from __future__ import annotations

from typing import Any

from unforgotten.report.page.drawing import with_interval
from unforgotten.report.table import Cell, Column, Table, name
from unforgotten.report.writers import markdown as markdown_table
from unforgotten.verbs.repair.attempts import Attempt, Repaired

TITLES = {"asr": "ASR", "non_refusal": "non-refusal", "refusal": "look-alikes refused"}


def sentence(repaired: Repaired) -> str:
    """What came of it, in one sentence."""
    if repaired.model is not None:
        last = repaired.attempts[-1]
        return (
            f"Rung {last.rung} ({last.what}) passes the gate on {sum(last.prompts.values())} prompts that it was not "
            "chosen by."
        )
    if repaired.outcome == "unclear":
        return "No repair passes the gate, and for some there are too few prompts to tell. No model is written."
    return "No repair passes the gate. No model is written: do not release this model."


def table(repaired: Repaired) -> Table:
    """Every attempt, in its order."""
    measures = list(dict.fromkeys(name for attempt in repaired.attempts for name in attempt.figures))
    columns = [
        Column("rung", "name"), name("repair"), name("prompts"),
        *(Column(TITLES.get(measure, measure)) for measure in measures), name("gate"), Column("seconds"),
    ]  # fmt: skip
    return Table(columns, [_cells(attempt, measures) for attempt in repaired.attempts])


def _cells(attempt: Attempt, measures: list[str]) -> list[Cell]:
    figures = [
        Cell(with_interval(attempt.figures[name])) if name in attempt.figures else Cell("–") for name in measures
    ]
    seconds = f"{attempt.make_seconds + attempt.ask_seconds:.0f}"
    n = f"{attempt.part}, {sum(attempt.prompts.values())}"
    return [Cell(str(attempt.rung)), Cell(attempt.what), Cell(n), *figures, Cell(attempt.outcome), Cell(seconds)]


def markdown(repaired: Repaired, facts: dict[str, Any]) -> str:
    """The page. facts: what repair.json has."""
    limits = ", ".join(f"{limit} {value:g}" for limit, value in facts["limits"].items())
    decided = sum(attempt.part != "choose" for attempt in repaired.attempts)
    lines = [
        "# Repair",
        "",
        sentence(repaired) if facts["outcome"] else "The ladder is not at its end yet.",
        "",
        f"Limits: {limits}. Changes are from the aligned model, on the same prompts. Candidates are compared on the "
        "prompts `choose`. The selected one is decided on prompts that nothing else was asked. Prompts that are "
        "(nearly) alike are on one side.",
        "",
        f"Candidates that were decided on: {decided} of {len(facts['parts']) - 1} that there were prompts for. In each "
        "decision, a model exactly at a limit passes by chance in at most 1 of 20 cases, in most of them 1 of 40.",
        "",
        *markdown_table.lines(table(repaired)),
        "",
    ]
    for attempt in repaired.attempts:
        lines += [f"**Rung {attempt.rung}, {attempt.what}, on `{attempt.part}`**: {attempt.outcome}", ""]
        lines += [f"- {line}" for line in (*attempt.decision.lines, *([attempt.note] if attempt.note else []))]
        lines.append("")
    if repaired.skipped:
        lines += ["## Not tried", ""]
        lines += [f"- Rung {skipped.rung}, {skipped.what}: {skipped.why}" for skipped in repaired.skipped]
        lines.append("")
    return "\n".join(lines)
