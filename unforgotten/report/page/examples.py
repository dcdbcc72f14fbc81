"""Replies of several models to the same request, side by side, of the prompts on which the models differ most.

What a judge reads as harmful, or cannot tell for a refusal, is folded away: one sees that it is there, and opens it
only if one wants to. Where the only judge looks for the words of refusals, every reply to a harmful request is folded.
Nothing of a reply becomes mark-up.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from unforgotten.evaluation import reply_files
from unforgotten.report import templates
from unforgotten.report.aggregate import Line
from unforgotten.report.page.facets import Facet, headline
from unforgotten.runs import results
from unforgotten.runs.results import Kind

LONGEST = 1500
"""Letters of a reply that are shown; the run's replies/ have the rest."""
SHOWN = 2
"""Methods beside base, aligned and sft, those with the fewest harmful answers; the others are folded."""
WANTED: dict[Kind, int] = {"asr": 3, "refusal": 1, "utility": 1}
CAPTIONS = {"asr": "harmful request", "refusal": "harmless look-alike", "utility": "the user's own task"}
WORDS = {"harmful": "harmful answer", "unread": "not readable by the judge"}
GUESSED = {"harmful": "no refusal found", "refuses": "words of a refusal", "answers": "no refusal found"}
"""The same where the judge only looks for the words of refusals."""

Recorded = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Quote:
    """One request, and what each model made of it."""

    kind: str
    suite: str
    category: str
    request: str
    differ: bool
    """Whether the methods' verdicts on it differ; else it is merely the first."""
    replies: Sequence[tuple[str, Recorded]]
    guessed: bool
    """Whether the judge only looks for the words of refusals: what it calls one may be none."""


def quotes(facet: Facet, root: Path) -> list[Quote]:
    """A handful of prompts of one facet: of each model its lowest seed's. None where no replies are at hand."""
    rows = _rows(facet)
    made: list[Quote] = []
    for kind, wanted in WANTED.items():
        made += _chosen(kind, [q for suite in _suites(rows, kind) for q in _asked(kind, suite, rows, root)], wanted)
    return made


def _rows(facet: Facet) -> list[tuple[Line, results.ResultRow]]:
    """Of each line the row of the lowest seed that all methods have; θ_safe of that seed is what they started from."""
    seeds = set.intersection(*({row.seed for row in line.rows} for line in facet.tuned))
    seed = min(seeds, key=lambda s: s or 0, default=None)
    return [
        (line, next((row for row in line.rows if row.seed == seed), line.rows[0]))
        for line in facet.all
        if line.stage != "tuned" or seeds
    ]


def _suites(rows: Sequence[tuple[Line, results.ResultRow]], kind: Kind) -> list[str]:
    if kind != "utility":
        return list(dict.fromkeys(s for _, row in rows for s in row.rates(kind) if s != "mean"))
    return [
        s
        for s in rows[-1][1].flags or {}
        if all(s not in row.rates("asr") and s not in row.rates("refusal") for _, row in rows)
    ][:1]


def _asked(kind: Kind, suite: str, rows: Sequence[tuple[Line, results.ResultRow]], root: Path) -> Iterator[Quote]:
    by_line: list[tuple[Line, list[Recorded]]] = []
    safest = sorted(rows, key=lambda pair: pair[0].stage == "tuned" and (headline(pair[0], "asr").value or 0.0))
    for line, row in safest:
        under = (row.conditions or {}).get((row.headline or {}).get(kind, "default"))
        names = (under.files if under else None) or {}
        path = root / str(row.run) / "replies" / f"{names.get(suite, suite)}.jsonl"
        if row.run and path.is_file():
            try:
                by_line.append((line, reply_files.read(path)))
            except (json.JSONDecodeError, UnicodeDecodeError):
                continue
    if not any(line.stage == "tuned" for line, _ in by_line):
        return
    guessed = all(judge.name == "keywords" for judge in rows[-1][1].judges or ())
    asked = [str(entry["request"]) for entry in by_line[-1][1]]
    by_line = [(line, lines) for line, lines in by_line if [str(entry["request"]) for entry in lines] == asked]
    for i, request in enumerate(asked):
        readings = {verdict(kind, lines[i]) for line, lines in by_line if line.stage == "tuned"}
        replies = [(line.name, lines[i]) for line, lines in by_line]
        category = str(replies[-1][1].get("category") or "")
        yield Quote(kind, suite, category, request, len(readings) > 1, replies, guessed)


def _chosen(kind: str, quotes: Sequence[Quote], wanted: int) -> list[Quote]:
    """Those that divide the methods most evenly, of different suites and categories where they may be; where none
    divides them, the first."""
    picked: list[Quote] = []
    left = sorted(quotes, key=lambda q: -_divided(kind, q))
    while left and len(picked) < wanted:
        suites, harms = {q.suite for q in picked}, {q.category for q in picked}
        near = [q for q in left if _divided(kind, q) >= _divided(kind, left[0]) - 1]
        pick = min(near, key=lambda q: (q.suite in suites) + (q.category in harms))  # the first of equals
        picked.append(pick)
        left = [q for q in left if q is not pick and q.differ == pick.differ]
        if not pick.differ:
            break
    return picked


def _divided(kind: str, quote: Quote) -> int:
    """How many methods stand on the smaller side; one more where sft loses what the aligned model had."""
    named = dict(quote.replies)
    bad = [_bad(kind, reply) for name, reply in quote.replies if name not in ("base", "aligned")]
    lost = kind == "asr" and "aligned" in named and "sft" in named
    loses = lost and not _bad(kind, named["aligned"]) and _bad(kind, named["sft"])
    return 2 * min(sum(bad), len(bad) - sum(bad)) + bool(loses and any(bad) and not all(bad))


def verdict(kind: str, reply: Recorded) -> str:
    """How a reply is read: harmful, refused, neither … of a task: right or wrong."""
    if kind == "utility":
        score = next(iter((reply.get("scores") or {}).values()), None)
        return "not scored" if score is None else "right" if score else "wrong"
    read = reply.get("verdict") or {}
    if kind == "refusal":
        return "unread" if read.get("refused") is None else "refuses" if read["refused"] else "answers"
    if "off_task" in (reply.get("flags") or []):
        return "off task"
    if read.get("harmful") is None:
        return "unread"
    return "harmful" if read["harmful"] else "refuses" if read.get("refused") else "neither"


def _bad(kind: str, reply: Recorded) -> bool:
    return verdict(kind, reply) in {"asr": ("harmful",), "refusal": ("refuses",), "utility": ("wrong",)}[kind]


# ── as HTML ──


@dataclass(frozen=True, slots=True)
class Card:
    """What one model made of a request."""

    name: str
    word: str
    """How the reply is read."""
    tone: str
    """good, bad or unsure."""
    thought: str
    said: str
    folded: bool


def drawn(quote: Quote) -> Markup:
    """One request with a card for each model; the methods beyond the first few are folded."""
    first = [pair for pair in quote.replies if pair[0] in ("base", "aligned", "sft")]
    others = [pair for pair in quote.replies if pair not in first]
    return templates.html(
        "report/page/quote", caption=CAPTIONS[quote.kind], suite=quote.suite, differ=quote.differ,
        request=_cut(quote.request), shown=[_card(quote, *pair) for pair in first + others[:SHOWN]],
        more=[_card(quote, *pair) for pair in others[SHOWN:]],
    )  # fmt: skip


def _card(quote: Quote, name: str, reply: Recorded) -> Card:
    kind, read, said = quote.kind, verdict(quote.kind, reply), str(reply.get("text") or "")
    unsure = read in ("unread", "neither", "off task", "not scored")
    return Card(
        name,
        word=(GUESSED if quote.guessed else WORDS).get(read, read),
        tone="bad" if _bad(kind, reply) else "unsure" if unsure else "good",
        thought=_cut(str(reply.get("thought") or "")),
        said=_cut(said) if said.strip() else "",
        folded=kind == "asr" and (quote.guessed or read not in ("refuses", "off task")),
    )


def _cut(words: str) -> str:
    return (
        words if len(words) <= LONGEST else f"{words[:LONGEST]} … ({len(words) - LONGEST} more characters in replies/)"
    )
