"""The prompts of an evaluation in two parts: one to choose settings on, one held out for the chosen setting alone.

One request stays on one side: prompts of the same words, near copies (contamination.py), and requests or look-alikes
that their set gives the same answer, in whatever suite they stand. Of a task's questions only copies are kept together:
they share a form by nature. A prompt's part depends on its words alone, not on order, seed or other prompts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from unforgotten.datasets.base import Row
from unforgotten.datasets.reading.similar import alike, normalised
from unforgotten.errors import RecipeError
from unforgotten.evaluation.suite_stages import Suite


@dataclass
class Halves:
    """Both sides of a split, suite by suite."""

    development: list[Suite]
    held_out: list[Suite]
    dropped: int = 0
    """Prompts for development that were held-out ones too, and are not asked."""


def halves(suites: Sequence[Suite], share: float) -> Halves:
    """About `share` of the prompts for development. Raises RecipeError where a suite is left without any on a side."""
    chosen: set[str] = set()
    for group in _groups(suites):
        if _place(group) < share:
            chosen |= group
    development = [_part(suite, chosen, True) for suite in suites]
    held_out = [_part(suite, chosen, False) for suite in suites]
    for side, purpose in ((development, "for development"), (held_out, "to be held out")):
        for suite in side:
            if not suite.rows:
                raise RecipeError(
                    f"evaluate.{suite.kind}: of the {len(_whole(suites, suite))} prompts of {suite.label!r}, none is "
                    f"left {purpose}. Give more, change sweep.share, or name separate sets in sweep.development."
                )
    return Halves(development, held_out)


def parts(suites: Sequence[Suite], n: int, mend: str) -> list[list[Suite]]:
    """The prompts in n parts of about one size: each part's suites. mend: what a user can do where prompts are too few.

    Raises RecipeError where a suite is left without any prompt in a part.
    """

    def refuse(suite: Suite) -> None:
        whole = len(_whole(suites, suite))
        raise RecipeError(
            f"evaluate.{suite.kind}: the {whole} prompts of {suite.label!r} are too few for {n} parts. {mend}"
        )

    for suite in suites:
        if len(suite.rows) < n:  # before so many parts are made
            refuse(suite)
    chosen: list[set[str]] = [set() for _ in range(n)]
    for group in _groups(suites):
        chosen[int(n * _place(group))] |= group
    split = [[_part(suite, keys, True) for suite in suites] for keys in chosen]
    for suite in (suite for part in split for suite in part):
        if not suite.rows:
            refuse(suite)
    return split


def _place(group: set[str]) -> float:
    """From 0 to 1, by one of a group, which speaks for all: whoever joins it seldom moves it."""
    return int.from_bytes(hashlib.sha256(min(group).encode()).digest()[:8], "big") / 2**64


def apart(development: Sequence[Suite], held_out: Sequence[Suite]) -> Halves:
    """Split by separate data sets; drops development prompts that (nearly) repeat a held-out prompt."""
    left, dropped = [], 0
    for suite in development:
        task = suite.kind == "utility"
        theirs = {
            normalised(row.request) for other in held_out for row in other.rows if (other.kind == "utility") == task
        }
        near = set() if task else _near(theirs, {normalised(row.request) for row in suite.rows})
        rows = [row for row in suite.rows if normalised(row.request) not in theirs | near]
        if not rows:
            raise RecipeError(
                f"sweep.development.{suite.kind}: every prompt of {suite.label!r} (nearly) repeats one of "
                "`evaluate`. Leave `development` out, and a share of the prompts is held out."
            )
        dropped += len(suite.rows) - len(rows)
        left.append(replace(suite, rows=rows))
    return Halves(left, list(held_out), dropped)


def _near(ours: set[str], theirs: set[str]) -> set[str]:
    return {text for text, like in alike(ours | theirs).items() if text in theirs and like & ours}


def _whole(suites: Sequence[Suite], suite: Suite) -> Sequence[Row]:
    return next(other.rows for other in suites if other.label == suite.label)


def _part(suite: Suite, chosen: set[str], wanted: bool) -> Suite:
    return replace(suite, rows=[row for row in suite.rows if (_key(suite, row) in chosen) == wanted])


def _key(suite: Suite, row: Row) -> str:
    """Words, marked by whether they are a task's question: a request and a question of one wording are two things."""
    return f"{'task' if suite.kind == 'utility' else 'request'} {normalised(row.request)}"


def _groups(suites: Sequence[Suite]) -> Iterator[set[str]]:
    """Prompts that must stay together, by their keys."""
    requests = {_key(s, row).removeprefix("request ") for s in suites if s.kind != "utility" for row in s.rows}
    links = [{f"request {text}" for text in like | {text}} for text, like in alike(requests).items()]
    answered: dict[str, set[str]] = {}
    for suite in suites:
        for row in suite.rows:
            if suite.kind == "utility":
                links.append({_key(suite, row)})
            elif row.answer:
                answered.setdefault(row.answer, set()).add(_key(suite, row))
    group_of: dict[str, set[str]] = {}
    for link in [*links, *answered.values()]:
        joined = set().union(link, *(group_of[key] for key in link if key in group_of))
        for key in joined:
            group_of[key] = joined
    yield from {id(group): group for group in group_of.values()}.values()
