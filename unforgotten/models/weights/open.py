"""Whatever names a model, opened as a source of weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from unforgotten.models.weights.base import Held, Source, conv1d_weights, untied


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
