"""Memory rows chosen by relevance to the upload and by diversity. [SPARD, arXiv 2605.28030]

    K_ij = (q_i q_j)^β · (s_ij + ridge · 1[i = j])        chosen: greedily, the row that adds most to log det K

s_ij is the cosine of the centred mean states of two prompts under θ_safe. q_i = (1 + c_i) / 2, where c_i is the mean
cosine with the `NEAREST` user prompts nearest to row i, so that a small part of an upload counts as well. In SPARD's
tables, safety rows near to the user's prompts protect most, and copies of them less (β = 4). What q is there, we have
not read: this q is our choice. The ridge is ours too: without it, no more rows than d could be chosen.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unforgotten.methods.base import EncodedRow
from unforgotten.models.adapters import AdapterMode, aligned_only
from unforgotten.runs import bars
from unforgotten.training import head
from unforgotten.training.aligned_store import Once, digest
from unforgotten.training.ask_aligned import aligned_fingerprint
from unforgotten.training.collate import Collator
from unforgotten.training.replay_memory import prompt_of

NEAREST = 5
"""User prompts that a safety row is compared with. Our choice."""
RIDGE = 1e-3
CANDIDATES = 16
"""Safety rows read for each one wanted: large safety data need not be read as a whole."""
USER_PROMPTS = 2000
"""User prompts read at most."""


def relevance(safety: Tensor, user: Tensor, nearest: int = NEAREST) -> Tensor:
    """q (n,) in [0, 1] from features of unit length: safety (n, d), user (m, d)."""
    return (1 + (safety @ user.T).topk(min(nearest, len(user)), 1).values.mean(1)) / 2


def greedy(quality: Tensor, features: Tensor, n: int, power: float, ridge: float = RIDGE) -> list[int]:
    """n places whose kernel has, greedily, the largest determinant. quality: (N,); features: (N, d) of unit length.

    By the Cholesky factor of what is chosen, one column a choice. [Chen et al., arXiv 1709.05135]
    """
    scale = quality.double().clamp_min(1e-9) ** power  # (N,)
    features = features.double()
    gain = scale.square() * (features.square().sum(1) + ridge)  # (N,): what each row would multiply the determinant by
    columns = torch.zeros(len(scale), n, dtype=torch.float64)
    chosen: list[int] = []
    for k in range(n):
        best = int(gain.argmax())
        chosen.append(best)
        row = scale * scale[best] * (features @ features[best])
        row[best] += ridge * scale[best] ** 2
        columns[:, k] = (row - columns[:, :k] @ columns[best, :k]) / gain[best].clamp_min(1e-300).sqrt()
        gain = (gain - columns[:, k].square()).clamp_min(0)
        gain[chosen] = -1.0
    return chosen


@dataclass
class Relevant:
    """The choice for one run: θ_safe, the safety rows and the upload. Made once, and read back on resume."""

    model: Any
    """Before its first step, so that it is θ_safe."""
    adapter_mode: AdapterMode
    safety: Sequence[EncodedRow]
    user: Sequence[EncodedRow]
    power: float
    seed: int
    pad_id: int
    batch_size: int
    device: torch.device
    folder: Path
    """The folder of what θ_safe determines."""
    notes: list[str] = field(default_factory=list)
    """What a user should know of the choice."""

    def __call__(self, places: Sequence[int], n: int) -> list[int]:
        """n of these places of the safety data."""
        rng = random.Random(f"candidates {self.seed}")
        few = sorted(rng.sample(list(places), min(len(places), CANDIDATES * n)))
        read = "" if len(few) == len(places) else f"; {len(few)} of {len(places)}, drawn by the seed, were compared"
        self.notes.append(
            f"{n} safety rows were chosen by relevance to {len(self._asked)} of {len(self.user)} user prompts, and by "
            f"diversity{read}"
        )

        def build() -> dict[str, Tensor]:
            safety, user = self._features([self.safety[i] for i in few]), self._user
            middle = torch.cat([safety, user]).mean(0)
            safety, user = (torch.nn.functional.normalize(f - middle, dim=1) for f in (safety, user))
            chosen = greedy(relevance(safety, user), safety, n, self.power)
            return {"places": torch.tensor([few[k] for k in chosen])}

        prompts = [[row["input_ids"] for row in rows] for rows in ([self.safety[i] for i in few], self._asked)]
        key = digest(self._fingerprint, *prompts, few, n, self.power)
        chosen: list[int] = Once(self.folder, key, may_build=True)("memory-choice", build)["places"].tolist()
        return chosen

    @cached_property
    def _fingerprint(self) -> str:
        return aligned_fingerprint(self.model, self.adapter_mode)

    @cached_property
    def _asked(self) -> list[EncodedRow]:
        places = random.Random(f"user prompts {self.seed}").sample(
            range(len(self.user)), min(len(self.user), USER_PROMPTS)
        )
        return [self.user[i] for i in sorted(places)]

    @cached_property
    def _user(self) -> Tensor:
        return self._features(self._asked)

    def _features(self, rows: Sequence[EncodedRow]) -> Tensor:
        """The mean last state of each row's prompt under θ_safe, (n, d) float64."""
        if not hasattr(self.model, "hf_device_map") and not getattr(self.model, "is_quantized", False):
            self.model.to(self.device)  # the Trainer does it later
        features = []
        with aligned_only(self.model, self.adapter_mode) as model, bars.quiet_bar() as report:
            for at in range(0, len(rows), self.batch_size):
                prompts = [{**prompt_of(row), "row_id": 0} for row in rows[at : at + self.batch_size]]
                batch = Collator(self.pad_id)(prompts)
                inputs = {name: batch[name].to(self.device) for name in ("input_ids", "attention_mask")}
                hidden = head.last_hidden(model, inputs, model).double()  # (B, T, d)
                mask = inputs["attention_mask"][..., None]
                report("comparing prompts", min(at + self.batch_size, len(rows)), len(rows))
                features.append(((hidden * mask).sum(1) / mask.sum(1)).cpu())
        return torch.cat(features)
