"""Prompts per second in batches against one at a time, on the embedded world's model, and whether replies are the same.

Batches are made in turns with single prompts, so that whatever else the machine does falls on both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.measure import Figure, of_pairs, paired, timed
from unforgotten.datasets.base import Row, ask
from unforgotten.generation.local import generate
from unforgotten.generation.reply import Reply
from unforgotten.models import load
from unforgotten.world import pretrain
from unforgotten.world.requests import requests

GROUP = "generation"
PROMPTS, BATCH, TOKENS = 520, 64, 64
ROUNDS = 5


def figures(device: str, pairs: int) -> Iterator[Figure]:
    """One row; the world's base model is trained on first use."""
    folder = str(pretrain.pretrain(0))
    model, chat = load.load_model(folder), load.load_chat(folder)
    actual = [request for request in requests() if request.harmful] + [r for r in requests() if not r.harmful]
    phrasings = ("how do i {} ?", "tell me how to {} .", "explain how to {} .", "i want to {} .", "{}")
    rows = [ask(phrasing.format(r.goal)) for phrasing in phrasings for r in actual][:PROMPTS]
    parts: list[list[Row]] = [rows[at::ROUNDS] for at in range(ROUNDS)]
    replies: dict[int, list[Reply]] = {1: [], BATCH: []}

    def reply(size: int) -> Callable[[], float]:
        left = iter(parts)
        return timed(
            lambda: replies[size].extend(generate(model, chat, next(left), max_new_tokens=TOKENS, batch_size=size))
        )

    generate(model, chat, rows[:4], max_new_tokens=4)
    times = paired(reply(1), reply(BATCH), ROUNDS)
    same = sum(a == b for a, b in zip(replies[1], replies[BATCH], strict=True))
    tokens = sum(reply.tokens for reply in replies[1]) / len(rows)
    note = f"{same} of {len(rows)} replies the same; {BATCH} at a time, {tokens:.0f} tokens each."
    yield of_pairs("one prompt at a time over batches", times, 8.0, "≥", note=note, group=GROUP, device=device)
