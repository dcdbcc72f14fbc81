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

# Long because a run folder has many parts and this file writes them all.

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten import registry
from unforgotten.datasets.base import Row
from unforgotten.datasets.reading import digest as of_rows
from unforgotten.errors import DataError, RecipeError, UnforgottenError
from unforgotten.models.aligned import aligned_chat, aligned_of
from unforgotten.recipe.aligned import Aligned
from unforgotten.recipe.rows import dataset, read, safety_rows, user_rows
from unforgotten.report import model_card
from unforgotten.runs import atomic, origin, partial, strict_read, strict_yaml, terminate
from unforgotten.runs import console as display
from unforgotten.runs import digests as identity
from unforgotten.runs.lease import Lease, alone
from unforgotten.runs.progress import Say, quiet
from unforgotten.verbs.align import align

if TYPE_CHECKING:
    from unforgotten.judges.base import Judge
    from unforgotten.models.chat import Chat
    from unforgotten.recipe.recipe import Recipe


def policy_for(recipe: Recipe, where: Aligned) -> str:
    """merged, stacked, continue or full: the recipe's, or the default for this θ_safe."""
    if recipe.lora is None:
        if recipe.policy:
            raise RecipeError(f"policy: {recipe.policy} needs an adapter, but lora is null (every weight is trained).")
        return "full"
    if recipe.policy in ("stacked", "continue") and where.adapter is None:
        raise RecipeError(
            f"policy: {recipe.policy} needs θ_safe as an adapter: name an adapter folder as `model`, or add `align`."
        )
    if recipe.load_in and recipe.policy == "merged" and where.full is None:
        raise RecipeError(
            "policy: merged would merge θ_safe's adapter into a base in 4 bits: each merged weight is rounded to one "
            "of 16 values again, and what is smaller than half a step of that grid is lost. Leave `policy` out "
            "(stacked: the adapter stays whole under the trained one), or leave out `load_in`."
        )
    return recipe.policy or ("stacked" if where.full is None else "merged")


def base_for(recipe: Recipe, where: Aligned) -> str | None:
    """θ₀ for methods that edit weights. Raises RecipeError where one needs it and nothing says where it is."""
    if not any(registry.build("methods", m).needs_base for m in recipe.methods):
        return None
    if recipe.base is None and not where.made and where.adapter is None:
        raise RecipeError(
            f"{_names(recipe)} reads θ₀, the weights from before alignment, and `model` is θ_safe as it is: name the "
            "base model in `base:`, or start from it with stage `align`."
        )
    return recipe.base or where.base


def run_digest(recipe: Recipe) -> str:
    """Over everything that determines the weights; evaluation settings are not among it."""
    where = aligned_of(recipe)
    user, _ = user_rows(recipe)
    return identity.digest(
        where.digest,
        of_rows.rows_digest(user),
        _replay_digest(recipe),
        _specs(recipe),
        recipe.memory.model_dump(),
        recipe.lora.model_dump() if recipe.lora else None,
        policy_for(recipe, where),
        base_for(recipe, where),
        recipe.training.determining(),
        recipe.dtype,
        recipe.template,
        recipe.variables,
        recipe.date,
        recipe.seed,
    )


def replay_rows(recipe: Recipe, say: Say = quiet) -> list[Row]:
    """The rows that the memory is chosen from; those that θ_safe makes itself are made on first use."""
    if recipe.replay == "safety":
        return safety_rows(recipe, say)
    if recipe.replay == "synthesize":
        from unforgotten.verbs.synthesize.synthesize import synthesize

        return synthetic_rows(synthesize(recipe, say))
    return [row for spec in recipe.replay for row in read(spec, recipe.seed, say)]


def synthetic_rows(file: Path) -> list[Row]:
    """The rows of a file that stage synthesize made."""
    return dataset({"name": "refusals", "path": str(file)}).rows()


def _replay_digest(recipe: Recipe) -> str:
    """What determines those rows, without making them."""
    if recipe.replay == "synthesize":
        from unforgotten.verbs.synthesize.synthesize import synthetic_folder

        return synthetic_folder(recipe).name
    return of_rows.rows_digest(replay_rows(recipe))


def run_folder(recipe: Recipe) -> Path:
    """Where this recipe's run is or will be."""
    return Path(recipe.out) / f"{recipe.name}-{run_digest(recipe)}"


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
    if recipe.report_to:
        from unforgotten.training.arguments import check_reports

        check_reports(recipe.report_to)
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

    return record.check(audited, user, chat, recipe.training.max_length_tokens)


def _names(recipe: Recipe) -> str:
    return "+".join(str(m if isinstance(m, str) else m["name"]) for m in recipe.methods)


def load_aligned(recipe: Recipe, where: Aligned, policy: str) -> tuple[Any, Chat]:
    """θ_safe ready for `policy`, before any fresh adapter; and its chat."""
    from unforgotten.models import load
    from unforgotten.models.adapters import ALIGNED

    chat = aligned_chat(recipe, where)
    if policy in ("merged", "full") and where.full is not None:
        revision = None if where.made else where.revision
        return load.load_model(
            where.full, revision=revision, dtype=recipe.dtype, merge=True, load_in=recipe.load_in, trains=True
        ), chat
    assert where.adapter is not None
    model = load.load_model(
        where.base, revision=where.revision, dtype=recipe.dtype, load_in=recipe.load_in, trains=True
    )
    name = ALIGNED if policy == "stacked" else "default"
    return load.put_adapter(model, where.adapter, name, trainable=policy == "continue"), chat


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

    from unforgotten.models import adapters as policies
    from unforgotten.models import load
    from unforgotten.models import proof as saved
    from unforgotten.models.cache import Shelf
    from unforgotten.models.save import save_adapter
    from unforgotten.runs import bars
    from unforgotten.training import callbacks as watch
    from unforgotten.training.arguments import arguments
    from unforgotten.training.memory import Memory
    from unforgotten.training.trainer import MethodTrainer

    bars.hush()
    if folder.exists() and (recorded := folder / "recipe.yaml").exists():
        date = (strict_yaml.load_file(recorded) or {}).get("date")
        recipe = recipe.model_copy(update={"date": recipe.date or date})
    says = f"Fine-tuning with {_names(recipe)} on {len(user)} rows"
    say(says + (f", {len(harmful)} of them harmful." if harmful else "."))
    policy = policy_for(recipe, where)
    model, chat = load_aligned(recipe, where, policy)
    resolved = recipe.model_copy(update={"date": chat.date if chat.uses_date else None})
    base = where.base if policy in ("stacked", "continue") else str(where.full)
    if policy == "merged" and where.full is None:
        model, deviation = load.merged(model, chat.prompt(user[0]))
        say(f"Merged {where.adapter} into its base in fp32 (largest deviation of a logit: {deviation:.1e}).")
        base = str(_keep_merged(model, chat, folder))
    elif policy == "merged" and load.is_bundled(base):
        base = str(_keep_merged(model, chat, folder))  # what is bundled there is the base below its adapter
    audit = _held(recipe, user, chat, audited)  # again, by the rows and the chat that are trained with
    if audit and audit["outcome"] is None:
        say("The audit set no limit (--max-p): this run is held to its rows, whatever the judge said of them.")
    safety, answered = answers(safety, model, chat, recipe, where, say)
    _record(folder, resolved, where, user, harmful, safety, answered, load.loaded_as(model), audit)
    set_seed(recipe.seed)
    config = load.lora_config(recipe.lora) if recipe.lora else None
    if policy == "stacked":
        model, config = policies.stack(model, config), None
    bar, metrics = watch.Bar(_names(recipe)), watch.Metrics(folder / "metrics.jsonl")
    trainer = MethodTrainer(
        model=model,
        args=arguments(
            recipe.training, folder / "checkpoints", recipe.seed, recipe.report_to, folder.name, _told(recipe, folder)
        ),
        train_dataset=user,
        safety_dataset=safety,
        processing_class=chat.tokenizer,
        chat=chat,
        peft_config=None if policy == "continue" else config,
        method=recipe.methods,
        base_model=base_for(recipe, where),
        memory=Memory(**recipe.memory.model_dump()),
        max_length_tokens=recipe.training.max_length_tokens,
        loss=recipe.training.loss,
        log_distance=bool(recipe.report_to),
        save_on_sigterm=True,
        callbacks=[watch.Claimed(lease), bar, metrics, *_tensorboard(recipe, folder)],
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
        or int((trainer.counts.tokens if trainer.counts else 0) * recipe.training.epochs),
        "peak_memory_bytes": peak,
        **({"probe_seconds": round(probe.book.seconds, 3)} if probe else {}),
        "policy": policy,
        "saved": proof,
        "loss": trainer.loss_used,
        "memory_rows": len(trainer.run.memory),
        "notes": trainer.run.notes,
        "rows": {
            "user": trainer.counts.lines() if trainer.counts else [],
            "safety": trainer.safety_counts.lines() if trainer.safety_counts else [],
        },
    }
    _write(folder / "trained.json", done)
    model_card.write(folder, recipe)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _tensorboard(recipe: Recipe, folder: Path) -> list[Any]:
    from unforgotten.training.arguments import TENSORBOARD, tensorboard

    return [tensorboard(folder / TENSORBOARD, folder / "checkpoints")] if TENSORBOARD in recipe.report_to else []


def _told(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """What trackers are told of the run, without paths of this machine."""
    left_out = {"compare", "evaluate", "synthesize", "out", "report_to"}
    facts = recipe.record(exclude=left_out) | {"method": _names(recipe), "digest": folder.name[-12:]}
    facts["methods"] = {m["name"]: {k: v for k, v in m.items() if k != "name"} for m in _specs(recipe)}
    return dict(identity.public(facts))


def _specs(recipe: Recipe) -> list[dict[str, Any]]:
    return [registry.spec_of(registry.build("methods", m)) for m in recipe.methods]


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


def answers(
    safety: list[Row], model: Any, chat: Any, recipe: Recipe, where: Aligned, say: Say
) -> tuple[list[Row], dict[str, Any] | None]:
    """Safety rows without an answer get θ_safe's own greedy one, once; kept under a digest, refusals counted.

    model: θ_safe, before any fresh adapter.
    """
    bare = [row for row in safety if not row.response]
    if not bare:
        return safety, None
    tokens = recipe.evaluate.max_new_tokens if recipe.evaluate else 256
    key = identity.digest(
        where.digest, of_rows.rows_digest(bare), tokens, chat.template, chat.date if chat.uses_date else None
    )
    file = Path(recipe.out) / "answers" / f"{key}.jsonl"
    if not file.exists():
        with alone(file, say):  # other runs of this θ_safe want them too
            if not file.exists():
                _ask(file, bare, model, chat, tokens, recipe, say)
    told = strict_read.lines(file)
    filled = iter(told)
    rows = [row if row.response else replace(row, messages=tuple(next(filled)["messages"])) for row in safety]
    empty = sum(not row.response for row in rows)
    refused, answered = (sum(t["refused"] is reading for t in told) for reading in (True, False))
    counts = {
        "file": f"answers/{file.name}",
        "refused": refused,
        "answered": answered,
        "unparsed": sum(t["refused"] is None for t in told),
        "empty": empty,
    }
    say(f"The aligned model refused {refused} of {len(told)} safety prompts and answered {answered}.")
    asked_for_harm = sum(row.kind == "harmful" for row in bare)
    if asked_for_harm and refused < asked_for_harm / 2:
        say(
            f"Warning: {asked_for_harm} of these prompts ask for harm, and fewer than half were refused. What is "
            "replayed is then no refusal: align the model first, or give rows with refusals."
        )
    if empty:
        say(f"{empty} answers were empty; those rows are left out of the memory.")
    return [row for row in rows if row.response], counts


def _ask(file: Path, bare: list[Row], model: Any, chat: Any, tokens: int, recipe: Recipe, say: Say) -> None:
    from unforgotten.generation.local import generate
    from unforgotten.runs.bars import progress_bar

    say(f"Asking the aligned model for its answers to {len(bare)} safety prompts (once).")
    with progress_bar() as tick:
        replies = generate(model, chat, bare, max_new_tokens=tokens, progress=lambda done, n: tick("answers", done, n))
    judge = _refusal_judge(recipe)
    verdicts = judge.verdicts(replies)
    judge.close()
    lines = [
        json.dumps(
            {
                "messages": [*reply.row.messages, {"role": "assistant", "content": reply.text}],
                "refused": verdict.refused,
            }
        )
        for reply, verdict in zip(replies, verdicts, strict=True)
    ]
    atomic.put(file, "\n".join(lines) + "\n")


def _refusal_judge(recipe: Recipe) -> Judge:
    """The evaluation's first judge that tells refusals; published phrases where it has none."""
    for spec in recipe.evaluate.judges if recipe.evaluate else []:
        if "refused" in (judge := registry.build("judges", spec)).tells:
            return judge
    return registry.build("judges", "keywords")


def _keep_merged(model: Any, chat: Any, folder: Path) -> Path:
    kept = folder / "merged"
    model.save_pretrained(kept)
    chat.save(kept)
    return kept


def _record(
    folder: Path,
    recipe: Recipe,
    where: Aligned,
    user: list[Row],
    harmful: list[Row],
    safety: list[Row],
    answered: Any,
    loaded: Any,
    audit: dict[str, Any] | None = None,
) -> None:
    """recipe.yaml and environment.json, before the first step; and the link to θ_safe."""
    atomic.private_folder(folder)
    atomic.put(
        folder / "recipe.yaml",
        display.yaml_text(recipe.record(exclude_unset=False, exclude={"compare", "sweep"})),
    )
    origin.own(folder)
    facts = identity.environment() | {
        "aligned": asdict(where),
        "quantised": loaded,
        "digests": {"user": of_rows.rows_digest(user), "safety": of_rows.rows_digest(safety)},
        "rows": {"user": len(user), "harmful": len(harmful), "safety": len(safety)},
        "answers": answered,
        "audit": audit,
        "replay": f"synthetic/{_replay_digest(recipe)}/safety.jsonl" if recipe.replay == "synthesize" else None,
        "seed": recipe.seed,
    }
    _write(folder / "environment.json", facts)
    link = folder / "aligned"
    if where.made and not link.exists():
        try:
            link.symlink_to(Path("..") / "aligned" / where.digest, target_is_directory=True)
        except OSError:  # a file system without links: the adapter has θ_safe bundled anyway
            pass


def _write(path: Path, facts: Any) -> None:
    atomic.put(path, display.json_text(facts, nan=True) + "\n")


def peak_memory_bytes() -> int:
    """The most memory in use so far: on the GPU where there is one, else this process's."""
    import resource

    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
