"""What a user can get wrong, told before anything expensive starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unforgotten.errors import DataError, UnforgottenError
from unforgotten.recipe.data_sets import DataSets
from unforgotten.runs.progress import Say
from unforgotten.verbs.finetune.job import Job, resolve

if TYPE_CHECKING:
    from unforgotten.models.chat import Chat
    from unforgotten.recipe.recipe import Recipe


def checked_job(recipe: Recipe, say: Say, audited: str | None, sets: DataSets) -> Job:
    """The run of a recipe, its evaluation's data sets and its audit checked as well. Raises what is wrong."""
    if recipe.evaluate:
        from unforgotten.evaluation.suites import check_sets

        check_sets(sets, recipe.evaluate)  # a set in the wrong place is an error now, not after hours of training
    try:
        job = resolve(recipe, sets)
    except DataError as error:
        raise _with_rendering(recipe, error, sets) from None
    if audited is not None:
        from unforgotten.verbs.audit.audit import run_chat

        audit_facts(job, run_chat(recipe, job.aligned, say), audited)
    return job


def check_settings(job: Job) -> None:
    """Raises what is wrong with the settings of a training that is to start: its probe, 4 bits, arguments, trackers."""
    recipe = job.recipe
    if recipe.probe and recipe.evaluate:
        from unforgotten.evaluation.probe import chosen
        from unforgotten.evaluation.suites import suites

        chosen(suites(recipe.evaluate, sets=job.data_sets), recipe.probe.prompts)
    if recipe.load_in:
        from unforgotten.models import nf4

        nf4.check()
    from unforgotten.training.arguments import check_reports, check_values

    check_reports(recipe.report_to)
    check_values(recipe.training, methods=job.methods)


def audit_facts(job: Job, chat: Chat, audited: str | None, say: Say | None = None) -> dict[str, Any] | None:
    """What the record says of the audit that the run is held to; None without one. Raises RecipeError."""
    if audited is None:
        return None
    from unforgotten.verbs.audit import record

    facts = record.check(audited, job.user.rows, chat, job.recipe.training.max_length)
    if say and facts["outcome"] is None:
        say(
            "The audit has no limit (--max-p). Only the rows are compared with the audit; its verdicts do not stop "
            "the run."
        )
    return facts


def _with_rendering(recipe: Recipe, error: DataError, sets: DataSets) -> UnforgottenError:
    """What is wrong with the rows, with what the template refuses of the others."""
    from unforgotten.models.chat.faults import with_rendering
    from unforgotten.models.locate_aligned import aligned_of
    from unforgotten.verbs.audit.audit import run_chat

    if not error.rows:
        return error
    try:
        return with_rendering(error, run_chat(recipe, aligned_of(recipe, sets)))
    except UnforgottenError:  # the rows are what is told first
        return error
