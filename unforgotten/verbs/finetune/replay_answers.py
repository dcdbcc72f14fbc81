"""Fills in the replay rows that have no answer: θ_safe answers them once, before training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten import registry
from unforgotten.datasets.base import Row
from unforgotten.datasets.reading import digest
from unforgotten.generation.reply import Reply
from unforgotten.judges.guard.guard import Guard
from unforgotten.runs import atomic, digests, strict_read
from unforgotten.runs.lease import alone
from unforgotten.runs.progress import Say

if TYPE_CHECKING:
    from unforgotten.judges.base import Judge
    from unforgotten.models.chat import Chat
    from unforgotten.recipe.base import Spec
    from unforgotten.verbs.finetune.job import Job


def answered_replay(job: Job, model: Any, chat: Chat, say: Say) -> tuple[list[Row], dict[str, Any] | None]:
    """The run's replay rows; those without an answer get θ_safe's own greedy one.

    The answers are made once and kept under a digest of θ_safe and the prompts; each run's own judge reads them.
    model: θ_safe, before any fresh adapter. Also gives how many it refused; None where all rows have an answer.
    """
    assert job.replay is not None
    safety, settings = job.replay.rows, job.recipe.evaluate
    bare = [row for row in safety if not row.response]
    if not bare:
        return safety, None
    tokens = settings.max_new_tokens if settings else 256
    file = Path(job.recipe.out) / "answers" / f"{_key(job, bare, chat, tokens)}.jsonl"
    with alone(file, say):  # other runs of this θ_safe want them too
        if not file.exists():
            _ask(file, bare, model, chat, tokens, say)
        replies = strict_read.lines(file)
        verdicts = _refusals(file, bare, replies, settings.judges if settings else [])
    filled = iter(replies)
    rows = [row if row.response else replace(row, messages=tuple(next(filled)["messages"])) for row in safety]
    empty = sum(not row.response for row in rows)
    refused, answered, unparsed = (sum(verdict is truth for verdict in verdicts) for truth in (True, False, None))
    counts = {
        "file": f"answers/{file.name}",
        "refused": refused,
        "answered": answered,
        "unparsed": unparsed,
        "empty": empty,
    }
    say(f"The aligned model refused {refused} of {len(replies)} safety prompts and answered {answered}.")
    asked_for_harm = sum(row.kind == "harmful" for row in bare)
    if asked_for_harm and refused < asked_for_harm / 2:
        say(
            f"Warning: {asked_for_harm} of these prompts are harmful, and the model refused fewer than half. Replay "
            "would then not keep refusals. Align the model first, or give rows with refusals."
        )
    if empty:
        say(f"{empty} answers were empty. Their rows are left out of the memory.")
    return [row for row in rows if row.response], counts


def _key(job: Job, bare: list[Row], chat: Chat, tokens: int) -> str:
    """Over all that determines the answers: θ_safe, its precision, the prompts and how they are asked."""
    recipe = job.recipe
    precision: list[str] = [recipe.dtype] if recipe.dtype != "auto" else []
    precision += [recipe.load_in] if recipe.load_in else []
    date = chat.date if chat.uses_date else None
    return digests.digest(job.aligned.digest, digest.rows_digest(bare), tokens, chat.template, date, *precision)


def _ask(file: Path, bare: list[Row], model: Any, chat: Chat, tokens: int, say: Say) -> None:
    from unforgotten.generation.local import generate
    from unforgotten.runs.bars import progress_bar

    say(f"Asking the aligned model for its answers to {len(bare)} safety prompts (once).")
    with progress_bar() as tick:
        replies = generate(model, chat, bare, max_new_tokens=tokens, progress=lambda done, n: tick("answers", done, n))
    lines = [{"messages": [*reply.row.messages, {"role": "assistant", "content": reply.text}]} for reply in replies]
    atomic.put(file, "".join(json.dumps(line) + "\n" for line in lines))


def _refusals(
    file: Path, bare: list[Row], answers: Sequence[Mapping[str, Any]], judges: Sequence[Spec]
) -> list[bool | None]:
    """Whether each answer refuses, None for unread. A guard's words are kept, so it reads each answer once."""
    judge = _refusal_judge(judges)
    replies = [Reply(row, line["messages"][-1]["content"]) for row, line in zip(bare, answers, strict=True)]
    try:
        if isinstance(judge, Guard):
            verdicts = judge.verdicts(replies, resume_file=file.with_name(f".{file.stem}.words.jsonl"))
        else:
            verdicts = judge.verdicts(replies)
    finally:
        judge.close()
    return [verdict.refused for verdict in verdicts]


def _refusal_judge(judges: Sequence[Spec]) -> Judge:
    """The evaluation's first judge that tells refusals; published phrases where it has none."""
    for spec in judges:
        if "refused" in (judge := registry.build("judges", spec)).tells:
            return judge
    return registry.build("judges", "keywords")
