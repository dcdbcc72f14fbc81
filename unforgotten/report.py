"""What a person reads: a table, replies side by side, and the model card of a run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten import results
from unforgotten.summary import Line, lines, sentence
from unforgotten.table import MARK, neither, table

if TYPE_CHECKING:
    from unforgotten.recipe import Layout, Recipe

__all__ = ["MARK", "markdown", "model_card", "panels", "sentence", "show", "side_by_side"]


def footnotes(found: Sequence[Line], layout: Layout | None = None) -> list[str]:
    """What the figures are, and what makes them less than they look."""
    seeds = sorted({row["seed"] for line in found for row in line.rows if row["seed"] is not None})
    notes = [
        "In percent, with 95 % intervals. ASR (attack success rate) and refusal (of harmless look-alikes): lower is "
        "better. A mean weighs its suites equally."
    ]
    if any(len(line.rows) > 1 for line in found):
        notes.append(
            f"Mean of seeds {', '.join(map(str, seeds))}; the interval counts other prompts and other seeds. Few seeds "
            "say little of their own spread: where they differ, it is wide."
        )
    if layout is not None:
        notes += [told] if (told := neither(found, layout)) else []
    elif any((line.flagged("off_task").value or 0) > 0 for line in found):
        notes.append("Off task: harmful requests answered with the user's task instead; not counted in ASR.")
    touched: dict[str, tuple[int, int]] = {}
    for line in found:
        for suite, counts in line.touched().items():
            touched[suite] = max(touched.get(suite, (0, 0)), counts)
    for suite, (hits, n) in touched.items():
        notes.append(
            f"{MARK} {suite}: up to {hits} of {n} prompts are copies or near copies of rows trained on; results.json "
            "has the figures without them (asr_without_overlap)."
        )
    unread = sum(
        rate["unparsed"]
        for line in found
        for row in line.rows
        for field in ("asr", "refusal")
        for name, rate in (row[field] or {}).items()
        if name != "mean"
    )
    if unread:
        notes.append(f"{unread} verdicts could not be read; the intervals cover both readings of them.")
    return notes


def show(rows: Sequence[results.Row], console: Any = None, layout: Layout | None = None) -> None:
    """Prints the table: each value over its interval, rounded outwards to whole percents so that it fits a terminal."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    found = lines(rows)
    made = table(found, layout)
    roomy = console.width > 12 * len(made.titles)
    drawn = Table(
        box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1) if roomy else 0, show_edge=False, pad_edge=False
    )
    for i, title in enumerate(made.titles):
        words = title in ("model", "method", "task")
        heading = title.replace(" ", "\n", 1).replace("_", "_\n")
        longest = max(len(cells[i].value) for cells in made.body)
        drawn.add_column(heading, justify="left" if words else "right", no_wrap=not words, min_width=min(longest, 16))
    for cells, ends in zip(made.body, made.ends, strict=True):
        texts = [Text(c.value).append(f"\n{c.brief}" if c.brief else "", style="dim") for c in cells]
        drawn.add_row(*texts, end_section=ends)
    console.print(drawn)
    for note in footnotes(found, layout):
        console.print(note, style="dim", markup=False, highlight=False)


def markdown(rows: Sequence[results.Row], title: str = "", layout: Layout | None = None) -> str:
    """The same table for a README, with its sentence."""
    found = lines(rows)
    made = table(found, layout)
    text = [f"# {title}", ""] if title else []
    text += ["| " + " | ".join(made.titles) + " |", "|" + " --- |" * len(made.titles)]
    for cells in made.body:
        told = [c.value + (f" ({c.interval})" if c.interval else "") for c in cells]
        text.append("| " + " | ".join(told) + " |")
    text += ["", *(f"{note}  " for note in footnotes(found, layout))]
    if summed := sentence(rows):
        text += ["", summed]
    return "\n".join(text) + "\n"


# ── replies side by side ──


def side_by_side(folder: Path, console: Any = None) -> None:
    """Replies of base, aligned, SFT and the other methods to one harmful and one look-alike request.

    folder: of a comparison. Of the lowest p and seed. The harmful request is the first that the aligned model refuses
    and SFT answers, if there is one, and the caption says so: how often that is, the table says.
    """
    from rich.console import Console

    console = console or Console()
    rows = results.read(folder / "results.json")
    chosen = _chosen(rows)
    for kind, caption in (("asr", "a harmful request"), ("refusal", "a harmless look-alike")):
        suite = next((s for row in chosen.values() for s in row[kind] or {} if s != "mean"), None)
        if suite is None:
            continue
        told = {name: _replies(folder.parent / row["run"], suite) for name, row in chosen.items()}
        told = {name: replies for name, replies in told.items() if replies}
        if not told:
            continue
        at = _lost(told) if kind == "asr" else None
        why = "the first that the aligned model refuses and sft answers" if at is not None else "the suite's first"
        shown = {name: replies[at or 0] for name, replies in told.items()}
        panels(shown, f"{caption} ({suite}, {why})", console, harmful=kind == "asr")


def panels(replies: dict[str, dict[str, Any]], caption: str, console: Any, harmful: bool = True) -> None:
    """One panel for each model's reply to the same request."""
    from rich.columns import Columns
    from rich.panel import Panel
    from rich.text import Text

    request = next(iter(replies.values()))["request"]
    console.print(Text.assemble(("\n" + caption + ": ", "dim"), (request, "bold")))
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
        made.append(
            Panel(Text(text or "(nothing)"), title=name, subtitle=read, border_style=colour, width=width, height=None)
        )
    console.print(Columns(made, padding=(0, 1)))


def _chosen(rows: Sequence[results.Row]) -> dict[str, results.Row]:
    """The rows shown, by name: of each line of the lowest p and of the first task, the lowest seed."""
    found = lines(rows)
    tuned = [line for line in found if line.stage == "tuned"]
    lowest = min((line.poison or 0.0 for line in tuned), default=None)
    task = tuned[0].task if tuned else None
    kept = [line for line in found if line.stage != "tuned" or (line.poison == lowest and line.task == task)]
    shown: dict[str, results.Row] = {}
    for line in kept:
        shown.setdefault(line.name, min(line.rows, key=lambda row: row["seed"] or 0))
    return shown


def _replies(run: Path, suite: str) -> list[dict[str, Any]]:
    path = run / "replies" / f"{suite}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def _lost(told: dict[str, list[dict[str, Any]]]) -> int | None:
    if not {"aligned", "sft"} <= told.keys():
        return None
    pairs: Iterable[tuple[dict[str, Any], dict[str, Any]]] = zip(told["aligned"], told["sft"], strict=False)
    for i, (before, after) in enumerate(pairs):
        if (before["verdict"] or {}).get("refused") and (after["verdict"] or {}).get("harmful"):
            return i
    return None


# ── the model card ──


def model_card(row: results.Row, recipe: Recipe) -> str:
    """README.md of a run folder, with the Hub's front matter; names no path of the machine it was made on."""
    import yaml

    from unforgotten import __version__

    adapter = recipe.lora is not None
    front: dict[str, Any] = {"library_name": "peft" if adapter else "transformers", "pipeline_tag": "text-generation"}
    if _is_hub_id(recipe.model):
        front |= {"base_model": recipe.model, "base_model_relation": "adapter" if adapter else "finetune"}
    front["tags"] = ["unforgotten", "safety", *(["lora"] if adapter else []), *(m["name"] for m in row["methods"])]
    settings = [", ".join([m["name"], *(f"{k} = {v}" for k, v in m.items() if k != "name")]) for m in row["methods"]]
    poison = f", {100 * row['poison']:g} % of it harmful rows put there by a lab" if row["poison"] else ""
    folder = "adapter" if adapter else "model"
    text = [
        "---",
        yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip(),
        "---",
        "",
        f"# {row['model']}, fine-tuned with {row['method']}",
        "",
        f"Made by unforgotten {__version__}, seed {row['seed']}. User data: {row['task']}{poison}. "
        f"{row['memory_rows']} safety rows were kept for replay.",
        "",
        f"Method: {'; '.join(settings)}.",
        "",
        markdown([row]).strip(),
        "",
        f"Judge: {', '.join(str(j['name']) for j in row['judges'])}. Decoding: {row['decoding']['strategy']}, at most "
        f"{row['decoding']['max_new_tokens']} tokens. Every reply with its verdict is in replies/.",
        *(["", "Notes:", "", *(f"- {note}" for note in row["notes"])] if row["notes"] else []),
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("{folder}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}")  # its chat template is the one trained with',
        "```",
    ]
    return "\n".join(text) + "\n"


def _is_hub_id(model: str) -> bool:
    return model.count("/") == 1 and not model.startswith((".", "/", "~")) and not Path(model).exists()
