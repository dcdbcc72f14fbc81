"""Rows that a person should look at: all of them in a file, the first and their categories in a sentence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.runs import atomic, safe_text

if TYPE_CHECKING:
    from unforgotten.methods.base import EncodedRow

SHOWN_ROWS, SHOWN_CATEGORIES, SHOWN_LETTERS = 20, 10, 80


def facts_of(row: EncodedRow, place: int) -> dict[str, Any]:
    """What tells a person which row it is. place: among the user's rows, from 0."""
    known = {name: str(row[name]) for name in ("category", "request") if row.get(name)}
    return {"row": place + 1, "source": str(row.get("source") or f"row {place + 1}"), **known}


def write(file: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """JSON lines without control characters, whole or not at all."""
    atomic.put(file, "".join(safe_text.json_text(line, indent=None, nan=True) + "\n" for line in lines))


def sentence(file: str, lines: Sequence[Mapping[str, Any]]) -> str:
    """`a.jsonl:3, a.jsonl:9; 2 × drugs; all in rows.jsonl`."""
    names = ", ".join(_short(line["source"]) for line in lines[:SHOWN_ROWS])
    more = f" and {len(lines) - SHOWN_ROWS} more" if len(lines) > SHOWN_ROWS else ""
    topics = Counter(_short(line["category"]) for line in lines if "category" in line)
    kinds = "".join(f"; {n} × {topic}" for topic, n in topics.most_common(SHOWN_CATEGORIES))
    return f"{names}{more}{kinds}; all in {file}"


def _short(text: str) -> str:
    """A sender's words within a sentence: on one line, and no more than fits there; the file has them whole."""
    return safe_text.line(text if len(text) <= SHOWN_LETTERS else f"{text[: SHOWN_LETTERS - 1]}…")
