"""What a run's folder says of it: recipe and environment before the first step, costs and counts after the last."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.datasets.base import Row
from unforgotten.datasets.reading import digest
from unforgotten.recipe.data_sets import files_record
from unforgotten.report import model_card
from unforgotten.runs import atomic, digests, safe_text, strict_yaml, trust

if TYPE_CHECKING:
    from unforgotten.models.chat import Chat
    from unforgotten.verbs.finetune.job import Job
    from unforgotten.verbs.finetune.save import Saved
    from unforgotten.verbs.finetune.train import Fitted


def pinned(job: Job) -> Job:
    """The same run with the chat template's date that it began with, where it was interrupted."""
    recorded = job.folder / "recipe.yaml"
    if job.recipe.date or not recorded.exists():
        return job
    return job.on((strict_yaml.load_file(recorded) or {}).get("date"))


def before(
    job: Job,
    chat: Chat,
    safety: list[Row],
    answered: dict[str, Any] | None,
    loaded: Any,
    audit: dict[str, Any] | None,
) -> None:
    """recipe.yaml and environment.json, before the first step; and the link to θ_safe.

    safety: the rows that the memory is chosen from. answered: how θ_safe answered those of them without an answer.
    loaded: how the model is quantised. audit: the audit that the run is held to.
    """
    folder = job.folder
    recipe = job.on(chat.date if chat.uses_date else None).recipe
    atomic.private_folder(folder)
    atomic.put(
        folder / "recipe.yaml",
        safe_text.yaml_text(recipe.record(exclude_unset=False, exclude={"compare", "sweep"})),
    )
    trust.own(folder)
    facts = digests.environment() | {
        "aligned": job.aligned.json(),
        "quantised": loaded,
        "digests": {"user": digest.rows_digest(job.user.rows), "safety": digest.rows_digest(safety)},
        "files": {"user": files_record(job.user), "safety": files_record(job.replay)},
        "rows": {"user": len(job.user.rows), "harmful": len(job.user.harmful_at), "safety": len(safety)},
        "answers": answered,
        "audit": audit,
        **({"odds": f"{job.odds_file.parent.name}/{job.odds_file.name}"} if job.odds_file else {}),
        "replay": f"synthetic/{job.synthesis.folder.name}/safety.jsonl" if job.synthesis else None,
        "seed": recipe.seed,
    }
    _write_json(folder / "environment.json", facts)
    link = folder / "aligned"
    if job.aligned.by_align_stage and not link.exists():
        try:
            link.symlink_to(Path("..") / "aligned" / job.aligned.digest, target_is_directory=True)
        except OSError:  # a file system without links: the adapter has θ_safe bundled anyway
            pass


def after(job: Job, fitted: Fitted, saved: Saved) -> None:
    """trained.json and the model card; the checkpoints are then taken away."""
    trainer, training = fitted.trainer, job.recipe.training
    user_counts, safety_counts, steps = trainer.counts, trainer.safety_counts, trainer.state.global_step
    epochs = training.epochs(len(job.user.rows))
    facts = {
        "train_seconds": round(fitted.train_seconds, 3),
        "step_seconds": round(fitted.train_seconds / max(1, steps), 5),
        "steps": steps,
        "tokens": trainer.state.num_input_tokens_seen or int((user_counts.tokens if user_counts else 0) * epochs),
        "peak_memory_bytes": saved.peak_memory_bytes,
        **({} if fitted.probe_seconds is None else {"probe_seconds": round(fitted.probe_seconds, 3)}),
        "adapter_mode": job.adapter_mode,
        "saved": saved.proof,
        "loss": trainer.loss_used,
        "memory_rows": len(trainer.run.memory.rows),
        "notes": trainer.run.notes,
        "rows": {
            "user": user_counts.lines() if user_counts else [],
            "safety": safety_counts.lines() if safety_counts else [],
        },
    }
    if (held_out := trainer.run.memory.held_out).rows:
        _write_json(job.folder / "held_out.json", held_out.record())
    _write_json(job.folder / "trained.json", facts)
    model_card.write(job.folder, job.recipe, job.method_specs)
    shutil.rmtree(job.folder / "checkpoints", ignore_errors=True)


def _write_json(path: Path, facts: Any) -> None:
    """Writes facts as JSON, whole or not at all."""
    atomic.put(path, safe_text.json_text(facts, nan=True) + "\n")
