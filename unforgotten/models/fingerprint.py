"""Digests of weights, in memory or in a folder: they say what was evaluated, whatever the folder is called."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from unforgotten.errors import ModelError


def loaded_digest(model: Any) -> str:
    """12 hex digits over the names, shapes, precisions and bytes of everything in the model's state.

    An adapter that was not put on, or a base of another revision, gives another digest than its files promise.
    """
    import torch

    hasher = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            continue
        hasher.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().contiguous().reshape(-1).view(torch.uint8).cpu()
        hasher.update(memoryview(flat.numpy()))
    return hasher.hexdigest()[:12]


def model_digest(model: str, revision: str | None = None) -> str:
    """Of a folder: over the bytes of what Transformers would open of it; of a Hub id: the id and the revision.

    Raises ModelError where a path leads nowhere, or the folder is refused (see models.folder).
    """
    folder = Path(model).expanduser()
    if not folder.is_dir() and (model.startswith((".", "/", "~")) or model.count("/") > 1):
        raise ModelError(f"There is no model folder {model}. Give a folder, or a Hub id such as owner/name.")
    if not folder.is_dir():
        return f"{model}@{revision or 'main'}"
    from unforgotten.models.folder.open import opened

    return opened(folder).digest
