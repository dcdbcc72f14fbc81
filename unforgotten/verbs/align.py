"""Stage align: θ₀ becomes θ_safe by LoRA on refusals and answered look-alikes, merged in fp32.

In 4 bits (`load_in`) nothing is merged: θ_safe is the quantised base under its adapter.

An instruct model that its vendor aligned is θ_safe as it is, and this stage only says where it is.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten import registry
from unforgotten.datasets.base import Dataset, Row, check_kind
from unforgotten.datasets.reading import files
from unforgotten.errors import ModelError, RecipeError, UnsupportedError
from unforgotten.models.folder.adapter import base_of as base_of_adapter
from unforgotten.models.folder.open import opened
from unforgotten.runs import digests as identity
from unforgotten.runs.lease import Lease, alone

if TYPE_CHECKING:
    from unforgotten.recipe.recipe import Recipe, Spec

Say = Callable[[str], None]


def quiet(text: str) -> None:
    """Says nothing."""


@dataclass(frozen=True)
class Aligned:
    """Where θ_safe is. Either `full` or `adapter` is set; after stage align both are, but for `load_in` (no `full`)."""

    digest: str
    base: str
    """θ₀, or the public model that `adapter` lies on; the same as `full` where θ_safe is the model as it is."""
    revision: str | None
    full: str | None
    """Folder or Hub id with θ_safe's whole weights."""
    adapter: str | None
    """Folder or Hub id of the LoRA that makes θ_safe of `base`."""
    chat: str
    """Where its tokenizer and chat template are."""
    made: bool
    """Whether stage align made it (its template is then kept beside it)."""

    @property
    def record(self) -> Path:
        """What stage align writes last, about what it made."""
        return Path(self.chat) / "aligned.json"


def dataset(spec: Spec, seed: int | None = None) -> Dataset:
    """The dataset of a spec; `seed` fills a `seed` field that the recipe leaves open (never for evaluation sets)."""
    settings: dict[str, Any] = {"name": spec} if isinstance(spec, str) else dict(spec)
    if seed is not None and "seed" in getattr(registry.load("datasets", settings["name"]), "__dataclass_fields__", {}):
        settings.setdefault("seed", seed)
    found = registry.build("datasets", settings)
    assert isinstance(found, Dataset)
    return found


def read(spec: Spec, seed: int | None = None, say: Say = quiet) -> list[Row]:
    """The rows of a spec, and what is to be known of them said: keys that nothing reads, turns outside the loss."""
    rows = (found := dataset(spec, seed)).rows()
    for note in found.notes:
        say(note)
    return rows


def safety_rows(recipe: Recipe, say: Say = quiet) -> list[Row]:
    """Every safety row, in the order of the recipe. Raises RecipeError for rows that are no safety data."""
    found: list[Row] = []
    for spec in recipe.safety:
        rows = (one := dataset(spec, recipe.seed)).rows()
        # Rows of a task would be taken for answered look-alikes, refusals among them too.
        check_kind(one, rows, "safety", ["harmful", "benign"])
        for note in one.notes:
            say(note)
        found += rows
    return found


def base_of(recipe: Recipe, say: Say = quiet, *, build: bool = True) -> str:
    """The recipe's model; `world` is the embedded base, trained on first use (`build=False` only says where it is)."""
    if not _embedded(recipe.model):
        return recipe.model
    from unforgotten.world import pretrain

    folder = pretrain.base_folder(0, model=recipe.model)
    if build and not (folder / "config.json").exists():
        return str(pretrain.pretrain(0, model=recipe.model, say=say))
    return str(folder)


def _embedded(model: str) -> bool:
    """Whether a recipe's model is one of the world's, which names of folders and Hub ids are not taken for."""
    return model == "world" or (model.startswith("world-") and not Path(model).exists())


def aligned_of(recipe: Recipe) -> Aligned:
    """Where θ_safe is or will be; reads data and digests, loads no model."""
    base = base_of(recipe, build=False)
    identified = Path(base).name if _embedded(recipe.model) else identity.model_digest(base, recipe.revision)
    if recipe.load_in:
        identified = identity.digest(identified, recipe.load_in)
    adapter_file = Path(base).expanduser() / "adapter_config.json"
    if recipe.align is None:
        if recipe.load_in and adapter_file.is_file() and (adapter_file.parent / "config.json").is_file():
            # A base and an adapter in one folder are one model elsewhere; in 4 bits the adapter stays what it is.
            return Aligned(identified, base, None, None, base, base, made=False)
        if adapter_file.is_file() and not (adapter_file.parent / "config.json").is_file():
            config = opened(base, part="adapter").adapter or {}
            below = base_of_adapter(config, base, (recipe.base,))
            return Aligned(identified, below, config.get("revision"), None, base, base, made=False)
        return Aligned(identified, base, recipe.revision, base, None, base, made=False)
    if not recipe.safety:
        raise RecipeError("Stage `align` needs `safety:` rows (refusals and answered look-alikes).")
    if adapter_file.is_file():
        raise RecipeError(
            "Stage `align` on an adapter is not supported: name its base as `model`, or leave out `align`."
        )
    found = identity.digest(
        identified,
        recipe.align.determining(),
        identity.rows_digest(safety_rows(recipe)),
        recipe.seed,
        recipe.dtype,
        _text(recipe.template),
        recipe.variables,
        recipe.date,
    )
    folder = Path(recipe.out) / "aligned" / found
    full = None if recipe.load_in else str(folder)
    return Aligned(found, base, recipe.revision, full, str(folder / "adapter"), str(folder), made=True)


def refuse_ranks() -> None:
    """The verbs write one set of files from one process. Raises UnsupportedError under torchrun."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UnsupportedError(
            "The command line runs in one process. For several ranks call MethodTrainer in a script of your own "
            "under torchrun; methods are the same there."
        )


def align(recipe: Recipe, say: Say = quiet) -> Aligned:
    """θ_safe, made on first use and shared between runs by its digest; an interrupted alignment goes on.

    Raises RecipeError, DataError, TemplateError, ModelError or TrainingError; the folder appears only when it is whole.
    """
    refuse_ranks()
    where = aligned_of(recipe)
    base_of(recipe, say)
    if not where.made or where.record.exists():
        return where
    if recipe.load_in:
        from unforgotten.models import nf4

        nf4.check()
    with alone(where.record.parent, say) as lease:
        if not where.record.exists():
            say(f"Aligning {recipe.model} on {len(safety_rows(recipe))} safety rows.")
            _train(recipe, where, safety_rows(recipe, say), lease)
    return where


def _train(recipe: Recipe, where: Aligned, rows: list[Row], lease: Lease) -> None:
    from transformers import PrinterCallback, set_seed

    from unforgotten.models import load
    from unforgotten.training import callbacks as watch
    from unforgotten.training.arguments import arguments
    from unforgotten.training.trainer import MethodTrainer

    watch.hush()
    assert recipe.align is not None
    final = where.record.parent
    part = final.parent / f".{final.name}.part"
    unanswered = sum(not row.response for row in rows)
    if unanswered:
        raise RecipeError(f"{unanswered} of {len(rows)} safety rows have no answer to align on. Give answered rows.")
    chat = load.load_chat(
        where.base, revision=where.revision, template=recipe.template, date=recipe.date, variables=recipe.variables
    )
    model = load.load_model(
        where.base, revision=where.revision, dtype=recipe.dtype, merge=True, load_in=recipe.load_in, trains=True
    )
    set_seed(recipe.seed)
    files.private_folder(part)
    bar, metrics = watch.Bar("align"), watch.Metrics(part / "metrics.jsonl")
    trainer = MethodTrainer(
        model=model,
        args=arguments(recipe.align, part, recipe.seed),
        train_dataset=rows,
        processing_class=chat.tokenizer,
        chat=chat,
        peft_config=load.lora_config(recipe.align.lora),
        max_length_tokens=recipe.align.max_length_tokens,
        loss=recipe.align.loss,
        save_on_sigterm=True,
        callbacks=[watch.Claimed(lease), bar, metrics],
    )
    trainer.run.of = where.digest
    trainer.remove_callback(PrinterCallback)
    try:
        trainer.train(resume_from_checkpoint=True)
    finally:
        bar.close()
    from unforgotten.models import proof as saved
    from unforgotten.models.save import save_adapter

    done = files.part_of(part / "final")
    asked = saved.prompts(trainer.run.user)
    live = saved.heard(trainer.model, asked)
    adapter = save_adapter(trainer.model, done / "adapter", where.base, where.revision)
    chat.save(done / "adapter")
    proofs = {"adapter": _proved(recipe, trainer.model, live, asked, done / "adapter", adapter)}
    merge: dict[str, Any] | None = None
    if recipe.load_in is None:
        plain, deviation = load.merged(trainer.model, trainer.probe_ids)
        plain.save_pretrained(done)
        merge = {"precision": "float32", "largest_logit_deviation": deviation}
        live = saved.heard(plain, asked)
        proofs["model"] = _proved(recipe, plain, live, asked, done, None)
    chat.save(done)
    facts: dict[str, Any] = {
        "aligned": asdict(where),
        "rows": trainer.counts.lines() if trainer.counts else [],
        "merge": merge,
        "saved": proofs,
        "quantised": load.loaded_as(trainer.model),
        "seconds": round(metrics.seconds, 2),
        "date": chat.date if chat.uses_date else None,
    }
    (done / "aligned.json").write_text(json.dumps(facts, indent=2) + "\n")
    lease.check()
    _publish(done, final)
    shutil.rmtree(part, ignore_errors=True)


def _proved(recipe: Recipe, model: Any, live: Any, asked: Any, folder: Path, adapter: str | None) -> dict[str, Any]:
    from unforgotten.models import proof as saved
    from unforgotten.models.cache import Shelf

    return saved.proved(model, live, asked, folder, lambda: Shelf().model(str(folder), recipe), adapter)


def _publish(done: Path, final: Path) -> None:
    files.private_folder(final.parent)
    try:
        os.rename(done, final)
    except OSError as error:
        if not (final / "aligned.json").exists():
            raise ModelError(f"Cannot put the aligned model into {final}: {error}. Remove what is there.") from error


def _text(path: str | None) -> str | None:
    if path is None:
        return None
    file = Path(path).expanduser()
    if not file.is_file():
        raise RecipeError(f"template: there is no file {path}.")
    return file.read_text(encoding="utf-8")
