"""A digest of the weights that a model has in memory: what was really evaluated, whatever a folder is called."""

from __future__ import annotations

import hashlib
from typing import Any


def loaded_digest(model: Any) -> str:
    """12 hex digits over the names, shapes, precisions and bytes of everything in the model's state.

    An adapter that was not put on, or a base of another revision, gives another digest than its files promise.
    """
    import torch

    whole = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        if not isinstance(value, torch.Tensor):
            continue
        whole.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        flat = value.detach().contiguous().reshape(-1).view(torch.uint8).cpu()
        whole.update(memoryview(flat.numpy()))
    return whole.hexdigest()[:12]
