"""How surprising a request is to a model: the ends of that scale are babble and stock phrases. [chili-lab/gr-sap]

    NLL = mean over the request's tokens of −log p      kept: those between two percentiles (5 and 95) of all requests

Perplexity is exp(NLL), which has the same percentiles. The official scorer is Qwen2.5-0.5B on the bare text; ours is
the model itself on the text as a user's turn, so that nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from unforgotten.models.chat import Chat


def as_user(chat: Chat, texts: Sequence[str]) -> list[tuple[list[int], int]]:
    """Each text as the words of a user's turn: its ids, and where the request's own begin."""
    before, _ = chat.around_user()
    head = chat.ids(before)
    return [(chat.ids(before + text), max(1, len(head))) for text in texts]


def bare(chat: Chat, texts: Sequence[str]) -> list[tuple[list[int], int]]:
    """Each text by itself, as a plain language model reads it; its first token is given."""
    head = chat.ids(chat.tokenizer.bos_token or "")
    return [(head + chat.ids(text), 1) for text in texts]


def mean_nll(
    model: Any,
    sequences: Sequence[tuple[list[int], int]],
    progress: Callable[[int, int], None] | None = None,
    batch_size: int = 8,
) -> list[float]:
    """Mean −log p over ids[first:] for each (ids, first), 0 where that is empty. B sequences, T tokens, V words.

    Few at a time, since the logits of a batch are in memory: 8 requests of 256 tokens and 128,000 words take 1 GB.
    """

    import torch

    with torch.no_grad():
        device = next(model.parameters()).device
        means = [0.0] * len(sequences)
        order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i][0]))
        model.eval()
        for at in range(0, len(order), batch_size):
            chosen = order[at : at + batch_size]
            width = max(2, *(len(sequences[i][0]) for i in chosen))
            ids = torch.zeros(len(chosen), width, dtype=torch.long)  # (B, T)
            mask = torch.zeros(len(chosen), width, dtype=torch.long)  # (B, T)
            counted = torch.zeros(len(chosen), width, dtype=torch.bool)  # (B, T)
            for line, i in enumerate(chosen):
                tokens, first = sequences[i]
                ids[line, : len(tokens)] = torch.tensor(tokens)
                mask[line, : len(tokens)] = 1
                counted[line, first : len(tokens)] = True
            ids, mask, counted = ids.to(device), mask.to(device), counted.to(device)
            logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits  # (B, T, V)
            each = torch.nn.functional.cross_entropy(
                logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none"
            )  # (B, T - 1)
            total = (each * counted[:, 1:]).sum(1) / counted[:, 1:].sum(1).clamp(min=1)
            for i, value in zip(chosen, total.tolist(), strict=True):
                means[i] = value
            if progress:
                progress(min(at + batch_size, len(order)), len(order))
        return means


def window(values: Sequence[float], low: float, high: float) -> tuple[float, float]:
    """The values at two percentiles, linear between neighbours; both ends are kept."""

    import torch

    ends = torch.quantile(torch.tensor(values, dtype=torch.float64), torch.tensor([low, high]).double() / 100)
    return float(ends[0]), float(ends[1])
