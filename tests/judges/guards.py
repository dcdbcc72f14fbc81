"""Small stand-ins for guard models: a tokenizer laid out as Llama 3's, templates shaped as Llama Guard's, and two
models, one random, one that says what it is told to. Nothing in them knows anything about harm."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3's tokenizer cuts text before it merges: a run of newlines is one piece, and no word has them."""
SPECIALS = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]

STRINGS = (
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}{% endfor %}"
    "{{ ' <|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nTask: read this.\n\n' }}"
    "{% for m in messages %}{{ ('User' if m['role'] == 'user' else 'Agent') + ': ' + m['content'].strip() + '\n\n' }}"
    "{% endfor %}{{ '<END>\n\nsafe or unsafe ?<|eot_id|><|start_header_id|>assistant<|end_header_id|>' }}"
)
"""Shaped as the 8B's: it begins with a space, strips what is judged, and ends at the header."""
PARTS = STRINGS.replace(
    "{{ ('User' if m['role'] == 'user' else 'Agent') + ': ' + m['content'].strip() + '\n\n' }}",
    "{%- for c in m['content'] | selectattr('type', 'equalto', 'text') -%}"
    "{{ ('User' if m['role'] == 'user' else 'Agent') + ': ' + c['text'] | trim + '\n\n' }}{%- endfor -%}",
)
"""Shaped as the 1B's: content in parts, and a plain text is left out without a word."""


def tokenizer(template: str | None = STRINGS, **more: Any) -> Any:
    """Byte-level BPE in which `safe`, `unsafe` and two newlines are one token each, after four special ones."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(LLAMA3), "isolated")
    backend.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    backend.decoder = decoders.ByteLevel()
    words = "\n\nunsafe\nS1,S9 \n\nsafe User: tell me. Agent: sure, step one. Harmful request: yes no n/a refusal "
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=SPECIALS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([words] * 50, trainer)
    actual = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", **more
    )
    actual.chat_template = template
    return actual


def random_guard(folder: Path, made: Any, dtype: torch.dtype = torch.float64, **more: Any) -> Path:
    """A random two-layer Llama on disk, with its tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(11)
    sizes: dict[str, Any] = {
        **{"vocab_size": len(made), "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512},
        **{"initializer_range": 0.4, "bos_token_id": 0, "eos_token_id": 3, **more},
    }
    LlamaForCausalLM(LlamaConfig(**sizes)).to(dtype).save_pretrained(folder)
    made.save_pretrained(folder)
    return folder


def scripted_guard(folder: Path, made: Any, after: Mapping[str, Mapping[str, float]]) -> Path:
    """A Llama whose next token depends on the last one alone, with the probabilities that `after` gives.

    Attention and MLP are 0, embeddings are unit vectors, which the norm makes √V long; the head undoes that. What
    `after` leaves of a token's probability is spread over all other tokens evenly, and a token that it does not name is
    followed by the end.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    size = len(made)
    config = LlamaConfig(
        **{"vocab_size": size, "hidden_size": size + size % 2, "intermediate_size": 2, "num_hidden_layers": 1},
        **{"num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 4096},
        **{"bos_token_id": 0, "eos_token_id": 3, "rms_norm_eps": 1e-12, "tie_word_embeddings": False},
    )
    model = LlamaForCausalLM(config).double()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.model.norm.weight.fill_(1.0)
        for layer in model.model.layers:
            layer.input_layernorm.weight.fill_(1.0)
            layer.post_attention_layernorm.weight.fill_(1.0)
        model.model.embed_tokens.weight[:, :size] = torch.eye(size).double()
        odds = torch.full((size, size), 1e-9, dtype=torch.float64)
        odds[:, 3] = 1.0
        for last, following in after.items():
            [row] = made(last, add_special_tokens=False)["input_ids"]
            named = {made(word, add_special_tokens=False)["input_ids"][0]: p for word, p in following.items()}
            odds[row] = max(1e-12, 1 - sum(named.values())) / (size - len(named))
            for word, p in named.items():
                odds[row, word] = p
        odds = odds / odds.sum(1, keepdim=True)
        model.lm_head.weight[:, :size] = odds.log().T / math.sqrt(config.hidden_size)
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return folder
