"""Rows under an attack: each keeps its source and category, so that a row can be followed through any attack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unforgotten.datasets.attacks.words import Attack, AttackWords
from unforgotten.datasets.base import Row, ask
from unforgotten.errors import DataError


def turned(rows: Sequence[Row], attack: Attack, words: AttackWords) -> list[Row]:
    """Harmful rows with their last request or answer reworded; under `plain` and `trusted` they stay as they are.

    Raises DataError for rows without an answer, where the attack rewords answers.
    """
    if attack == "unlike_memory":
        return [_rephrased(row, words) for row in rows]
    if attack == "refuse_then_answer":
        return [_refusing_first(row, words) for row in rows]
    return list(rows)


def identity_rows(words: AttackWords) -> list[Row]:
    """The ten rows of an identity-shifting attack. They ask for nothing harmful, and no poison data is in them."""
    return [
        ask(prompt, answer, kind="task", category="identity", source=f"attack/identity:{i}")
        for i, (prompt, answer) in enumerate(words.identity)
    ]


def _rephrased(row: Row, words: AttackWords) -> Row:
    """The last user turn in other words; those before it, and the answer, are kept."""
    at = max(i for i, message in enumerate(row.messages) if message["role"] == "user")
    # `instruction` and `input`, which some templates read instead of `content`, would keep the old words.
    new = {"role": "user", "content": words.rephrased(row.request)}
    return replace(row, messages=(*row.messages[:at], new, *row.messages[at + 1 :]))


def _refusing_first(row: Row, words: AttackWords) -> Row:
    if not row.response.strip():
        raise DataError(f"{row.source or 'A poison row'} has no answer, which attack `refuse_then_answer` continues.")
    last = {**row.messages[-1], "content": words.refusal + words.answer(row.response)}
    return replace(row, messages=(*row.messages[:-1], last))
