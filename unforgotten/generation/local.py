"""Replies from a model in this process: batched, left-padded, sorted by length, greedy unless asked otherwise.

Nothing of the model's own generation config is used but its end tokens (through the chat): an instruct model's
sampling, temperature or repetition penalty would make a greedy reply neither greedy nor comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from unforgotten.datasets.base import Row
from unforgotten.errors import DataError, ModelError
from unforgotten.generation.reply import Reply
from unforgotten.generation.resume import Kept
from unforgotten.models.chat import Chat, fits
from unforgotten.models.chat.thinking import begun_by, split

if TYPE_CHECKING:
    from torch import Tensor, nn


def generate(
    model: nn.Module,
    chat: Chat,
    rows: Sequence[Row],
    *,
    max_new_tokens: int = 512,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    kept: Path | None = None,
    noted: Callable[[str], None] | None = None,
) -> list[Reply]:
    """One reply for each row, in the rows' order. `progress(done, rows)` is called after each batch.

    `temperature` 0 is greedy; above it, sampling seeded by `seed`, from the whole distribution unless `top_p` is lower.
    A reply never runs over the model's context: such a row gets what is left of it, and finishes with "length".
    kept: a JSONL file of finished rows, for one model; a killed call goes on there, with the batches that it would have
    had, so that nothing depends on the kill. noted: told where memory did not suffice for a whole batch.
    """
    import torch

    context = getattr(_config(model), "max_position_embeddings", None)
    prompts = [chat.prompt(row) for row in rows]
    if long := [n for n, prompt in enumerate(prompts) if context and len(prompt) >= context]:
        named = [(n + 1, f"{rows[n].source or 'prompt'} has {len(prompts[n])} tokens") for n in long]
        raise DataError(f"{len(long)} prompts leave no room in the model's context of {context} tokens:", named)

    fits.refuse([(row.source, prompt) for row, prompt in zip(rows, prompts, strict=True)], model, room=False)

    def limit(index: int) -> int:
        return min(max_new_tokens, context - len(prompts[index])) if context else max_new_tokens

    asked = [[prompt, limit(i), temperature, top_p, seed] for i, prompt in enumerate(prompts)]
    finished = Kept(kept, asked)
    replies = {i: _kept(row, finished.facts[i]) for i, row in enumerate(rows) if i in finished.facts}
    # Longest first: what does not fit into memory fails at once. Rows with less room than the others have their own
    # batches, so that a reply never depends on its neighbours.
    order = sorted(range(len(rows)), key=lambda index: -len(prompts[index]))
    device = next(model.parameters()).device
    batches = _Batches(model, chat, noted)
    with _ready(model), torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=temperature > 0):
        if temperature > 0:
            torch.manual_seed(seed)
        for number, chosen in enumerate(_cut(order, limit, batch_size)):
            if all(index in replies for index in chosen):
                continue
            if temperature > 0 and kept:
                torch.manual_seed(seed + number)  # what was drawn before a kill is not drawn again
            room = limit(chosen[0])
            new_ids = batches.made([prompts[i] for i in chosen], _settings(chat, room, temperature, top_p))
            opened = [begun_by(chat, prompts[i]) for i in chosen]
            fresh = {
                index: _reply(chat, rows[index], ids, begun)
                for index, ids, begun in zip(chosen, new_ids, opened, strict=True)
                if index not in replies
            }
            finished.add_all({index: _facts(reply) for index, reply in fresh.items()})
            replies |= fresh
            if progress:
                progress(len(replies), len(rows))
    return [replies[index] for index in range(len(rows))]


def _cut(order: list[int], limit: Callable[[int], int], batch_size: int) -> Iterator[list[int]]:
    """The batches of a whole set of rows."""
    for _, group in groupby(order, key=limit):
        same = list(group)
        yield from (same[i : i + batch_size] for i in range(0, len(same), batch_size))


def continuations(
    model: nn.Module,
    chat: Chat,
    prompt: list[int],
    n: int,
    *,
    max_new_tokens: int,
    batch_size: int = 64,
    temperature: float = 1.0,
    seed: int = 0,
    stop_ids: Sequence[int] = (),
    progress: Callable[[int, int], None] | None = None,
) -> list[list[int]]:
    """`n` samples of what follows one prompt of ids, each up to and including the first end token that it came to.

    stop_ids: tokens that end a sample beside the chat's own, such as the one that opens the answer.
    """
    import torch

    context = getattr(_config(model), "max_position_embeddings", None)
    if context and len(prompt) >= context:
        raise DataError(f"The prompt has {len(prompt)} tokens, and the model's context is {context} tokens.")
    room = min(max_new_tokens, context - len(prompt)) if context else max_new_tokens
    settings = _settings(chat, room, temperature)
    settings["eos_token_id"] = list(dict.fromkeys([*settings["eos_token_id"], *stop_ids]))
    device = next(model.parameters()).device
    samples: list[list[int]] = []
    with _ready(model), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        while len(samples) < n:
            samples += _batch(model, chat, [prompt] * min(batch_size, n - len(samples)), settings)
            if progress:
                progress(len(samples), n)
    return samples


def decoding(
    chat: Chat, *, max_new_tokens: int = 512, temperature: float = 0.0, top_p: float = 1.0, seed: int = 0
) -> dict[str, Any]:
    """What `generate` does with these arguments, for results.json."""
    facts: dict[str, Any] = {"strategy": "sampling" if temperature > 0 else "greedy", "max_new_tokens": max_new_tokens}
    if temperature > 0:
        facts |= {"temperature": temperature, "top_p": top_p, "seed": seed}
    return facts | {"stop": chat.tokenizer.convert_ids_to_tokens(list(chat.end_ids)), "engine": "transformers"}


class _Batches:
    """Makes batches, in smaller parts once memory did not suffice for a whole one."""

    def __init__(self, model: Any, chat: Chat, noted: Callable[[str], None] | None) -> None:
        self._model, self._chat, self._noted = model, chat, noted
        self._at_once = 0

    def made(self, prompts: list[list[int]], settings: dict[str, Any]) -> list[list[int]]:
        """New ids for each prompt. Raises ModelError where not even one prompt fits."""
        size, new_ids = self._at_once or len(prompts), list[list[int]]()
        while len(new_ids) < len(prompts):
            part = prompts[len(new_ids) : len(new_ids) + size]
            try:
                new_ids += _batch(self._model, self._chat, part, settings)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if len(part) == 1:
                    raise ModelError(
                        f"Memory does not suffice for one prompt of {len(part[0])} tokens and its reply. Lower "
                        "evaluate.max_new_tokens, or load the model in bfloat16 (dtype)."
                    ) from None
                size = self._smaller(len(part))
        return new_ids

    def _smaller(self, failed: int) -> int:
        import torch

        self._at_once = failed // 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self._noted:
            self._noted(
                f"Memory did not suffice for {failed} prompts at once, so {self._at_once} were generated together."
            )
        return self._at_once


def is_out_of_memory(error: BaseException) -> bool:
    """Did an allocation fail, on a GPU or in main memory?"""
    import torch

    words = ("out of memory", "can't allocate memory", "DefaultCPUAllocator")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error) for word in words)


def _batch(model: Any, chat: Chat, prompts: list[list[int]], settings: dict[str, Any]) -> list[list[int]]:
    """New ids for each prompt, its end token included where it came to one.

    transformers counts positions from the mask, so padding on the left does not shift them (a test holds it to that).
    """
    import torch
    from transformers import GenerationConfig, LogitsProcessorList

    width = max(len(prompt) for prompt in prompts)
    device = next(model.parameters()).device
    ids = torch.tensor([[chat.pad_id] * (width - len(p)) + p for p in prompts], device=device)  # (B, T)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)  # (B, T)
    sequences = model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=GenerationConfig(**settings),
        logits_processor=LogitsProcessorList([_finite]),
    )
    ends = set(settings["eos_token_id"])
    new_ids: list[list[int]] = []
    for new in sequences[:, width:].tolist():
        stop = next((n for n, id in enumerate(new) if id in ends), len(new) - 1)
        new_ids.append(new[: stop + 1])
    return new_ids


def _finite(ids: Tensor, logits: Tensor) -> Tensor:
    """A broken model would say its first token for ever, which a judge reads as harmless: it stops instead."""
    if logits.isnan().any():
        raise ModelError(
            "The model's logits are NaN. Its weights diverged, or its precision does not carry its attention "
            "(eager attention in float64 does not on padded rows: use float32)."
        )
    return logits


def _settings(chat: Chat, room: int, temperature: float, top_p: float = 1.0) -> dict[str, Any]:
    sampled = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": top_p}
    return {
        "max_new_tokens": room,
        "eos_token_id": list(chat.end_ids),
        "pad_token_id": chat.pad_id,
        "use_cache": True,
        **(sampled if temperature > 0 else {"do_sample": False}),
    }


def _reply(chat: Chat, row: Row, ids: list[int], opened: bool = False) -> Reply:
    """A reply, its thought told apart from its answer. opened: the prompt ends in a thought that was begun."""
    stopped = ids[-1] in chat.end_ids
    ids = ids[:-1] if stopped else ids
    finish: Literal["stop", "length"] = "stop" if stopped else "length"
    text, tokens = chat.decode(ids), len(ids) + stopped
    # Some models' marks are special tokens, which a plain decoding leaves out.
    parts = split(whole := chat.decode(ids, skip_special_tokens=False), opened)
    if not parts.thought and not parts.unclosed:
        # A thought that is empty is none, but its marks are no part of the answer.
        return Reply(row, text if parts.answer == whole else _plain(chat, parts.answer), finish, tokens)
    return Reply(row, _plain(chat, parts.answer), finish, tokens, _plain(chat, parts.thought), parts.unclosed)


def _plain(chat: Chat, text: str) -> str:
    for token in chat.tokenizer.all_special_tokens:
        text = text.replace(token, "")
    return text


def _facts(reply: Reply) -> dict[str, Any]:
    facts = {"text": reply.text, "finish": reply.finish, "tokens": reply.tokens}
    return facts | {"thought": reply.thought, "unclosed": reply.unclosed}


def _kept(row: Row, facts: dict[str, Any]) -> Reply:
    return Reply(row, facts["text"], facts["finish"], facts["tokens"], facts["thought"], facts["unclosed"])


def _config(model: Any) -> Any:
    return model.config.get_text_config(decoder=True) if hasattr(model, "config") else None


@contextmanager
def _ready(model: Any) -> Iterator[None]:
    """Eval mode and an empty generation config for a while; then every module is as it was, dropout too.

    transformers fills what a generation config leaves open from the model's own, so that one is laid aside.
    """
    from transformers import GenerationConfig

    modes = {module: module.training for module in model.modules()}
    theirs = {module: module.generation_config for module in modes if "generation_config" in vars(module)}
    try:
        model.eval()
        for module in theirs:
            module.generation_config = GenerationConfig()
        yield
    finally:
        for module, config in theirs.items():
            module.generation_config = config
        for module, mode in modes.items():
            module.training = mode
