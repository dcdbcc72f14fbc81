"""Stage finetune: θ_safe becomes θ* on the user's rows, with a method that keeps safety.

runs/<name>-<digest>/
  recipe.yaml environment.json     before the first step
  aligned -> ../aligned/<digest>   where stage align made θ_safe
  metrics.jsonl                    a line per logged step
  probe.jsonl probe/               where the recipe has a probe: a line per probed step, and the replies
  adapter/ or model/               θ*, with tokenizer, chat template and model card
  README.md                        the model card; `evaluate` puts the figures in
  trained.json                     cost and counts; written last, and the run is not trained again
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.datasets.base import Row
from unforgotten.errors import DataError, UnforgottenError
from unforgotten.models.aligned import aligned_chat
from unforgotten.recipe.aligned import Aligned
from unforgotten.recipe.rows import user_rows
from unforgotten.report import model_card
from unforgotten.runs import digests, partial, strict_yaml, terminate
from unforgotten.runs.lease import Lease, alone
from unforgotten.runs.progress import Say, quiet
from unforgotten.verbs.align import align
from unforgotten.verbs.finetune.answers import answers
from unforgotten.verbs.finetune.inputs import (
    adapter_mode_for,
    base_for,
    method_names,
    method_specs,
    replay_rows,
    run_folder,
)
from unforgotten.verbs.finetune.record import peak_memory_bytes, write_json, write_record

if TYPE_CHECKING:
    from unforgotten.models.chat import Chat
    from unforgotten.recipe.recipe import Recipe


def finetune(recipe: Recipe, say: Say = quiet, *, audited: str | None = None) -> Path:
    """Trains θ* and returns the run folder; a finished run is not trained twice, an interrupted one goes on.

    audited: the file that `data audit --out` wrote; the run is held to the rows, template and length that it judged,
    and to its having passed its own limit. SIGTERM, in the main thread, saves the step that is under way and raises
    terminate.Terminated (exit code 143). Raises the errors of unforgotten.errors; what was complete before an error
    stays.
    """
    with terminate.handled():
        return _finetune(recipe, say, audited)


def _finetune(recipe: Recipe, say: Say, audited: str | None) -> Path:
    if recipe.evaluate:
        from unforgotten.evaluation.suites import check_sets

        check_sets(recipe.evaluate)  # a set that is named in the wrong place is told before hours of training
    try:
        folder = run_folder(recipe)
    except DataError as error:
        raise _with_rendering(recipe, error) from None
    if audited is not None:
        from unforgotten.verbs.audit.audit import recipe_chat

        _held(recipe, user_rows(recipe)[0], recipe_chat(recipe, say), audited)
    if (folder / "trained.json").exists():
        if recipe.probe and not (folder / "probe.jsonl").exists():
            say(f"{folder} was trained without a probe, which needs the training: move it away to have one.")
        return folder
    # Data and settings are checked whole before anything expensive is started.
    user, harmful = user_rows(recipe, say)
    if recipe.probe and recipe.evaluate:
        from unforgotten.evaluation.probe import chosen

        chosen(recipe.evaluate, recipe.probe.prompts)
    if recipe.load_in:
        from unforgotten.models import nf4

        nf4.check()
    if recipe.report_to or recipe.training.model_extra:
        from unforgotten.training.arguments import check_reports, check_values

        check_reports(recipe.report_to)
        check_values(recipe.training)
    where = align(recipe, say)
    safety = replay_rows(recipe, say)
    with alone(folder, say) as lease:
        if not (folder / "trained.json").exists():
            _train(recipe, folder, where, user, harmful, safety, lease, say, audited)
    return folder


def _with_rendering(recipe: Recipe, error: DataError) -> UnforgottenError:
    """What is wrong with the rows, with what the template refuses of the others."""
    from unforgotten.models.chat.faults import with_rendering
    from unforgotten.verbs.audit.audit import recipe_chat

    try:
        return with_rendering(error, recipe_chat(recipe)) if error.rows else error
    except UnforgottenError:  # the rows are what is told first
        return error


def _held(recipe: Recipe, user: Sequence[Row], chat: Chat, audited: str | None) -> dict[str, Any] | None:
    """What the record says of the audit that the run is held to; None without one. Raises RecipeError."""
    if audited is None:
        return None
    from unforgotten.verbs.audit import record

    return record.check(audited, user, chat, recipe.training.max_length)


def load_aligned(recipe: Recipe, where: Aligned, adapter_mode: str) -> tuple[Any, Chat]:
    """θ_safe ready for `adapter_mode`, before any fresh adapter; and its chat."""
    from unforgotten.models import load
    from unforgotten.models.adapters import ALIGNED

    chat = aligned_chat(recipe, where)
    if adapter_mode in ("merge", "full") and where.full is not None:
        revision = None if where.made else where.revision
        return load.load_model(
            where.full, revision=revision, dtype=recipe.dtype, merge=True, load_in=recipe.load_in, trains=True
        ), chat
    assert where.adapter is not None
    model = load.load_model(
        where.base, revision=where.revision, dtype=recipe.dtype, load_in=recipe.load_in, trains=True
    )
    name = ALIGNED if adapter_mode == "stack" else "default"
    return load.put_adapter(model, where.adapter, name, trainable=adapter_mode == "continue"), chat


def _train(
    recipe: Recipe,
    folder: Path,
    where: Aligned,
    user: list[Row],
    harmful: list[Row],
    safety: list[Row],
    lease: Lease,
    say: Say,
    audited: str | None = None,
) -> None:
    from transformers import PrinterCallback, set_seed

    from unforgotten.models import adapters, load
    from unforgotten.models import proof as saved
    from unforgotten.models.cache import Shelf
    from unforgotten.models.save import save_adapter
    from unforgotten.runs import bars
    from unforgotten.training import callbacks
    from unforgotten.training.arguments import arguments
    from unforgotten.training.memory import Memory
    from unforgotten.training.trainer import MethodTrainer

    bars.hush()
    if folder.exists() and (recorded := folder / "recipe.yaml").exists():
        date = (strict_yaml.load_file(recorded) or {}).get("date")
        recipe = recipe.model_copy(update={"date": recipe.date or date})
    says = f"Fine-tuning with {method_names(recipe)} on {len(user)} rows"
    say(says + (f", {len(harmful)} of them harmful." if harmful else "."))
    adapter_mode = adapter_mode_for(recipe, where)
    model, chat = load_aligned(recipe, where, adapter_mode)
    resolved = recipe.model_copy(update={"date": chat.date if chat.uses_date else None})
    base = where.base if adapter_mode in ("stack", "continue") else str(where.full)
    if adapter_mode == "merge" and where.full is None:
        model, deviation = load.merged(model, chat.prompt(user[0]))
        say(f"Merged {where.adapter} into its base in fp32 (largest deviation of a logit: {deviation:.1e}).")
        base = str(_keep_merged(model, chat, folder))
    elif adapter_mode == "merge" and load.is_bundled(base):
        base = str(_keep_merged(model, chat, folder))  # what is bundled there is the base below its adapter
    audit = _held(recipe, user, chat, audited)  # again, by the rows and the chat that are trained with
    if audit and audit["outcome"] is None:
        say("The audit set no limit (--max-p): this run is held to its rows, whatever the judge said of them.")
    safety, answered = answers(safety, model, chat, recipe, where, say)
    write_record(folder, resolved, where, user, harmful, safety, answered, load.loaded_as(model), audit)
    set_seed(recipe.seed)
    config = load.lora_config(recipe.lora) if recipe.lora else None
    if adapter_mode == "stack":
        model, config = adapters.stack(model, config), None
    bar, metrics = callbacks.Bar(method_names(recipe)), callbacks.Metrics(folder / "metrics.jsonl")
    trainer = MethodTrainer(
        model=model,
        args=arguments(
            recipe.training, folder / "checkpoints", recipe.seed, recipe.report_to, folder.name, _told(recipe, folder)
        ),
        train_dataset=user,
        safety_dataset=safety,
        processing_class=chat.tokenizer,
        chat=chat,
        peft_config=None if adapter_mode == "continue" else config,
        method=recipe.methods,
        unaligned_model=base_for(recipe, where),
        memory=Memory(**recipe.memory.model_dump()),
        max_length=recipe.training.max_length,
        loss=recipe.training.loss,
        log_distance=bool(recipe.report_to),
        save_on_sigterm=True,
        callbacks=[callbacks.Claimed(lease), bar, metrics, *_tensorboard(recipe, folder)],
    )
    trainer.run.of = folder.name.rpartition("-")[2]
    for line in trainer.counts.lines()[1:] if trainer.counts else []:
        say(f"User rows: {line}.")
    trainer.remove_callback(PrinterCallback)
    probe = _probed(trainer, recipe, folder, chat, user, harmful, metrics) if recipe.probe else None
    try:
        trainer.train(resume_from_checkpoint=True)
        if probe:
            probe.result()
    finally:
        bar.close()
    for note in trainer.run.notes:
        say(f"Note: {note}.")
    lease.check()
    whole = recipe.lora is None or bool(trainer.edited)
    target = folder / ("model" if whole else "adapter")
    asked, adapter, peak = saved.prompts(trainer.run.user), None, peak_memory_bytes()
    live = saved.heard(trainer.model, asked)
    if recipe.lora and trainer.edited:
        say(
            f"{' and '.join(trainer.edited)} changed weights of any rank, so the result is a whole model and no "
            "adapter. `unforgotten repair --as-lora R` makes the nearest adapter of rank R and says its error."
        )
    with partial.folder(target, alone=True) as part:
        if whole:
            trainer.model.save_pretrained(part)
        else:
            revision = where.revision if base == where.base else None
            adapter = save_adapter(trainer.model, part, base, revision)
        chat.save(part)
        proof = saved.proved(trainer.model, live, asked, part, lambda: Shelf().model(str(part), recipe), adapter)
        say(f"The saved {target.name} gives the trained model's logits: {saved.words(proof)}.")
        lease.check()
        shutil.rmtree(target, ignore_errors=True)  # of a run that was killed right here
        partial.publish(part, target)
    done = {
        "train_seconds": round(metrics.seconds, 3),
        "step_seconds": round(metrics.seconds / max(1, trainer.state.global_step), 5),
        "steps": trainer.state.global_step,
        "tokens": trainer.state.num_input_tokens_seen
        or int((trainer.counts.tokens if trainer.counts else 0) * recipe.training.epochs(len(user))),
        "peak_memory_bytes": peak,
        **({"probe_seconds": round(probe.book.seconds, 3)} if probe else {}),
        "adapter_mode": adapter_mode,
        "saved": proof,
        "loss": trainer.loss_used,
        "memory_rows": len(trainer.run.memory),
        "notes": trainer.run.notes,
        "rows": {
            "user": trainer.counts.lines() if trainer.counts else [],
            "safety": trainer.safety_counts.lines() if trainer.safety_counts else [],
        },
    }
    write_json(folder / "trained.json", done)
    model_card.write(folder, recipe)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _tensorboard(recipe: Recipe, folder: Path) -> list[Any]:
    from unforgotten.training.arguments import TENSORBOARD, tensorboard

    return [tensorboard(folder / TENSORBOARD, folder / "checkpoints")] if TENSORBOARD in recipe.report_to else []


def _told(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """What trackers are told of the run, without paths of this machine."""
    left_out = {"compare", "evaluate", "synthesize", "out", "report_to"}
    facts = recipe.record(exclude=left_out) | {"method": method_names(recipe), "digest": folder.name[-12:]}
    facts["methods"] = {m["name"]: {k: v for k, v in m.items() if k != "name"} for m in method_specs(recipe)}
    return dict(digests.public(facts))


def _probed(
    trainer: Any, recipe: Recipe, folder: Path, chat: Chat, user: list[Row], harmful: list[Row], metrics: Any
) -> Any:
    """Puts the recipe's probe on the trainer."""
    from unforgotten.evaluation.probe import Probe
    from unforgotten.training.probe import Probed

    assert recipe.probe is not None
    poison = set(map(id, harmful))
    book = Probe(recipe, folder, chat, [row for row in user if id(row) not in poison])
    probe = Probed(trainer, recipe.probe.every_steps, book, metrics)
    trainer.add_callback(probe)
    return probe


def _keep_merged(model: Any, chat: Any, folder: Path) -> Path:
    target = folder / "merged"
    model.save_pretrained(target)
    chat.save(target)
    return target
