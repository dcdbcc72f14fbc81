"""A prompt with the first words of its answer: what a client forces who may write the beginning of a reply."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from unforgotten.errors import TemplateError
from unforgotten.models.chat.thinking import begun_by

if TYPE_CHECKING:
    from unforgotten.datasets.base import Row
    from unforgotten.models.chat.chat import Chat


def opening_ids(chat: Chat, row: Row, opening: str) -> tuple[list[int], list[int]]:
    """The prompt's ids, and those of an answer's first words as training has them: boundaries of tokens included.

    Raises TemplateError where the template begins a thought or an answer in another way, and for words that the
    tokenizer does not know.
    """
    prompt, name = chat.prompt(row), row.source or "the prompt"
    if begun_by(chat, prompt):
        raise TemplateError(
            f"{name}: the chat template begins each reply with a thought, so {opening!r} would not open the answer. "
            "Switch thoughts off (variables: {enable_thinking: false}), or leave out evaluate.prefill."
        )
    before = row.prompt
    answered = replace(
        row,
        messages=(*before, {"role": "assistant", "content": opening}),
        context_turns=frozenset(i for i, message in enumerate(before) if message["role"] == "assistant"),
    )
    ids = chat.examples(answered)[0][-1].input_ids[:-1]  # without the end of the turn
    said = ids[len(prompt) :]
    if ids[: len(prompt)] != prompt or chat.decode(said).strip().casefold() != opening.casefold():
        raise TemplateError(
            f"{name}: an answer cannot be made to begin with {opening!r}. The template or the tokenizer writes "
            f"{chat.decode(said)[:80]!r} instead. Choose other words for evaluate.prefill."
        )
    return prompt, said


def begin(chat: Chat, rows: Sequence[Row], openings: Sequence[str] = ()) -> list[tuple[list[int], list[int]]]:
    """The ids of each row's prompt, and of the words that its reply is forced to begin with."""
    if not openings:
        return [(chat.prompt(row), []) for row in rows]
    return [opening_ids(chat, row, opening) for row, opening in zip(rows, openings, strict=True)]
