"""What a repair writes: edited weights, and beside them config, tokenizer and template."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.errors import ModelError
from unforgotten.models.folder.open import opened
from unforgotten.verbs.repair.models import FinishedModels

if TYPE_CHECKING:
    from unforgotten.methods.base import Method
    from unforgotten.models.weights.base import Source


def write(edit: Method, weights: FinishedModels, part: Path, as_lora: int | None) -> dict[str, Any]:
    """The edited weights, as an adapter or as whole weights; what repair.json says of them."""
    from unforgotten.models.weights.adapted import Adapted
    from unforgotten.models.weights.base import ByRows, Factors
    from unforgotten.models.weights.stream import stream

    if isinstance(weights.tuned, Adapted) and not edit.dense and as_lora is None:
        return _adapter(edit, weights, weights.tuned, part)

    def dense() -> Iterator[tuple[str, Any]]:
        for name, value in _counted(edit.finish(weights), weights.tuned):
            tensor = value.dense() + weights.aligned[name] if isinstance(value, Factors) else value
            if not isinstance(tensor, ByRows):
                weights.compare(name, tensor, weights.tuned[name])
            yield name, tensor

    stream(weights.tuned, dense(), part)
    counts = {"edited": len(weights.changed), "of": len(weights.tuned.names())}
    if as_lora is None:
        return {"result": "model", **counts}
    return {"result": "adapter", **counts, "approximation": _as_adapter(weights, as_lora, part)}


def _as_adapter(weights: FinishedModels, rank: int, part: Path) -> dict[str, Any]:
    """Turns the written weights into the adapter of this rank nearest to them; how near it is."""
    from unforgotten.models.weights.files import Files
    from unforgotten.models.weights.low_rank import nearest_adapter

    full = part / "whole"
    full.mkdir()
    for file in list(part.glob("model*")):
        file.rename(full / file.name)
    errors = nearest_adapter(Files(full), weights.aligned, rank, part)
    shutil.rmtree(full)
    weights.note(
        f"An adapter of rank {rank} leaves {100 * errors['relative_error']:.1f} % of the change from θ_safe "
        f"unrepresented (Frobenius norm; the worst module: {100 * errors['worst']:.1f} %, {errors['worst_module']})."
    )
    return dict(errors)


def _adapter(edit: Method, weights: FinishedModels, tuned: Any, part: Path) -> dict[str, Any]:
    """A new adapter of the tuned one's shape, with the edited factors."""
    from safetensors.torch import save_file

    from unforgotten.models.weights.base import Factors

    tensors, edited = dict(tuned.tensors), 0
    for name, value in edit.finish(weights):
        if not isinstance(value, Factors):
            raise ModelError(f"{type(edit).__name__} yields the whole weight {name!r} for an adapter.")
        down, up, scale = tuned.places(name)
        tensors[down] = value.down.to(tensors[down].dtype).contiguous()
        tensors[up] = (value.up / scale).to(tensors[up].dtype).contiguous()
        edited += 1
    save_file(tensors, part / "adapter_model.safetensors", metadata={"format": "pt"})
    return {"result": "adapter", "edited": edited, "of": len(tensors) // 2}


def _counted(pairs: Iterable[tuple[str, Any]], of: Source) -> Iterator[tuple[str, Any]]:
    from unforgotten.runs.bars import progress_bar

    with progress_bar() as tick:
        for i, pair in enumerate(pairs, 1):
            yield pair
            tick("editing weights", i, len(of.names()))


def copy_beside(part: Path, sources: list[str], *, adapter: bool) -> None:
    """Config, tokenizer and template, each from the first of the models that has it; θ_safe too if it was bundled."""
    skip = {"model.safetensors.index.json", "repair.json", "adapter_config.json", "aligned.json"}
    if adapter and not (part / "adapter_config.json").exists():
        first = opened(sources[0])
        shutil.copyfile(first.path / "adapter_config.json", part / "adapter_config.json")
        if first.is_bundled:
            from unforgotten.models.saved_adapter import bundle

            bundle(Path(sources[0]).expanduser(), part)
    skip |= {"config.json", "generation_config.json"} if adapter else set()
    for place in (opened(source) for source in sources if Path(source).expanduser().is_dir()):
        for name in place.files:
            if name in skip or name.endswith((".safetensors", ".index.json")) or (part / name).exists():
                continue
            (part / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(place.path / name, part / name)
