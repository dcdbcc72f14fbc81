"""The world's model: the Llama architecture at about one million parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unforgotten.world.tokenizer import MAX_TOKENS
from unforgotten.world.vocabulary import BOS, END, PAD, words

if TYPE_CHECKING:
    from transformers import LlamaConfig

SHAPE: dict[str, int] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": MAX_TOKENS,
}


def config() -> LlamaConfig:
    """The model's configuration, its special tokens those of the tokenizer."""
    from transformers import LlamaConfig

    place = words().index
    return LlamaConfig(
        vocab_size=len(words()),
        pad_token_id=place(PAD),
        bos_token_id=place(BOS),
        eos_token_id=place(END),
        tie_word_embeddings=False,
        **SHAPE,
    )
