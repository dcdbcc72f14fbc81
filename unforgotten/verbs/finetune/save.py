"""θ* on disk: an adapter, or whole weights, loaded again and compared with the model in memory."""

from __future__ import annotations

import resource
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from unforgotten.models.shelf import Shelf
from unforgotten.runs import atomic_folder
from unforgotten.runs.lease import Lease
from unforgotten.runs.progress import Say

if TYPE_CHECKING:
    from unforgotten.training.trainer import MethodTrainer
    from unforgotten.verbs.finetune.job import Job
    from unforgotten.verbs.finetune.start_model import Start


@dataclass(frozen=True)
class Saved:
    """What is known of the files."""

    proof: dict[str, Any]
    """How the saved weights were compared with the model in memory, and the largest deviation of a logit."""
    peak_memory_bytes: int
    """Peak memory of the training, before any second model was loaded."""


def save(job: Job, start: Start, trainer: MethodTrainer, lease: Lease, say: Say) -> Saved:
    """Writes adapter/ or model/, whole or not at all. Raises TrainingError where the files are not the model."""
    from unforgotten.models import check_saved
    from unforgotten.models.saved_adapter import save_adapter

    lease.check()
    is_model = job.recipe.lora is None or bool(trainer.edited)
    target = job.folder / ("model" if is_model else "adapter")
    asked, adapter, peak = check_saved.prompts(trainer.run.user.rows), None, peak_memory_bytes()
    live = check_saved.heard(trainer.model, asked)
    if job.recipe.lora and trainer.edited:
        say(
            f"{' and '.join(trainer.edited)} changed the weights by more than a low-rank adapter can hold, so the "
            "result is a whole model. For the nearest adapter of rank R and its error, run `unforgotten repair "
            "--as-lora R`."
        )
    with atomic_folder.folder(target, alone=True) as part:
        if is_model:
            trainer.model.save_pretrained(part)
        else:
            revision = job.aligned.revision if start.base == job.aligned.base else None
            adapter = save_adapter(trainer.model, part, start.base, revision)
        start.chat.save(part)
        again = check_saved.proved(
            trainer.model, live, asked, part, lambda: Shelf().model(str(part), job.recipe), adapter
        )
        say(f"The saved {target.name} gives the trained model's logits: {check_saved.words(again)}.")
        lease.check()
        shutil.rmtree(target, ignore_errors=True)  # of a run that was killed right here
        atomic_folder.publish(part, target)
    return Saved(again, peak)


def peak_memory_bytes() -> int:
    """The most memory in use so far: on the GPU where there is one, else this process's."""
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
