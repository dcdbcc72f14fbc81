"""How much sooner a model gives an answer than it refuses: log-odds of the first tokens, without generating any.

    r(x, y) = mean_t log p(y_t | x, y_<t)  −  log mean_o exp( mean_t log p(o_t | x, o_<t) )     t ≤ tokens; o: refusals

Antibody (arXiv 2603.00498) scores rows by it, over whole answers. An attacker who holds θ_safe picks rows by it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unforgotten.datasets.base import Row
from unforgotten.errors import DataError
from unforgotten.generation.generator import ready
from unforgotten.methods.base.refusal_odds import OPENINGS, TOKENS, mean_exp, openings
from unforgotten.models.chat import Chat
from unforgotten.models.chat.encoded import IGNORED

if TYPE_CHECKING:
    from torch import nn


def answer_odds(
    model: nn.Module,
    chat: Chat,
    rows: Sequence[Row],
    refusals: Sequence[str],
    *,
    tokens: int = TOKENS,
    batch_size: int = 32,
    progress: Callable[[int, int], None] = lambda done, n: None,
) -> list[float]:
    """r of each row, in nats a token; above 0 the model would rather give the row's answer.

    refusals: whole texts, whose openings are chosen as the method row_weights chooses them. Raises DataError where
    there are none, or where a row has no answer.
    """
    if not refusals:
        raise DataError("There are no refusals to compare answers with.")
    if bare := [row.source for row in rows if not row.response.strip()]:
        raise DataError(f"{len(bare)} of {len(rows)} rows have no answer to compare with a refusal, such as {bare[0]}.")
    said = [_said(chat, rows[0], refusal)[1] for refusal in dict.fromkeys(refusals)]
    heads = [list(head) for head in openings([{"labels": [IGNORED, *ids]} for ids in said], tokens, OPENINGS)]
    odds: list[float] = []
    with ready(model), torch.no_grad():
        for at in range(0, len(rows), batch_size):
            some = [_said(chat, row, row.response) for row in rows[at : at + batch_size]]
            given = _mean_logp(model, chat.pad_id, [(prompt, said[:tokens]) for prompt, said in some])  # (B,)
            refusing = mean_exp(opening_logp(model, chat.pad_id, [prompt for prompt, _ in some], heads))  # (B,)
            odds += (given - refusing).tolist()
            progress(len(odds), len(rows))
    return odds


def opening_logp(
    model: nn.Module, pad_id: int, prompts: Sequence[list[int]], openings: Sequence[Sequence[int]]
) -> Tensor:
    """Mean log p of each opening after each of B prompts, (B, openings) float64, for a model in eval mode."""
    each = [_mean_logp(model, pad_id, [(prompt, list(opening)) for prompt in prompts]) for opening in openings]
    return torch.stack(each, 1)


def _said(chat: Chat, row: Row, answer: str) -> tuple[list[int], list[int]]:
    """The ids of a row's prompt, and of an answer to it as it is trained on, its end included."""
    before = row.prompt
    earlier = frozenset(i for i, message in enumerate(before) if message["role"] == "assistant")
    answered = replace(row, messages=(*before, {"role": "assistant", "content": answer}), context_turns=earlier)
    prompt, whole = chat.prompt(row), chat.examples(answered)[0][-1].input_ids
    return prompt, whole[len(prompt) :]


def _mean_logp(model: Any, pad_id: int, texts: Sequence[tuple[list[int], list[int]]]) -> Tensor:
    """Mean log p of what is said after each of B prompts, (B,) float64. Padded on the left to T tokens."""
    longest, most = max(len(p) + len(s) for p, s in texts), max(len(s) for _, s in texts)
    device = next(model.parameters()).device
    pads = [longest - len(p) - len(s) for p, s in texts]
    ids = torch.tensor([[pad_id] * n + p + s for n, (p, s) in zip(pads, texts, strict=True)], device=device)  # (B, T)
    mask = torch.tensor([[0] * n + [1] * (longest - n) for n in pads], device=device)  # (B, T)
    positions = (mask.cumsum(1) - 1).clamp_min(0)
    out = model(input_ids=ids, attention_mask=mask, position_ids=positions, logits_to_keep=most + 1)
    logp = out.logits[:, :-1].double().log_softmax(-1)  # (B, most, V)
    each = logp.gather(2, ids[:, -most:, None])[..., 0]  # (B, most)
    return torch.stack([row[most - len(said) :].mean() for row, (_, said) in zip(each, texts, strict=True)]).cpu()
