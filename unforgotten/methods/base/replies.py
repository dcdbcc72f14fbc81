"""θ_safe's own replies before the run: `run.replies`, and what a trainer is given to make them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True, slots=True)
class OwnReply:
    """What θ_safe answered to a prompt of token ids."""

    ids: tuple[int, ...]
    """The new tokens, with the one that ends the turn; at least one."""
    ended: bool
    """Whether the turn was ended; otherwise the reply was cut at its limit."""


class ReadsReplies(Protocol):
    """Who reads replies: whether they refuse, and their words."""

    def refused(
        self, prompts: Sequence[list[int]], replies: Sequence[OwnReply], judge: str | Mapping[str, Any]
    ) -> list[bool | None]:
        """Whether the judge reads each reply as a refusal; None where it cannot read it."""

    def text(self, ids: Sequence[int]) -> str:
        """Ids as text."""


class ReplySource(ReadsReplies, Protocol):
    """What `MethodTrainer(replies=…)` takes: evaluation/aligned_replies.py generates and asks judges."""

    def generate(
        self,
        model: Any,
        prompts: Sequence[list[int]],
        limits: Sequence[int],
        key: str,
        folder: Path,
        begun: Sequence[Sequence[int]] = (),
    ) -> list[OwnReply]:
        """One greedy reply a prompt, of at most `limits[i]` tokens. key: digest of θ_safe. folder: to keep them in.

        begun: for each prompt, tokens that its reply is forced to begin with; they are part of the reply.
        """

    def opening_logp(
        self,
        model: Any,
        prompts: Sequence[list[int]],
        openings: Sequence[Sequence[int]],
        key: str,
        folder: Path,
    ) -> list[list[float]]:
        """Mean log p of each opening's tokens, after each prompt: one list a prompt."""


class AskedReplies(ReadsReplies, Protocol):
    """`run.replies`: the same of this run's θ_safe."""

    def generate(
        self, prompts: Sequence[list[int]], max_new_tokens: int, begun: Sequence[Sequence[int]] = ()
    ) -> list[OwnReply]:
        """One greedy reply a prompt, made once for all runs of this θ_safe. begun: what each has to begin with."""

    def opening_logp(self, prompts: Sequence[list[int]], openings: Sequence[Sequence[int]]) -> list[list[float]]:
        """Mean log p of each opening's tokens, after each prompt: one list a prompt, made once as well."""
