"""θ_safe in memory, as a run starts from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unforgotten.models.locate_aligned import aligned_chat
from unforgotten.runs.progress import Say

if TYPE_CHECKING:
    from pathlib import Path

    from unforgotten.models.chat import Chat
    from unforgotten.verbs.finetune.job import Job


@dataclass(frozen=True)
class Start:
    """θ_safe before any fresh adapter."""

    model: Any
    chat: Chat
    base: str
    """The base that a saved adapter names: a folder or Hub id."""


def load_start(job: Job, say: Say) -> Start:
    """θ_safe, ready for the run's adapter mode. A base that no other folder holds is written into the run."""
    from unforgotten.models import load

    model, chat = _loaded(job)
    aligned = job.aligned
    if job.adapter_mode in ("stack", "continue"):
        return Start(model, chat, aligned.base)
    base = str(aligned.full)
    if job.adapter_mode == "merge" and aligned.full is None:
        model, deviation = load.merged(model, chat.prompt(job.user.rows[0]))
        say(f"Merged {aligned.adapter} into its base in fp32 (largest deviation of a logit: {deviation:.1e}).")
        base = str(_write_merged(model, chat, job.folder))
    elif job.adapter_mode == "merge" and load.is_bundled(base):
        base = str(_write_merged(model, chat, job.folder))  # what is bundled there is the base below its adapter
    return Start(model, chat, base)


def _loaded(job: Job) -> tuple[Any, Chat]:
    from unforgotten.models import load
    from unforgotten.models.adapters import ALIGNED

    recipe, aligned, mode = job.recipe, job.aligned, job.adapter_mode
    chat = aligned_chat(recipe, aligned)
    if mode in ("merge", "full") and aligned.full is not None:
        revision = None if aligned.by_align_stage else aligned.revision
        return load.load_model(
            aligned.full, revision=revision, dtype=recipe.dtype, merge=True, load_in=recipe.load_in, trains=True
        ), chat
    assert aligned.adapter is not None
    model = load.load_model(
        aligned.base, revision=aligned.revision, dtype=recipe.dtype, load_in=recipe.load_in, trains=True
    )
    name = ALIGNED if mode == "stack" else "default"
    return load.put_adapter(model, aligned.adapter, name, trainable=mode == "continue"), chat


def _write_merged(model: Any, chat: Chat, folder: Path) -> Path:
    target = folder / "merged"
    model.save_pretrained(target)
    chat.save(target)
    return target
