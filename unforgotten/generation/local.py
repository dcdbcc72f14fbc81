"""Replies from a model in this process: batched, left-padded, sorted by length, greedy unless asked otherwise.

Nothing of the model's own generation config is used but its end tokens (through the chat): an instruct model's
sampling, temperature or repetition penalty would make a greedy reply neither greedy nor comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import TYPE_CHECKING, Any

from unforgotten.chat import Chat
from unforgotten.datasets.base import Row
from unforgotten.errors import DataError, ModelError
from unforgotten.judges.base import Reply

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
) -> list[Reply]:
    """One reply for each row, in the rows' order. `progress(done, rows)` is called after each batch.

    `temperature` 0 is greedy; above it, sampling seeded by `seed`, from the whole distribution unless `top_p` is lower.
    A reply never runs over the model's context: such a row gets what is left of it, and finishes with "length".
    """
    import torch

    context = getattr(_config(model), "max_position_embeddings", None)
    prompts = [chat.prompt(row) for row in rows]
    if long := [n for n, prompt in enumerate(prompts) if context and len(prompt) >= context]:
        named = [(n + 1, f"{rows[n].source or 'prompt'} has {len(prompts[n])} tokens") for n in long]
        raise DataError(f"{len(long)} prompts leave no room in the model's context of {context} tokens:", named)

    def limit(index: int) -> int:
        return min(max_new_tokens, context - len(prompts[index])) if context else max_new_tokens

    replies: list[Reply | None] = [None] * len(rows)
    # Longest first: what does not fit into memory fails at once. Rows with less room than the others have their own
    # batches, so that a reply never depends on its neighbours.
    order = sorted(range(len(rows)), key=lambda index: -len(prompts[index]))
    done = 0
    device = next(model.parameters()).device
    with _ready(model), torch.random.fork_rng([device] if device.type == "cuda" else [], enabled=temperature > 0):
        if temperature > 0:
            torch.manual_seed(seed)
        for room, group in groupby(order, key=limit):
            same = list(group)
            for chosen in (same[i : i + batch_size] for i in range(0, len(same), batch_size)):
                settings = _settings(chat, room, temperature, top_p)
                for index, ids in zip(chosen, _batch(model, chat, [prompts[i] for i in chosen], settings), strict=True):
                    replies[index] = _reply(chat, rows[index], ids)
                done += len(chosen)
                if progress:
                    progress(done, len(rows))
    return [reply for reply in replies if reply is not None]


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
    found: list[list[int]] = []
    with _ready(model), torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        while len(found) < n:
            found += _batch(model, chat, [prompt] * min(batch_size, n - len(found)), settings)
            if progress:
                progress(len(found), n)
    return found


def decoding(chat: Chat, *, max_new_tokens: int = 512, temperature: float = 0.0, seed: int = 0) -> dict[str, Any]:
    """What `generate` does with these arguments, for results.json."""
    facts: dict[str, Any] = {"strategy": "sampling" if temperature > 0 else "greedy", "max_new_tokens": max_new_tokens}
    if temperature > 0:
        facts |= {"temperature": temperature, "seed": seed}
    return facts | {"stop": chat.tokenizer.convert_ids_to_tokens(list(chat.end_ids)), "engine": "transformers"}


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
    found = model.generate(
        input_ids=ids,
        attention_mask=mask,
        generation_config=GenerationConfig(**settings),
        logits_processor=LogitsProcessorList([_finite]),
    )
    ends = set(settings["eos_token_id"])
    made: list[list[int]] = []
    for new in found[:, width:].tolist():
        stop = next((n for n, id in enumerate(new) if id in ends), len(new) - 1)
        made.append(new[: stop + 1])
    return made


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


def _reply(chat: Chat, row: Row, ids: list[int]) -> Reply:
    stopped = ids[-1] in chat.end_ids
    text = chat.decode(ids[:-1] if stopped else ids)
    return Reply(row, text, "stop" if stopped else "length", len(ids))


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
