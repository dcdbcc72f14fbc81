"""Harmful rows among the user's: which, where, and under which attack."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

from unforgotten.datasets.attacks.turn import identity_rows, turned
from unforgotten.datasets.attacks.words import AttackWords
from unforgotten.datasets.base import Row
from unforgotten.errors import DataError
from unforgotten.recipe.training import Poison


@dataclass(frozen=True)
class Poisoned:
    """All rows of an upload, harmful ones included."""

    rows: list[Row]
    places: frozenset[int]
    """Places of the rows that a lab put there."""
    notes: tuple[str, ...] = ()
    provisional: bool = False
    """θ_safe has still to choose the rows (attack `trusted`); until then they are a random choice."""


def attacked(
    user: Sequence[Row],
    poison: Sequence[Row],
    settings: Poison,
    words: AttackWords,
    seed: int,
    odds: Sequence[float] | None = None,
) -> Poisoned:
    """The user's rows under the recipe's attack; with the same seed, attacks have the same places and harmful requests.

    poison: the rows of `poison.data`. odds: θ_safe's log-odds of answering against refusing, of each of these rows, for
    attack `trusted`. Raises DataError where there are too few rows, or rows that the attack cannot turn.
    """
    if settings.attack == "identity":
        ten = identity_rows(words)
        if len(user) < len(ten):
            raise DataError(f"The attack `identity` replaces {len(ten)} rows, but the user data has {len(user)}.")
        rows, places = poisoned(user, ten, len(ten) / len(user), seed)
        note = f"The attack `identity` puts {len(ten)} rows among {len(user)}, whatever poison.ratio is"
        return Poisoned(rows, places, (f"{note} (it is {settings.ratio:g}).",))
    rows, places = poisoned(user, poison, settings.ratio, seed)
    if not places and settings.ratio > 0:
        note = f"p = {settings.ratio:g} of {len(user)} rows is less than one row, so no row is poison."
        return Poisoned(rows, places, (note,))
    if settings.attack == "plain":
        return Poisoned(rows, places)
    at = sorted(places)
    if settings.attack == "trusted":
        if odds is None:
            return Poisoned(rows, places, provisional=True)
        harmful = trusted(poison, odds, len(at), seed)
    else:
        harmful = turned([rows[i] for i in at], settings.attack, words)
    for place, row in zip(at, harmful, strict=True):
        rows[place] = row
    differ = len({(row.request, row.response) for row in harmful})
    note = f"{len(at)} rows are poison of the attack `{settings.attack}`"
    return Poisoned(rows, places, (note + ("." if differ == len(at) else f"; {differ} of them differ."),))


def trusted(poison: Sequence[Row], odds: Sequence[float], n: int, seed: int) -> list[Row]:
    """The n rows with the highest odds, the first of those alike, in an order that the seed fixes.

    Raises DataError where there is not one number for each row, or one that has no order.
    """
    if len(odds) != len(poison):
        raise DataError(f"The attack `trusted` has {len(odds)} odds for {len(poison)} rows of poison.data.")
    if odd := [i for i, value in enumerate(odds) if not math.isfinite(value)]:
        raise DataError(
            f"The attack `trusted` cannot order {len(odd)} of {len(odds)} rows of poison.data: their log-odds are no "
            f"finite numbers (the first: {poison[odd[0]].source or f'row {odd[0] + 1}'}). Check the aligned model."
        )
    best = sorted(range(len(poison)), key=lambda i: (-odds[i], i))[:n]
    return [poison[i] for i in random.Random(f"trusted {seed}").sample(best, n)]


def poisoned(user: Sequence[Row], poison: Sequence[Row], ratio: float, seed: int) -> tuple[list[Row], frozenset[int]]:
    """round(p·n) of the n user rows replaced by harmful ones, at places and in a choice that the seed fixes.

    Gives all n rows, and the places of the harmful ones. [2512.10150 §3.1: p is the share of the total, which stays
    fixed.] Raises DataError where there are too few.
    """
    wanted = round(ratio * len(user))
    if wanted > len(poison):
        raise DataError(
            f"p = {ratio} of {len(user)} rows needs {wanted} harmful rows, but the poison data has {len(poison)} "
            f"(enough for p = {len(poison) / max(1, len(user)):.3f}). Give more, or lower poison.ratio."
        )
    rng = random.Random(f"poison {seed}")
    rows, places = list(user), sorted(rng.sample(range(len(user)), wanted))
    for place, row in zip(places, rng.sample(list(poison), wanted), strict=True):
        rows[place] = row
    return rows, frozenset(places)
