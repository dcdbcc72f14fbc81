"""What a run's folder says of it, before the first step."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.datasets.base import Row
from unforgotten.datasets.reading import digest
from unforgotten.recipe.aligned import Aligned
from unforgotten.runs import atomic, console, digests, origin
from unforgotten.verbs.finetune.inputs import (
    replay_digest,
)

if TYPE_CHECKING:
    from unforgotten.recipe.recipe import Recipe


def write_record(
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
        console.yaml_text(recipe.record(exclude_unset=False, exclude={"compare", "sweep"})),
    )
    origin.own(folder)
    facts = digests.environment() | {
        "aligned": asdict(where),
        "quantised": loaded,
        "digests": {"user": digest.rows_digest(user), "safety": digest.rows_digest(safety)},
        "rows": {"user": len(user), "harmful": len(harmful), "safety": len(safety)},
        "answers": answered,
        "audit": audit,
        "replay": f"synthetic/{replay_digest(recipe)}/safety.jsonl" if recipe.replay == "synthesize" else None,
        "seed": recipe.seed,
    }
    write_json(folder / "environment.json", facts)
    link = folder / "aligned"
    if where.made and not link.exists():
        try:
            link.symlink_to(Path("..") / "aligned" / where.digest, target_is_directory=True)
        except OSError:  # a file system without links: the adapter has θ_safe bundled anyway
            pass


def write_json(path: Path, facts: Any) -> None:
    """Writes facts as JSON, whole or not at all."""
    atomic.put(path, console.json_text(facts, nan=True) + "\n")


def peak_memory_bytes() -> int:
    """The most memory in use so far: on the GPU where there is one, else this process's."""
    import resource

    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
