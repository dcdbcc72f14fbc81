"""The trainer of a run: built from what the run was resolved to, and run to its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.datasets.base import Row
from unforgotten.runs import bars, digests
from unforgotten.runs.lease import Lease
from unforgotten.runs.progress import Say

if TYPE_CHECKING:
    from unforgotten.evaluation.probe import Prober
    from unforgotten.training.callbacks import Metrics
    from unforgotten.training.probe_callback import ProbeCallback
    from unforgotten.training.trainer import MethodTrainer
    from unforgotten.verbs.finetune.job import Job
    from unforgotten.verbs.finetune.start_model import Start


@dataclass(frozen=True)
class Fitted:
    """What a training came to."""

    trainer: MethodTrainer
    """With θ*, in memory."""
    train_seconds: float
    probe_seconds: float | None
    """None where the recipe has no probe."""


def fit(job: Job, start: Start, safety: list[Row], lease: Lease, say: Say) -> Fitted:
    """θ*, trained from the newest checkpoint where there is one. safety: the rows that the memory is chosen from."""
    from unforgotten.training import callbacks

    bars.phase("preparing the training")
    bar, metrics = callbacks.Bar(job.method_names), callbacks.Metrics(job.folder / "metrics.jsonl")
    trainer = _trainer(job, start, safety, say, [callbacks.Claimed(lease), bar, metrics])
    for line in trainer.counts.lines()[1:] if trainer.counts else []:
        say(f"User rows: {line}.")
    probed, book = _probe(job, start, trainer, metrics) if job.recipe.probe else (None, None)
    try:
        trainer.train(resume_from_checkpoint=True)
        if probed:
            probed.result()
    finally:
        bar.close()
    for note in trainer.run.notes:
        say(f"Note: {note}.")
    return Fitted(trainer, metrics.seconds, book.seconds if book else None)


def _trainer(job: Job, start: Start, safety: list[Row], say: Say, watching: list[Any]) -> MethodTrainer:
    from transformers import PrinterCallback, set_seed

    from unforgotten.evaluation.aligned_replies import AlignedReplies
    from unforgotten.models import adapters, load
    from unforgotten.training.arguments import TENSORBOARD, arguments, tensorboard
    from unforgotten.training.replay_memory import Memory
    from unforgotten.training.trainer import MethodTrainer

    recipe, checkpoints = job.recipe, job.folder / "checkpoints"
    set_seed(recipe.seed)
    model, config = start.model, load.lora_config(recipe.lora) if recipe.lora else None
    if job.adapter_mode == "stack":
        model, config = adapters.stack(model, config), None
    if TENSORBOARD in recipe.report_to:
        watching = [*watching, tensorboard(job.folder / TENSORBOARD, checkpoints)]
    trainer = MethodTrainer(
        model=model,
        args=arguments(
            recipe.training, checkpoints, recipe.seed, recipe.report_to, job.folder.name, _tracked_facts(job)
        ),
        train_dataset=job.user.rows,
        safety_dataset=safety,
        processing_class=start.chat.tokenizer,
        chat=start.chat,
        replies=AlignedReplies(start.chat, Path(recipe.out) / "answers", say=say),
        lists_folder=job.folder,
        peft_config=None if job.adapter_mode == "continue" else config,
        method=job.methods,
        unaligned_model=job.unaligned_model,
        memory=Memory(**recipe.memory.model_dump()),
        max_length=recipe.training.max_length,
        loss=recipe.training.loss,
        log_distance=bool(recipe.report_to),
        save_on_sigterm=True,
        callbacks=watching,
    )
    trainer.run.digest = job.digest
    trainer.remove_callback(PrinterCallback)
    return trainer


def _tracked_facts(job: Job) -> dict[str, Any]:
    """What trackers are told of the run, without paths of this machine."""
    left_out = {"compare", "evaluate", "synthesize", "out", "report_to"}
    facts = job.recipe.record(exclude=left_out) | {"method": job.method_names, "digest": job.digest}
    facts["methods"] = {m["name"]: {k: v for k, v in m.items() if k != "name"} for m in job.method_specs}
    return dict(digests.public(facts))


def _probe(job: Job, start: Start, trainer: MethodTrainer, metrics: Metrics) -> tuple[ProbeCallback, Prober]:
    """Puts the recipe's probe on the trainer."""
    from unforgotten.evaluation.probe import Prober
    from unforgotten.evaluation.suites import suites
    from unforgotten.training.probe_callback import ProbeCallback

    recipe = job.recipe
    assert recipe.probe is not None and recipe.evaluate is not None
    every = suites(recipe.evaluate, sets=job.data_sets)
    book = Prober(recipe.evaluate, recipe.probe.prompts, every, job.folder, start.chat, job.user.clean)
    probed = ProbeCallback(trainer, recipe.probe.every_steps, book, metrics)
    trainer.add_callback(probed)
    return probed, book
