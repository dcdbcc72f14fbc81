"""The proof of an export: the same greedy replies to the same prompts, before and after, or an error."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from unforgotten.datasets.base import Row, bounded
from unforgotten.errors import DataError, ModelError, UnforgottenError
from unforgotten.generation.reply import Reply
from unforgotten.recipe.data_sets import dataset

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.models.chat import Chat
    from unforgotten.recipe.recipe import Recipe

PROMPTS = 8
NEW_TOKENS = 64
"""Per reply at most: where weights differ in what matters, a reply's first tokens show it."""
POSITIONS = 32
"""Of a prompt's end, on which logits are compared: those of a whole prompt are gigabytes at a large vocabulary."""


@dataclass(frozen=True)
class Heard:
    """What one model said to the prompts."""

    replies: list[Reply]
    logits: list[Tensor]
    """Of each prompt's last positions: (t, V)."""
    loaded: str
    """A digest of the weights that were in memory."""


def prompts(recipe: Recipe, say: Callable[[str], None]) -> list[Row]:
    """Up to 8 different ones: the recipe's own evaluation, suites in turn; then the user's rows.

    Raises DataError where neither can be read.
    """
    rows: list[Row] = []
    sources = [_asked, _user]
    for source in sources:
        try:
            for row in source(recipe):
                if row.prompt not in [r.prompt for r in rows]:
                    rows.append(row)
                if len(rows) == PROMPTS:
                    return rows
        except UnforgottenError as error:
            say(f"Note: {error}")
    if not rows:
        raise DataError(
            "Found no prompt to compare replies on, neither in the recipe's `evaluate:` nor in its `data:`. Check "
            "their paths."
        )
    return rows


def _asked(recipe: Recipe) -> Iterator[Row]:
    if recipe.evaluate is None:
        return
    specs = [*recipe.evaluate.harm, *recipe.evaluate.refusal, *recipe.evaluate.utility]
    suites = [bounded(dataset(spec))[:PROMPTS] for spec in specs]
    yield from (row for turn in zip_longest(*suites) for row in turn if row is not None)


def _user(recipe: Recipe) -> Iterator[Row]:
    if recipe.data is not None:
        yield from bounded(dataset(recipe.data, recipe.seed))


def heard(model: Any, chat: Chat, rows: Sequence[Row], tokens: int) -> Heard:
    """Greedy replies of at most `tokens` tokens, and logits."""
    import torch

    from unforgotten.generation.local import generate
    from unforgotten.models.fingerprint import loaded_digest

    model.eval()
    logits = []
    with torch.no_grad():
        for row in rows:
            ids = torch.tensor([chat.prompt(row)], device=next(model.parameters()).device)  # (1, T)
            logits.append(model(input_ids=ids, use_cache=False).logits[0, -POSITIONS:].float().cpu())
    return Heard(generate(model, chat, rows, max_new_tokens=tokens), logits, loaded_digest(model))


def proven(before: Heard, after: Heard) -> dict[str, Any]:
    """What the two have in common, for the record. Raises ModelError where one reply differs."""
    deviation = max(float((a - b).abs().max()) for a, b in zip(before.logits, after.logits, strict=True))
    pairs = list(zip(before.replies, after.replies, strict=True))
    differ = [n for n, (a, b) in enumerate(pairs, 1) if _said(a) != _said(b)]
    if differ:
        raise ModelError(
            f"{len(differ)} of {len(pairs)} greedy replies of the export differ from the run's (prompt "
            f"{', '.join(map(str, differ))}; the largest deviation of a logit is {deviation:.1e}). Nothing was "
            "written. Merging into a 16-bit base rounds. Use `--as adapter` or `--as merged --dtype float32`: they "
            "do not round."
        )
    return {
        "prompts": len(pairs),
        "same_replies": len(pairs),
        "largest_logit_deviation": deviation,
        "digests": {"before": before.loaded, "after": after.loaded},
    }


def _said(reply: Reply) -> tuple[Any, ...]:
    return reply.text, reply.thought, reply.finish, reply.tokens
