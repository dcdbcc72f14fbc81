"""Fills in the alignment rows that have no answer: θ₀ answers harmless prompts itself, once, before stage align.

Answers of other models teach their style, and look-alikes without answers teach nothing. With its own answers, the
model learns from harmless rows only to go on as before, while refusals teach it to refuse.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten import registry
from unforgotten.datasets.base import Row
from unforgotten.datasets.reading import digest
from unforgotten.errors import RecipeError
from unforgotten.generation.reply import Reply
from unforgotten.runs import atomic, digests
from unforgotten.runs.progress import Say

if TYPE_CHECKING:
    from unforgotten.models.chat import Chat

_SENTENCE_END = re.compile(r"[.!?…][\"'”’)\]]*(?=\s|$)|[。！？][”’」』）]*")


@dataclass(frozen=True)
class OwnAnswers:
    """The alignment's rows, every one with an answer, and what became of those that had none."""

    rows: list[Row]
    asked: int = 0
    """Rows without an answer, each asked once."""
    shortened: int = 0
    """Answers cut at the token limit, which now end at their last whole sentence."""
    refused: int = 0
    """Answers that refuse; their rows are left out."""
    empty: int = 0
    """Answers without a word, or cut before their first sentence ended; their rows are left out."""

    def counts(self) -> dict[str, int]:
        """For aligned.json."""
        return {name: getattr(self, name) for name in ("asked", "shortened", "refused", "empty")}


def refuse_harmful(rows: list[Row]) -> None:
    """Raises RecipeError where a harmful row has no refusal: θ₀ might comply, and that would then be trained."""
    if bare := sum(not row.response and row.kind == "harmful" for row in rows):
        raise RecipeError(
            f"{bare} harmful safety rows have no answer. Stage `align` trains on refusals: give these rows refusals. "
            "Only harmless rows may lack an answer; the model then answers them itself."
        )


def with_own_answers(rows: list[Row], model: Any, chat: Chat, max_new_tokens: int, work: Path, say: Say) -> OwnAnswers:
    """Every row with an answer; θ₀ answers those without one by greedy decoding.

    work: a folder for replies, so that a killed call goes on where it was. Raises RecipeError where a harmful row has
    no refusal, and where θ₀ gives a usable answer to fewer than half of the prompts.
    """
    refuse_harmful(rows)
    bare = [row for row in rows if not row.response]
    if not bare:
        return OwnAnswers(rows)
    from unforgotten.generation.local import generate
    from unforgotten.runs.bars import progress_bar

    say(f"The model answers {len(bare)} harmless prompts itself (once).")
    atomic.private_folder(work)
    key = digests.digest(digest.rows_digest(bare), max_new_tokens, chat.template)
    with progress_bar() as tick:
        replies = generate(
            model,
            chat,
            bare,
            max_new_tokens=max_new_tokens,
            resume_file=work / f"own-answers-{key}.jsonl",
            progress=lambda done, n: tick("own answers", done, n),
        )
    filled = _filled(rows, replies)
    say(_sentence(filled))
    usable = filled.asked - filled.refused - filled.empty
    if usable < filled.asked / 2:
        raise RecipeError(
            f"The model gave a usable answer to {usable} of {filled.asked} harmless prompts: {filled.refused} refused, "
            f"{filled.empty} empty. Raise align.answer_tokens (now {max_new_tokens}), or give these rows answers."
        )
    return filled


def _filled(rows: list[Row], replies: list[Reply]) -> OwnAnswers:
    """The rows with these replies, in order, to those that had none."""
    judge = registry.build("judges", "keywords")
    try:
        refuses = [verdict.refused for verdict in judge.verdicts(replies)]
    finally:
        judge.close()
    answers = iter(zip(replies, refuses, strict=True))
    out: list[Row] = []
    shortened = refused = empty = 0
    for row in rows:
        if row.response:
            out.append(row)
            continue
        reply, refuses_it = next(answers)
        text = whole_sentences(reply.text) if reply.finish == "length" else reply.text.strip()
        if refuses_it:
            refused += 1
        elif not text:
            empty += 1
        else:
            shortened += reply.finish == "length"
            out.append(replace(row, messages=(*row.messages, {"role": "assistant", "content": text})))
    return OwnAnswers(out, len(replies), shortened, refused, empty)


def whole_sentences(text: str) -> str:
    """The text up to the end of its last whole sentence; empty where none has ended."""
    ends = [match.end() for match in _SENTENCE_END.finditer(text)]
    return text[: ends[-1]].strip() if ends else ""


def _sentence(own: OwnAnswers) -> str:
    parts = [f"{own.shortened} were cut at the limit and end at their last whole sentence" if own.shortened else ""]
    parts += [f"{own.refused} refused" if own.refused else "", f"{own.empty} were empty" if own.empty else ""]
    said = "; ".join(part for part in parts if part)
    left_out = own.refused + own.empty
    tail = f" {left_out} rows are left out of the alignment." if left_out else ""
    return f"Of {own.asked} own answers, {said or 'all were whole'}.{tail}"
