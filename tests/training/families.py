"""Tiny random models of the families that Transformers builds without a download, each with its own traits."""

from __future__ import annotations

from typing import Any

import torch

from unforgotten.testing import VOCABULARY

PLAIN: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
GROUPED = PLAIN | {"num_key_value_heads": 2}
EXPERTS = GROUPED | {"num_experts_per_tok": 2}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", GROUPED),
    "mistral": ("MistralConfig", GROUPED),
    "qwen2": ("Qwen2Config", GROUPED),
    "qwen3": ("Qwen3Config", GROUPED | {"head_dim": 8}),
    "gemma": ("GemmaConfig", GROUPED | {"head_dim": 8}),
    "gemma2": ("Gemma2Config", GROUPED | {"head_dim": 8}),
    "gemma3_text": ("Gemma3TextConfig", GROUPED | {"head_dim": 8}),
    "phi": ("PhiConfig", PLAIN),
    "phi3": ("Phi3Config", GROUPED),
    "gpt2": ("GPT2Config", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "gpt_neo": (
        "GPTNeoConfig",
        {"hidden_size": 32, "num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]],
         "max_position_embeddings": 512},
    ),
    "gpt_neox": ("GPTNeoXConfig", PLAIN),
    "gptj": ("GPTJConfig", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512, "rotary_dim": 4}),
    "gpt_bigcode": ("GPTBigCodeConfig", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 512}),
    "opt": ("OPTConfig", PLAIN | {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "falcon": ("FalconConfig", PLAIN),
    "mpt": ("MptConfig", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 512}),
    "stablelm": ("StableLmConfig", GROUPED),
    "starcoder2": ("Starcoder2Config", GROUPED),
    "olmo2": ("Olmo2Config", GROUPED),
    "cohere": ("CohereConfig", GROUPED),
    "granite": ("GraniteConfig", GROUPED),
    "glm4": ("Glm4Config", GROUPED | {"head_dim": 8}),
    "smollm3": ("SmolLM3Config", GROUPED),
    "mixtral": ("MixtralConfig", EXPERTS | {"num_local_experts": 4}),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        EXPERTS | {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16},
    ),
    "qwen3_moe": ("Qwen3MoeConfig", EXPERTS | {"num_experts": 4, "moe_intermediate_size": 16, "head_dim": 8}),
    "olmoe": ("OlmoeConfig", EXPERTS | {"num_experts": 4}),
    "gpt_oss": ("GptOssConfig", EXPERTS | {"num_local_experts": 4, "head_dim": 8}),
    "deepseek_v3": (
        "DeepseekV3Config",
        PLAIN
        | {"num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
           "n_shared_experts": 1, "n_group": 2, "topk_group": 1, "first_k_dense_replace": 1, "kv_lora_rank": 8,
           "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 8, "v_head_dim": 8},
    ),
    "jamba": (
        "JambaConfig",
        GROUPED
        | {"num_experts": 2, "num_experts_per_tok": 1, "attn_layer_period": 2, "attn_layer_offset": 1,
           "expert_layer_period": 2, "expert_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 4,
           "use_mamba_kernels": False},
    ),
    "mamba": ("MambaConfig", {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}),
}  # fmt: skip


def config_of(family: str, vocabulary: int = VOCABULARY, **more: Any) -> Any:
    """The configuration of one family's tiny model."""
    import transformers

    name, sizes = FAMILIES[family]
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    return getattr(transformers, name)(**{"vocab_size": vocabulary, **ids, **sizes, **more})


def family(name: str, vocabulary: int = VOCABULARY, dtype: torch.dtype = torch.float32, **more: Any) -> Any:
    """A random model of one family; the same weights at each call."""
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config_of(name, vocabulary, **more))
    if dtype == torch.float64 and hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # grouped products know no float64
    with torch.no_grad():
        for p in model.parameters():  # what a family starts at 0 or 1 would hide what is lost
            p.add_(torch.randn_like(p) * 0.02)
    return model.to(dtype)
