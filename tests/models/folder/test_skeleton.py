"""A model whose vocabulary is most of it is no attack: a tied head counts once; one that asks for more is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unforgotten.errors import ModelError
from unforgotten.models.folder.open import Opened
from unforgotten.models.folder.skeleton import SPARE, check

GEMMA_3_270M = {
    "architectures": ["Gemma3ForCausalLM"],
    "model_type": "gemma3_text",
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_hidden_layers": 18,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 256,
    "vocab_size": 262144,
    "tie_word_embeddings": True,
}


def opened(folder: Path, config: dict, held: dict[str, tuple[int, ...]]) -> Opened:
    """A folder that would hold these weights; `check` reads their shapes alone."""
    (folder / "config.json").write_text(json.dumps(config))
    return Opened(folder, "model", "0", ("config.json",), held, config, None)


def tensors(config: dict, layers: int) -> dict[str, tuple[int, ...]]:
    """The shapes of Gemma 3's large tensors, by their names; 236 with norms for 18 layers."""
    d, ff, q = config["hidden_size"], config["intermediate_size"], 4 * 256
    held = {"model.embed_tokens.weight": (config["vocab_size"], d)}
    for i in range(layers):
        at = f"model.layers.{i}."
        held |= {f"{at}mlp.{name}_proj.weight": (ff, d) for name in ("gate", "up", "down")}
        held |= {f"{at}self_attn.{name}_proj.weight": (n, d) for name, n in zip("qkvo", (q, 256, 256, q), strict=True)}
        held |= {f"{at}norm_{name}.weight": (d,) for name in "abcdef"}
    return held


def test_a_tied_head_of_a_large_vocabulary_counts_once(tmp_path: Path) -> None:
    check(opened(tmp_path, GEMMA_3_270M, tensors(GEMMA_3_270M, 18)))


def test_more_than_the_files_hold_is_refused(tmp_path: Path) -> None:
    held = tensors(GEMMA_3_270M, 18)
    assert 4 * 262144 * 640 > 2 * sum(a * b for a, b in (s for s in held.values() if len(s) == 2)) + SPARE
    with pytest.raises(ModelError, match="asks for more than .* weights"):
        check(opened(tmp_path, GEMMA_3_270M | {"vocab_size": 4 * 262144}, held))
