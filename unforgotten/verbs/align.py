"""Stage align: θ₀ becomes θ_safe by LoRA on refusals and answered look-alikes, merged in fp32.

In 4 bits (`load_in`) nothing is merged: θ_safe is the quantised base under its adapter.

An instruct model that its vendor aligned is θ_safe as it is, and this stage only says where it is.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.datasets.base import Row
from unforgotten.errors import ModelError, UnsupportedError
from unforgotten.models.locate_aligned import aligned_of, embedded, unaligned
from unforgotten.models.real.catalog import MODELS
from unforgotten.models.real.make import make
from unforgotten.recipe.aligned import Aligned
from unforgotten.recipe.data_sets import DataSets, ReadRows, files_record, safety_rows
from unforgotten.recipe.recipe import require_recipe
from unforgotten.runs import atomic
from unforgotten.runs.lease import Lease, alone
from unforgotten.runs.progress import Say, quiet
from unforgotten.verbs.own_answers import OwnAnswers, refuse_harmful, with_own_answers

if TYPE_CHECKING:
    from unforgotten.models.chat import Chat
    from unforgotten.recipe.recipe import Recipe
    from unforgotten.training.trainer import MethodTrainer


def base_of(recipe: Recipe, say: Say = quiet) -> str:
    """The recipe's model; the embedded base and the real models are made on first use."""
    folder = unaligned(recipe)
    if recipe.model in MODELS:
        return str(make(MODELS[recipe.model], say))
    if embedded(recipe.model) and not (Path(folder) / "config.json").exists():
        from unforgotten.world import pretrain

        return str(pretrain.pretrain(0, model=recipe.model, say=say))
    return folder


def refuse_ranks() -> None:
    """The verbs write one set of files from one process. Raises UnsupportedError under torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UnsupportedError(
            "The command line runs in one process. For several ranks, call MethodTrainer in your own script under "
            "torchrun. The methods are the same there."
        )


def align(recipe: Recipe, say: Say = quiet, sets: DataSets | None = None) -> Aligned:
    """θ_safe, made on first use and shared between runs by its digest; an interrupted alignment goes on.

    sets: data sets that were read already. Raises RecipeError, DataError, TemplateError, ModelError or TrainingError;
    the folder appears only when it is complete.
    """
    require_recipe(recipe, "align")
    refuse_ranks()
    sets = sets or DataSets()
    where = aligned_of(recipe, sets)
    if where.by_align_stage and not where.record.exists():
        for note in safety_rows(recipe, sets).notes:
            say(note)
    return make_aligned(recipe, where, sets, say)


def make_aligned(recipe: Recipe, where: Aligned, sets: DataSets, say: Say) -> Aligned:
    """The same for a place that is known; what is to be known of the safety rows is not said here."""
    if where.by_align_stage and not where.record.exists():
        _check_settings(recipe)
    base_of(recipe, say)
    if not where.by_align_stage or where.record.exists():
        return where
    if recipe.load_in:
        from unforgotten.models import nf4

        nf4.check()
    with alone(where.record.parent, say) as lease:
        if not where.record.exists():
            safety = safety_rows(recipe, sets)
            say(f"Aligning {recipe.model} on {len(safety.rows)} safety rows.")
            _train(recipe, where, safety, lease, say)
    return where


def _check_settings(recipe: Recipe) -> None:
    from unforgotten.training.arguments import check_values

    assert recipe.align is not None
    check_values(recipe.align, "align")


def _train(recipe: Recipe, where: Aligned, safety: ReadRows, lease: Lease, say: Say) -> None:
    from unforgotten.models import load
    from unforgotten.runs import bars

    bars.hush()
    rows = safety.rows
    refuse_harmful(rows)
    chat = load.load_chat(
        where.base, revision=where.revision, template=recipe.template, date=recipe.date, variables=recipe.variables
    )
    final = where.record.parent
    part = final.parent / f".{final.name}.part"
    trainer, own, seconds = _trained(recipe, where, rows, chat, part, lease, say)
    done = atomic.private_folder(atomic.part_of(part / "final"))
    facts = _save(recipe, where, trainer, chat, done)
    facts |= {
        "files": files_record(safety),
        "own_answers": own.counts(),
        "seconds": round(seconds, 2),
        "date": chat.date if chat.uses_date else None,
    }
    (done / "aligned.json").write_text(json.dumps(facts, indent=2) + "\n")
    lease.check()
    _publish(done, final)
    shutil.rmtree(part, ignore_errors=True)


def _trained(
    recipe: Recipe, where: Aligned, rows: list[Row], chat: Chat, part: Path, lease: Lease, say: Say
) -> tuple[MethodTrainer, OwnAnswers, float]:
    """θ₀ trained on the safety rows, in memory; its own answers among them; and the seconds that its steps took."""
    from transformers import PrinterCallback, set_seed

    from unforgotten.models import load
    from unforgotten.runs import bars
    from unforgotten.training import callbacks
    from unforgotten.training.arguments import arguments
    from unforgotten.training.trainer import MethodTrainer

    assert recipe.align is not None
    bars.phase("loading the model to align")
    model = load.load_model(
        where.base, revision=where.revision, dtype=recipe.dtype, merge=True, load_in=recipe.load_in, trains=True
    )
    atomic.private_folder(part)
    own = with_own_answers(rows, model, chat, recipe.align.answer_tokens, part, say)
    set_seed(recipe.safety_seed)
    bar, metrics = callbacks.Bar("align", "steps of the alignment"), callbacks.Metrics(part / "metrics.jsonl")
    trainer = MethodTrainer(
        model=model,
        args=arguments(recipe.align, part, recipe.safety_seed),
        train_dataset=own.rows,
        processing_class=chat.tokenizer,
        chat=chat,
        peft_config=load.lora_config(recipe.align.lora),
        max_length=recipe.align.max_length,
        loss=recipe.align.loss,
        save_on_sigterm=True,
        callbacks=[callbacks.Claimed(lease), bar, metrics],
    )
    trainer.run.digest = where.digest
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=True)
    finally:
        bar.close()
    return trainer, own, metrics.seconds


def _save(recipe: Recipe, where: Aligned, trainer: MethodTrainer, chat: Chat, done: Path) -> dict[str, Any]:
    """Writes the adapter and, but in 4 bits, the merged weights, each proved; gives what aligned.json says of them."""
    from unforgotten.models import check_saved, load
    from unforgotten.models.saved_adapter import save_adapter
    from unforgotten.runs import bars

    bars.phase("saving the aligned model, and loading it again")
    asked = check_saved.prompts(trainer.run.user.rows)
    live = check_saved.heard(trainer.model, asked)
    adapter = save_adapter(trainer.model, done / "adapter", where.base, where.revision)
    chat.save(done / "adapter")
    proofs = {"adapter": _proved(recipe, trainer.model, live, asked, done / "adapter", adapter)}
    merge: dict[str, Any] | None = None
    if recipe.load_in is None:
        plain, deviation = load.merged(trainer.model, trainer.probe_ids)
        plain.save_pretrained(done)
        merge = {"precision": "float32", "largest_logit_deviation": deviation}
        live = check_saved.heard(plain, asked)
        proofs["model"] = _proved(recipe, plain, live, asked, done, None)
    chat.save(done)
    return {
        "aligned": where.json(),
        "rows": trainer.counts.lines() if trainer.counts else [],
        "merge": merge,
        "saved": proofs,
        "quantised": load.loaded_as(trainer.model),
    }


def _proved(recipe: Recipe, model: Any, live: Any, asked: Any, folder: Path, adapter: str | None) -> dict[str, Any]:
    from unforgotten.models import check_saved
    from unforgotten.models.shelf import Shelf

    return check_saved.proved(model, live, asked, folder, lambda: Shelf().model(str(folder), recipe), adapter)


def _publish(done: Path, final: Path) -> None:
    atomic.private_folder(final.parent)
    try:
        os.rename(done, final)
    except OSError as error:
        if not (final / "aligned.json").exists():
            raise ModelError(f"Cannot move the aligned model to {final}: {error}. Remove that folder.") from error
