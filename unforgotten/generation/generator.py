"""What a model writes after prompts of token ids. One generator serves replies and guards.

Batches are sorted by length, longest first, so that what does not fit into memory fails at once. They are padded on the
left and always masked: without a mask, transformers takes every pad id in a prompt for padding, and id 0 is "!" in
Llama 3's vocabulary. Positions are counted from the mask, so padding does not shift them.

Nothing of the model's own generation config is used. An instruct model's temperature or repetition penalty would make a
greedy reply neither greedy nor comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unforgotten.errors import ModelError

if TYPE_CHECKING:
    from torch import nn

Note = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How tokens are chosen, and which of them end a text."""

    end_ids: tuple[int, ...]
    pad_id: int
    temperature: float = 0.0
    """0 is greedy; above it, tokens are sampled."""
    top_p: float = 1.0
    seed: int = 0

    @property
    def sampled(self) -> bool:
        """Whether tokens are sampled."""
        return self.temperature > 0


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a model wrote after one prompt."""

    ids: list[int]
    """The new tokens, up to and including the first end token; at least one."""
    ended: bool
    """Whether the last one is an end token; otherwise the text was cut at its limit."""
    p_first: float | None = None
    """The probability of the watched token as the first one, among all tokens."""


class Generator:
    """Continues prompts in batches; a batch that memory does not hold is halved, and so are the later ones."""

    def __init__(
        self,
        model: nn.Module,
        decoding: Decoding,
        *,
        watched_id: int | None = None,
        memory_advice: str = "Lower evaluate.max_new_tokens, or load the model in bfloat16 (dtype).",
        note: Note | None = None,
    ) -> None:
        """watched_id: the token whose probability as the first one is wanted. memory_advice: what a user can do where
        one prompt alone needs too much. note: is given a sentence each time that batches get smaller."""
        self.model, self.decoding = model, decoding
        self._watched_id, self._memory_advice, self._note = watched_id, memory_advice, note
        self._most_at_once: int | None = None

    def run(
        self,
        prompts: Sequence[list[int]],
        limits: Sequence[int],
        *,
        batch_size: int,
        finished: Callable[[dict[int, Continuation]], None],
        done: Collection[int] = (),
        seed_batches: bool = False,
    ) -> None:
        """Continues each prompt by at most `limits[index]` tokens; `finished` is given each batch by index.

        Prompts of one limit share batches, so that a text never depends on its neighbours.
        done: prompts that need no answer. Batches are cut from all prompts all the same, so that nothing depends on
        where an earlier call was killed; only a batch that is done as a whole is left out.
        seed_batches: seeds each batch by its number, so that a resumed call does not draw again what was drawn before.
        Raises ModelError where memory does not hold one prompt, and where logits are NaN.
        """
        decoding = self.decoding
        device = next(self.model.parameters()).device
        devices = [device] if device.type == "cuda" else []
        with ready(self.model), torch.random.fork_rng(devices, enabled=decoding.sampled):
            if decoding.sampled:
                torch.manual_seed(decoding.seed)
            for number, batch in enumerate(_batches(prompts, limits, batch_size)):
                if all(index in done for index in batch):
                    continue
                if decoding.sampled and seed_batches:
                    torch.manual_seed(decoding.seed + number)
                texts = self._continued([prompts[index] for index in batch], limits[batch[0]])
                finished(dict(zip(batch, texts, strict=True)))

    def _continued(self, prompts: list[list[int]], limit: int) -> list[Continuation]:
        """One batch, in parts where memory does not hold it."""
        size, texts = self._most_at_once or len(prompts), list[Continuation]()
        while len(texts) < len(prompts):
            part = prompts[len(texts) : len(texts) + size]
            try:
                texts += self._generated(part, limit)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise ModelError(
                        f"Memory does not suffice for one prompt of {len(part[0])} tokens and its reply. "
                        f"{self._memory_advice}"
                    ) from None
                size = self._halve(len(part))
        return texts

    def _halve(self, failed: int) -> int:
        size = self._most_at_once = failed // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self._note:
            self._note(f"Memory did not suffice for {failed} prompts at once, so {size} were generated together.")
        return size

    def _generated(self, prompts: list[list[int]], limit: int) -> list[Continuation]:
        """B prompts, padded to T tokens; at most `limit` new ones each."""
        from transformers import GenerationConfig, LogitsProcessorList

        decoding, width = self.decoding, max(len(prompt) for prompt in prompts)
        device = next(self.model.parameters()).device
        ids = torch.tensor([[decoding.pad_id] * (width - len(p)) + p for p in prompts], device=device)  # (B, T)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)  # (B, T)
        sampling = {"temperature": decoding.temperature, "top_k": 0, "top_p": decoding.top_p}
        settings = GenerationConfig(
            max_new_tokens=limit,
            eos_token_id=list(decoding.end_ids),
            pad_token_id=decoding.pad_id,
            use_cache=True,
            do_sample=decoding.sampled,
            **(sampling if decoding.sampled else {}),
        )
        logits = _Logits(self._watched_id)
        model: Any = self.model
        sequences = model.generate(
            input_ids=ids,
            attention_mask=mask,
            generation_config=settings,
            logits_processor=LogitsProcessorList([logits]),
        )  # (B, T + at most `limit`)
        firsts = logits.p_first or [None] * len(prompts)
        return [self._cut(new, p) for new, p in zip(sequences[:, width:].tolist(), firsts, strict=True)]

    def _cut(self, new_ids: list[int], p_first: float | None) -> Continuation:
        """Without what stands after the first end token, which is padding."""
        end = next((at for at, id in enumerate(new_ids) if id in self.decoding.end_ids), None)
        return Continuation(new_ids if end is None else new_ids[: end + 1], end is not None, p_first)


class _Logits:
    """Looks at the logits of each step and changes nothing."""

    def __init__(self, watched_id: int | None) -> None:
        self.watched_id = watched_id
        self.p_first: list[float | None] | None = None

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:  # (B, T), (B, V)
        # A broken model would say its first token for ever, which a judge reads as harmless.
        if logits.isnan().any():
            raise ModelError(
                "The model's logits are NaN. Its weights diverged, or its precision does not carry it: load it in "
                "float32 (dtype). Eager attention in float64 gives NaN on padded rows."
            )
        if self.p_first is None and self.watched_id is not None:
            # In float64; the logits come in float32, whatever the model's precision.
            self.p_first = logits.double().softmax(-1)[:, self.watched_id].tolist()  # (B,)
        return logits


def _batches(prompts: Sequence[list[int]], limits: Sequence[int], batch_size: int) -> Iterator[list[int]]:
    """The indices of each batch: longest prompts first, one limit within a batch."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    for _, group in groupby(order, key=lambda index: limits[index]):
        alike = list(group)
        yield from (alike[at : at + batch_size] for at in range(0, len(alike), batch_size))


def context_tokens(model: nn.Module) -> int | None:
    """The longest prompt with its continuation that the model's configuration allows; None where it says nothing."""
    config: Any = getattr(model, "config", None)
    return getattr(config and config.get_text_config(decoder=True), "max_position_embeddings", None)


def is_out_of_memory(error: BaseException) -> bool:
    """Did an allocation fail, on a GPU or in main memory?"""
    words = ("out of memory", "can't allocate memory", "DefaultCPUAllocator")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in words)


@contextmanager
def ready(model: nn.Module) -> Iterator[None]:
    """Eval mode and an empty generation config for a while; then every module is as it was, dropout too.

    transformers fills what a generation config leaves open from the model's own, so that one is laid aside.
    """
    from transformers import GenerationConfig

    modes = {module: module.training for module in model.modules()}
    configs = {module: module.generation_config for module in modes if "generation_config" in vars(module)}
    try:
        model.eval()
        for module in configs:
            module.generation_config = GenerationConfig()
        yield
    finally:
        for module, config in configs.items():
            module.generation_config = config
        for module, mode in modes.items():
            module.training = mode
