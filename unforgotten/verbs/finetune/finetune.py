"""Stage finetune: θ_safe becomes θ* on the user's rows, with a method that keeps safety.

runs/<name>-<digest>/
  recipe.yaml environment.json     before the first step
  aligned -> ../aligned/<digest>   where stage align made θ_safe
  metrics.jsonl                    a line per logged step
  probe.jsonl probe/               where the recipe has a probe: a line per probed step, and the replies
  held_out.json                    where the memory holds rows out: how far θ* is from θ_safe on them
  adapter/ or model/               θ*, with tokenizer, chat template and model card
  README.md                        the model card; `evaluate` puts the figures in
  trained.json                     cost and counts; written last, and the run is not trained again
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from unforgotten.recipe.data_sets import DataSets
from unforgotten.recipe.recipe import require_recipe
from unforgotten.runs import bars, terminate
from unforgotten.runs.lease import Lease, alone
from unforgotten.runs.progress import Say, quiet
from unforgotten.verbs.align import make_aligned, refuse_ranks
from unforgotten.verbs.finetune import record
from unforgotten.verbs.finetune.checks import audit_facts, check_settings, checked_job
from unforgotten.verbs.finetune.job import Job, synthetic_rows
from unforgotten.verbs.finetune.replay_answers import answered_replay

if TYPE_CHECKING:
    from unforgotten.recipe.recipe import Recipe


def finetune(recipe: Recipe, say: Say = quiet, *, audited: str | None = None) -> Path:
    """Trains θ* and returns the run folder; a finished run is not trained twice, an interrupted one goes on.

    audited: the file that `data audit --out` wrote; the run is held to the rows, template and length that it judged,
    and to its having passed its own limit. SIGTERM, in the main thread, saves the step that is under way and raises
    terminate.Terminated (exit code 143). Raises the errors of unforgotten.errors; what was complete before an error
    stays.
    """
    return train(recipe, say, audited=audited).folder


def train(recipe: Recipe, say: Say = quiet, *, audited: str | None = None, sets: DataSets | None = None) -> Job:
    """The same, and gives the run as it was resolved. sets: data sets that were read already."""
    require_recipe(recipe, "finetune")
    with terminate.handled():
        bars.phase("reading the data")
        job = checked_job(recipe, say, audited, sets or DataSets())
        if job.done:
            if recipe.probe and not (job.folder / "probe.jsonl").exists():
                say(
                    f"{job.folder} was trained without a probe. A probe runs during training: move the folder away to "
                    "train again."
                )
            return job
        for note in job.notes:
            say(note)
        check_settings(job)
        job = _with_inputs(job, say)
        with alone(job.folder, say) as lease:
            if not job.done:
                _train(record.pinned(job), lease, say, audited)
        return job


def _with_inputs(job: Job, say: Say) -> Job:
    """θ_safe, and the rows that it makes of itself, made on first use."""
    refuse_ranks()
    make_aligned(job.recipe, job.aligned, job.data_sets, say)
    if job.synthesis is None:
        return job
    from unforgotten.verbs.synthesize.synthesize import make

    return replace(job, replay=synthetic_rows(make(job.recipe, job.synthesis, job.data_sets, say), job.data_sets))


def _train(job: Job, lease: Lease, say: Say, audited: str | None) -> None:
    from unforgotten.models import load
    from unforgotten.verbs.finetune import save, train, trusted_poison
    from unforgotten.verbs.finetune.start_model import load_start

    bars.hush()
    harmful = len(job.user.harmful_at)
    says = f"Fine-tuning with {job.method_names} on {len(job.user.rows)} rows"
    attack = job.recipe.poison.attack if job.recipe.poison else "plain"
    what = "harmful" if attack == "plain" else f"of the attack `{attack}`"
    say(says + (f", {harmful} of them {what}." if harmful else "."))
    bars.phase("loading the aligned model")
    start = load_start(job, say)
    job = trusted_poison.chosen(job, start.model, start.chat, say)
    audit = audit_facts(job, start.chat, audited, say)  # again, by the chat that is trained with
    safety, answered = answered_replay(job, start.model, start.chat, say)
    record.before(job, start.chat, safety, answered, load.loaded_as(start.model), audit)
    fitted = train.fit(job, start, safety, lease, say)
    bars.phase("saving the trained model, and loading it again")
    saved = save.save(job, start, fitted.trainer, lease, say)
    record.after(job, fitted, saved)
