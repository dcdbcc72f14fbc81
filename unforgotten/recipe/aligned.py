"""Where θ_safe is: whole weights, or an adapter on a base."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Aligned:
    """Where θ_safe is. Either `full` or `adapter` is set; after stage align both are, but for `load_in` (no `full`)."""

    digest: str
    base: str
    """θ₀, or the public model that `adapter` lies on; the same as `full` where θ_safe is the model as it is."""
    revision: str | None
    full: str | None
    """Folder or Hub id with θ_safe's whole weights."""
    adapter: str | None
    """Folder or Hub id of the LoRA that makes θ_safe of `base`."""
    chat: str
    """Where its tokenizer and chat template are."""
    made: bool
    """Whether stage align made it (its template is then kept beside it)."""

    @property
    def record(self) -> Path:
        """What stage align writes last, about what it made."""
        return Path(self.chat) / "aligned.json"
