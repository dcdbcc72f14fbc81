"""Whatever names a model, opened as a source of weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from unforgotten.errors import ModelError
from unforgotten.models.weights.base import Held, Source, conv1d_weights, untied

if TYPE_CHECKING:
    from unforgotten.models.weights.adapted import Adapted


def opened(
    model: Any, below: Source | None = None, revision: str | None = None, named: Iterable[str | None] = ()
) -> Source:
    """A source for whatever names a model: a folder or Hub id of weights or of an adapter, a module, a state dict.

    below: what an adapter lies on, where that is not the base its config names. named: folders that the operator names,
    which an adapter's config may name as its base.
    """
    from unforgotten.models.weights.adapted import Adapted
    from unforgotten.models.weights.files import Files, folder_of

    if isinstance(model, (Files, Adapted, Held)):
        return model
    if isinstance(model, torch.nn.Module):
        return Held(untied(model.state_dict()), conv1d_weights(model))
    if isinstance(model, Mapping):
        return Held(untied(model))
    folder = folder_of(model, revision)
    if not (folder / "adapter_config.json").is_file():
        return Files(folder)
    return Adapted(below or adapter_base(folder, named), folder)


def adapter_on(folder: str | Path, below: Source, what: str) -> Adapted:
    """The adapter in a folder, seen on these weights. what: how messages call the model that has them.

    Raises ModelError for whole weights, and for an adapter that was trained on others than these.
    """
    from unforgotten.models.weights.adapted import Adapted
    from unforgotten.models.weights.files import folder_of

    place = folder_of(folder, None)
    if not (place / "adapter_config.json").is_file():
        raise ModelError(f"{folder} is no adapter. Name the folder `adapter` of a run.")
    adapter = Adapted(below, place)
    own = adapter_base(place)
    for name in adapter.adapted():
        if not _near(own[name], below[name]):
            raise ModelError(
                f"The adapter {folder} was not trained on {what}: {name} differs below it. Train it on {what}, with "
                "`lora.existing: merge` where that is an adapter itself."
            )
    return adapter


def _near(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two weights differ by rounding alone: by less than alignment moves a layer, in the Frobenius norm."""
    if first.shape != second.shape:
        return False
    coarse = max(torch.finfo(t.dtype).eps for t in (first, second))
    apart = size = 0.0
    for ours, theirs in zip(first.split(256), second.split(256), strict=True):  # whole in fp64 it would be the largest
        wide = theirs.double()
        apart += float((ours.to(theirs.device).double() - wide).square().sum())
        size += float(wide.square().sum())
    return bool(apart**0.5 <= max(5e-7, coarse / 16) * size**0.5)


def adapter_base(folder: Path, named: Iterable[str | None] = ()) -> Source:
    """What an adapter lies on: the weights bundled in its folder, or the model that its config names."""
    from unforgotten.models.folder.adapter import base_of
    from unforgotten.models.folder.open import opened as checked
    from unforgotten.models.weights.files import Files

    place = checked(str(folder))
    if place.is_bundled:
        return Files(place.path)
    config = place.adapter or {}
    return opened(base_of(config, str(folder), named), revision=config.get("revision"))
