"""`Aligned`, a record of where θ_safe lies: whole weights, or an adapter on a base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


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
    by_align_stage: bool
    """Whether stage align makes it; its template is then kept beside it."""

    def json(self) -> dict[str, Any]:
        """As environment.json and aligned.json have it: `by_align_stage` is called `made` there."""
        return {"made" if name == "by_align_stage" else name: value for name, value in asdict(self).items()}

    @classmethod
    def of_json(cls, facts: Mapping[str, Any]) -> Aligned:
        """The same read back. Raises TypeError where a field is missing or unknown."""
        if "made" not in facts:
            raise TypeError("`made` is missing")
        return cls(**{"by_align_stage" if name == "made" else name: value for name, value in facts.items()})

    @property
    def record(self) -> Path:
        """What stage align writes last, about what it made."""
        return Path(self.chat) / "aligned.json"
