"""Small models of four architectures with random weights, and a tokenizer to go with them."""

from __future__ import annotations

from typing import Any

import torch

from unforgotten.testing import VOCABULARY

SHAPES = ("llama", "mistral", "gemma2", "qwen2", "qwen3")


def tiny(shape: str, vocabulary: int = VOCABULARY, dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    """A random two-layer model; the same weights at each call."""
    import transformers as t

    sizes: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **more,
    }
    made = {
        "llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(**sizes)),
        "mistral": lambda: t.MistralForCausalLM(t.MistralConfig(**sizes, sliding_window=64)),
        "gemma2": lambda: t.Gemma2ForCausalLM(t.Gemma2Config(**sizes, head_dim=8, final_logit_softcapping=0.5)),
        "qwen2": lambda: t.Qwen2ForCausalLM(t.Qwen2Config(**sizes)),
        "qwen3": lambda: t.Qwen3ForCausalLM(t.Qwen3Config(**sizes, head_dim=8)),
    }
    torch.manual_seed(0)
    return made[shape]().to(dtype)


def tiny_tokenizer(template: str | None = None) -> Any:
    """A byte-level BPE of a few hundred tokens, trained on the spot; <pad>, <bos>, <eos> are 0, 1, 2."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    bpe = ByteLevelBPETokenizer()
    text = ["how do i kill a process ?", "tell me the answer .", "sorry , i cannot help with that ."] * 20
    bpe.train_from_iterator(text, vocab_size=320, special_tokens=["<pad>", "<bos>", "<eos>"], show_progress=False)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=bpe._tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>"
    )
    tokenizer.chat_template = template
    return tokenizer
