"""The world's models: about one million parameters, in the shapes of three families."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from unforgotten.world.tokenizer import MAX_TOKENS
from unforgotten.world.vocabulary import BOS, END, PAD, words

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

SHAPE: dict[str, int] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": MAX_TOKENS,
}

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "world": ("llama", {"tie_word_embeddings": False}),
    # grouped queries, and a sliding window as in Mistral-7B v0.1
    "world-mistral": ("mistral", {"tie_word_embeddings": False, "num_key_value_heads": 2, "sliding_window": 64}),
    # tied head, soft-capped logits, every second layer local, norms before and after each block
    "world-gemma2": (
        "gemma2",
        {"num_key_value_heads": 2, "head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 64},
    ),
}
"""What a recipe's `model:` may name, with its architecture and what differs from SHAPE."""


def config(model: str = "world") -> PreTrainedConfig:
    """The configuration of one of MODELS, its special tokens those of the tokenizer."""
    from transformers import AutoConfig

    architecture, settings = MODELS[model]
    place = words().index
    return AutoConfig.for_model(
        architecture,
        vocab_size=len(words()),
        pad_token_id=place(PAD),
        bos_token_id=place(BOS),
        eos_token_id=place(END),
        **(SHAPE | settings),
    )
