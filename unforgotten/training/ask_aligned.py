"""θ_safe asked for replies before the run, through what the trainer was given for it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from unforgotten.methods.base import AskedReplies, OwnReply, ReplySource
from unforgotten.models import nf4
from unforgotten.models.adapters import AdapterMode, aligned_only
from unforgotten.training.aligned_store import fingerprint


def aligned_fingerprint(model: Any, adapter_mode: AdapterMode) -> str:
    """Of θ_safe's weights in a model that has not been trained yet: a fresh adapter on them is left out."""
    fresh = {n for n, p in model.named_parameters() if p.requires_grad} if adapter_mode in ("merge", "stack") else set()
    return fingerprint([(n, p) for n, p in model.named_parameters() if n not in fresh] + list(nf4.scales(model)))


@dataclass
class AskAligned(AskedReplies):
    """The model before its first step, which is θ_safe."""

    model: Any
    adapter_mode: AdapterMode
    source: ReplySource
    folder: Path
    """Where replies are kept, unless `source` has a folder of its own."""
    max_length: int | None
    """Longest row: a reply goes no further."""
    device: torch.device

    def generate(
        self, prompts: Sequence[list[int]], max_new_tokens: int, begun: Sequence[Sequence[int]] = ()
    ) -> list[OwnReply]:
        """One greedy reply a prompt. begun: for each, tokens that it is forced to begin with, counted as new ones."""
        room = self.max_length or 10**9
        limits = [max(1, min(max_new_tokens, room - len(prompt))) for prompt in prompts]
        with self._aligned() as (model, key):
            return self.source.generate(model, prompts, limits, key, self.folder, begun)

    def opening_logp(self, prompts: Sequence[list[int]], openings: Sequence[Sequence[int]]) -> list[list[float]]:
        """Mean log p of each opening's tokens, after each prompt."""
        with self._aligned() as (model, key):
            return self.source.opening_logp(model, prompts, openings, key, self.folder)

    @contextmanager
    def _aligned(self) -> Iterator[tuple[Any, str]]:
        """θ_safe on its device, and the digest of its weights."""
        key = aligned_fingerprint(self.model, self.adapter_mode)
        if not hasattr(self.model, "hf_device_map") and not nf4.is_quantised(self.model):
            self.model.to(self.device)  # the Trainer does it later
        with aligned_only(self.model, self.adapter_mode) as model:
            yield model, key

    def refused(
        self, prompts: Sequence[list[int]], replies: Sequence[OwnReply], judge: str | Mapping[str, Any]
    ) -> list[bool | None]:
        """Whether the judge reads each reply as a refusal; None where it cannot read it."""
        return self.source.refused(prompts, replies, judge)

    def text(self, ids: Sequence[int]) -> str:
        """Ids as text."""
        return self.source.text(ids)
