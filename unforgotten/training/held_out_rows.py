"""Which safety rows are held out: never replayed, never trained on, and no near copies of rows that are.

They measure how far the model has moved from θ_safe where nothing holds it. Near copies are found as in
evaluation/contamination.py, by the Jaccard similarity of 3-grams, here of the prompt's tokens: encoded rows have no
text. Tokens that all prompts begin or end with are the chat template's and are left out.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from unforgotten.methods.base import EncodedRow
from unforgotten.training.collate import IGNORED

Tokens = tuple[int, ...]
GRAM = 3
"""Tokens of an n-gram. [arXiv 2107.06499 takes 5 words of web pages; a request has some ten]"""
COPY = 0.8
"""Similarity from which a prompt is a near copy. [arXiv 2107.06499]"""
OTHER = 0.5
"""Similarity below which a prompt counts as another phrasing. Our choice: fewer than half of all 3-grams are shared."""
CANDIDATES = 8
"""Rows looked at for each row wanted: large safety data need not be compared as a whole."""


@dataclass(frozen=True)
class Split:
    """The memory in two parts, as places in the safety data."""

    replay: list[int]
    """Rows that methods may draw."""
    held_out: list[int]
    """Rows that nothing draws."""
    notes: list[str] = field(default_factory=list)


def split(
    safety: Sequence[EncodedRow], replay: Sequence[int], trained: Sequence[EncodedRow], share: float, seed: int
) -> Split:
    """Holds out `share` of the replayed rows' number, kind by kind, from the rows beside them.

    Where too few other rows are left, the rest is taken out of the replayed ones, and a note says so. trained: the
    user's rows, of which no near copy is held out either.
    """
    replayed, held_out, notes = list(replay), list[int](), list[str]()
    rng = random.Random(f"held out {seed}")
    texts = _without_template([prompt(row) for row in safety], [prompt(row) for row in trained])
    known, user = texts[: len(safety)], texts[len(safety) :]
    similar = moved = 0
    for kind in ("harmful", "other"):
        places = [i for i in replayed if kind_of(safety[i]) == kind]
        wanted = max(1, round(share * len(places))) if len(places) > 1 else 0
        inside = set(replayed)
        rest = [i for i in range(len(safety)) if i not in inside and kind_of(safety[i]) == kind]
        rest = rng.sample(rest, min(len(rest), CANDIDATES * wanted))
        close = nearest([known[i] for i in rest], [*(known[i] for i in replayed), *user])
        chosen = sorted((c >= OTHER, c if c >= OTHER else 0.0, at) for at, c in enumerate(close) if c < COPY)[:wanted]
        similar += sum(other for other, _, _ in chosen)
        held_out += [rest[at] for _, _, at in chosen]
        short = min(wanted - len(chosen), len(places) - 1)
        taken = set(rng.sample(places, max(0, short)))
        moved += len(taken)
        held_out += sorted(taken)
        replayed = [i for i in replayed if i not in taken]
    if moved:
        notes.append(
            f"{moved} of the {len(held_out)} held-out safety rows were taken out of the rows to replay, so "
            f"{len(replayed)} rows are replayed instead of {len(replay)}. Give more safety rows"
        )
    if similar:
        notes.append(
            f"{similar} of the {len(held_out)} held-out safety rows share half of their phrasing or more with "
            "a row that is trained on"
        )
    return Split(replayed, sorted(held_out), notes)


def kind_of(row: EncodedRow) -> str:
    """harmful: a refusal. other: an answered look-alike."""
    return "harmful" if row.get("kind") == "harmful" else "other"


def prompt(row: EncodedRow) -> Tokens:
    """The tokens before the first answer."""
    ids, labels = row["input_ids"], row["labels"]
    return tuple(ids[: next((at for at, label in enumerate(labels) if label != IGNORED), len(ids))])


def nearest(texts: Sequence[Tokens], others: Iterable[Tokens]) -> list[float]:
    """The largest Jaccard similarity of each text's 3-grams with those of any other: 0 to 1."""
    pieces = [grams(text) for text in texts]
    having: dict[Tokens, list[int]] = defaultdict(list)
    for at, some in enumerate(pieces):
        for gram in some:
            having[gram].append(at)
    most = [0.0] * len(texts)
    for other in {grams(other) for other in others}:
        for at, shared in Counter(at for gram in other for at in having.get(gram, ())).items():
            most[at] = max(most[at], shared / (len(other) + len(pieces[at]) - shared))
    return most


def grams(text: Tokens) -> frozenset[Tokens]:
    """Runs of 3 tokens; a shorter text is one run."""
    return frozenset(text[at : at + GRAM] for at in range(max(1, len(text) - GRAM + 1)))


def _without_template(safety: list[Tokens], user: list[Tokens]) -> list[Tokens]:
    """The safety prompts, then the user's, without the tokens that all safety prompts begin or end with."""
    first, shortest = safety[0], min(map(len, safety))
    before = next((n for n in range(shortest) if any(t[n] != first[n] for t in safety)), shortest)
    after = next((n for n in range(shortest - before) if any(t[-1 - n] != first[-1 - n] for t in safety)), 0)
    return [text[before : len(text) - after] for text in (*safety, *user)]
