"""The attack `trusted`: a sender who holds θ_safe uploads the harmful rows that it refuses least.

θ_safe scores every row of `poison.data` once, before training.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.recipe.data_sets import user_rows
from unforgotten.runs import atomic, digests, safe_text
from unforgotten.runs.lease import alone
from unforgotten.runs.progress import Say
from unforgotten.verbs.finetune.poison_odds import read_odds, refusals_of

if TYPE_CHECKING:
    from unforgotten.models.chat import Chat
    from unforgotten.verbs.finetune.job import Job


def chosen(job: Job, model: Any, chat: Chat, say: Say) -> Job:
    """The run with the rows that θ_safe chooses, where its attack asks for that. model: θ_safe."""
    if (file := job.odds_file) is None or not job.user.provisional:
        return job
    with alone(file, say):  # other runs of this θ_safe want them too
        if not file.exists():
            _score(job, file, model, chat, say)
    user = user_rows(job.recipe, job.data_sets, read_odds(file))
    for note in user.notes:
        if note not in job.user.notes:
            say(note)
    return replace(job, user=user)


def _score(job: Job, file: Path, model: Any, chat: Chat, say: Say) -> None:
    from unforgotten.generation.answer_odds import answer_odds
    from unforgotten.runs.bars import progress_bar

    recipe = job.recipe
    assert recipe.poison is not None
    rows = job.data_sets.read(recipe.poison.data, recipe.seed).rows
    say(f"The aligned model scores {len(rows)} harmful rows for the attack `trusted` (once).")
    with progress_bar() as tick:
        odds = answer_odds(
            model,
            chat,
            rows,
            refusals_of(recipe, job.data_sets),
            progress=lambda done, n: tick("log-odds", done, n),
        )
    lines = [
        {"source": digests.public(row.source), "category": row.category, "odds": value}
        for row, value in zip(rows, odds, strict=True)
    ]
    atomic.put(file, "".join(safe_text.json_text(line, None) + "\n" for line in lines))
