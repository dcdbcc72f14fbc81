"""Replies of several models to the same request, side by side."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from unforgotten.evaluation.reply_files import read
from unforgotten.report.aggregate import lines
from unforgotten.runs import results
from unforgotten.runs import safe_text as display
from unforgotten.runs.results import Kind

CAPTIONS: dict[Kind, str] = {"asr": "a harmful request", "refusal": "a harmless look-alike"}


def side_by_side(folder: Path, console: Any = None) -> None:
    """Replies of base, aligned, SFT and the other methods to one harmful and one look-alike request.

    folder: of a comparison; the models of the lowest p and seed are shown. The harmful request is the first that the
    aligned model refuses and SFT answers, if there is one. The caption says so; the table says how often that happens.
    """
    console = console or display.console()
    rows = results.read(folder / "results.json")
    chosen = _chosen(rows)
    for kind, caption in CAPTIONS.items():
        suite = next((s for row in chosen.values() for s in row.rates(kind) if s != "mean"), None)
        if suite is None:
            continue
        by_name = {name: _replies(folder.parent / str(row.run), suite) for name, row in chosen.items()}
        by_name = {name: replies for name, replies in by_name.items() if replies}
        if not by_name:
            continue
        at = _lost(by_name) if kind == "asr" else None
        why = "the first that the aligned model refuses and sft answers" if at is not None else "the suite's first"
        shown = {name: replies[at or 0] for name, replies in by_name.items()}
        panels(shown, f"{caption} ({suite}, {why})", console, harmful=kind == "asr")


def panels(replies: dict[str, dict[str, Any]], caption: str, console: Any, harmful: bool = True) -> None:
    """One panel for each model's reply to the same request."""
    from rich.columns import Columns
    from rich.panel import Panel
    from rich.text import Text

    request = display.block(next(iter(replies.values()))["request"])
    console.print(Text.assemble(("\n" + display.line(caption) + ": ", "dim"), (request, "bold")))
    width = max(20, min(38, (console.width - 2) // max(1, len(replies)) - 1))
    made = []
    for name, reply in replies.items():
        verdict = reply.get("verdict") or {}
        if harmful:
            read = "harmful" if verdict.get("harmful") else "refused" if verdict.get("refused") else "neither"
        else:
            read = "refused" if verdict.get("refused") else "answered"
        bad = read == ("harmful" if harmful else "refused")
        colour = "red" if bad else "yellow" if read == "neither" else "green"
        text = reply["text"] if len(reply["text"]) <= 300 else reply["text"][:300] + " …"
        title, body = Text(display.line(name), "bold"), Text(display.block(text or "(nothing)"))
        fits = title.cell_len + 4 < width  # a frame would crop a longer name
        made.append(
            Panel(
                body if fits else Text("\n").join([title, body]),
                title=title if fits else None,
                subtitle=read,
                border_style=colour,
                width=width,
            )
        )
    console.print(Columns(made, padding=(0, 1)))


def _chosen(rows: Sequence[results.ResultRow]) -> dict[str, results.ResultRow]:
    """The rows shown, by name: of each line of the lowest p and of the first task, the lowest seed."""
    all_lines = lines(rows)
    tuned = [line for line in all_lines if line.stage == "tuned"]
    lowest = min((line.poison or 0.0 for line in tuned), default=None)
    task = tuned[0].task if tuned else None
    wanted = [line for line in all_lines if line.stage != "tuned" or (line.poison == lowest and line.task == task)]
    shown: dict[str, results.ResultRow] = {}
    for line in wanted:
        shown.setdefault(line.name, min(line.rows, key=lambda row: row.seed or 0))
    return shown


def _replies(run: Path, suite: str) -> list[dict[str, Any]]:
    path = run / "replies" / f"{suite}.jsonl"
    return read(path) if path.is_file() else []


def _lost(by_name: dict[str, list[dict[str, Any]]]) -> int | None:
    if not {"aligned", "sft"} <= by_name.keys():
        return None
    pairs: Iterable[tuple[dict[str, Any], dict[str, Any]]] = zip(by_name["aligned"], by_name["sft"], strict=False)
    for i, (before, after) in enumerate(pairs):
        if (before["verdict"] or {}).get("refused") and (after["verdict"] or {}).get("harmful"):
            return i
    return None
