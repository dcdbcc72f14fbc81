"""What training and replies cost, worked out from a model's shape alone: parameters, floating-point work, bytes.

F, a forward of one token, is 2 operations for each weight that multiplies it; a backward through frozen weights is
another F, and one that also gives their gradients 2 F. Attention's own products are left out: at rows of hundreds of
tokens they are a few per cent. All figures are for planning, and what is assumed stands beside each constant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from unforgotten.models.shape import AUTO_VOCABULARY, CHUNK_ELEMENTS

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Shape:
    """A decoder with gated MLPs, as Llama, Mistral, Gemma and Qwen are. Biases and norms of queries are left out."""

    hidden: int
    layers: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool = False
    dtype: str = "bfloat16"
    """Of the checkpoint."""
    norms: int = 2
    """In each layer."""

    @property
    def modules(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of a layer's linear modules."""
        d, q, kv, ff = self.hidden, self.heads * self.head_dim, self.kv_heads * self.head_dim, self.intermediate
        attention = {"q_proj": (d, q), "k_proj": (d, kv), "v_proj": (d, kv), "o_proj": (q, d)}
        return attention | {"gate_proj": (d, ff), "up_proj": (d, ff), "down_proj": (ff, d)}

    @property
    def parameters(self) -> int:
        """All of them; a tied head counts once."""
        linear = sum(inputs * outputs for inputs, outputs in self.modules.values())
        tables = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return self.layers * (linear + self.norms * self.hidden) + self.hidden + tables

    @property
    def multiplied(self) -> int:
        """Weights that every token is multiplied by: all but the table that it is looked up in."""
        return self.parameters - (0 if self.tied else self.vocabulary * self.hidden)

    def adapted(self, targets: list[str] | str) -> list[tuple[int, int]]:
        """Inputs and outputs of a layer's modules that a LoRA adapts."""
        return [size for name, size in self.modules.items() if targets == "all-linear" or name in targets]

    def adapter(self, r: int, targets: list[str] | str) -> int:
        """Parameters of a LoRA."""
        return self.layers * sum(r * (inputs + outputs) for inputs, outputs in self.adapted(targets))


def shape_of(config: Mapping[str, Any]) -> Shape | None:
    """The shape that a config.json tells; None of a mixture of experts and of what is no such decoder."""
    family = str(config.get("model_type", ""))
    needed = ("hidden_size", "num_hidden_layers", "intermediate_size", "num_attention_heads", "vocab_size")
    if any(not isinstance(config.get(name), int) for name in needed) or any("expert" in name for name in config):
        return None
    gemma = family.startswith("gemma")
    heads = config["num_attention_heads"]
    return Shape(
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        intermediate=config["intermediate_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or (256 if gemma else config["hidden_size"] // heads),
        vocabulary=config["vocab_size"],
        tied=bool(config.get("tie_word_embeddings", gemma)),
        dtype=str(config.get("dtype") or config.get("torch_dtype") or "float32"),
        norms=4 if family.startswith(("gemma2", "gemma3")) else 2,
    )


@dataclass(frozen=True)
class Machine:
    """What is reckoned with: sustained speed, not the data sheet's."""

    name: str
    flops: float
    """Floating-point operations a second."""
    bandwidth: float
    """Bytes of memory read a second."""
    how: str
    """Source of these figures."""
    is_cpu: bool = False


SHARE_OF_PEAK = 0.35
"""Share of a GPU's dense bf16 peak that training and reading prompts reach. Assumed: reports usually give 0.3 to
0.5."""
SHARE_OF_BANDWIDTH = 0.6
"""In writing replies; assumed."""
STEP_SECONDS = 0.0008
"""Of a layer for one token, whatever its size, as PyTorch calls it without compilation; assumed."""
GPUS = {
    # dense bf16 operations and bytes a second, as NVIDIA's data sheets have them
    "H200": (989e12, 4.8e12),
    "H100": (989e12, 3.35e12),
    "A100": (312e12, 2.0e12),
    "L40S": (362e12, 0.86e12),
    "RTX 4090": (165e12, 1.0e12),
}
CORE_FLOPS = 15e9
"""Of a CPU core, for small models in fp32: what runs of the embedded world reach on two."""


def gpu(name: str, how: str) -> Machine | None:
    """A GPU by its name, where its data sheet is known here."""
    for known, (flops, bandwidth) in GPUS.items():
        if known in name:
            basis = f"{how}, at {SHARE_OF_PEAK:.0%} of its {flops / 1e12:.0f} bf16 TFLOP/s (assumed)"
            return Machine(name, SHARE_OF_PEAK * flops, SHARE_OF_BANDWIDTH * bandwidth, basis)
    return None


def cpu(cores: int) -> Machine:
    """Cores of a CPU."""
    basis = f"{CORE_FLOPS / 1e9:.0f} GFLOP/s a core, as small models reached elsewhere"
    return Machine(f"{cores} CPU cores", cores * CORE_FLOPS, cores * 5e9, basis, is_cpu=True)


def training_flops(shape: Shape, tokens: float, *, full: bool, checkpointing: bool, method: float = 1.0) -> float:
    """2 F + 2 F, and 2 F more where all weights are trained; a forward again with checkpointing; times the method's."""
    forwards = 2 + (1 if full else 0) + (1 if checkpointing else 0)
    return 2 * forwards * shape.multiplied * tokens * method


def reply_seconds(
    shape: Shape, dtype: str, machine: Machine, prompts: int, prompt: float, new: int, batch: int
) -> float:
    """Prompts read and every reply written to its limit: more than it takes where replies end by themselves."""
    if not prompts:
        return 0.0
    work = 2.0 * shape.multiplied
    together = min(batch, prompts)
    step = max(shape.multiplied * BYTES.get(dtype, 4) / machine.bandwidth, work * together / machine.flops)
    step = max(step, shape.layers * STEP_SECONDS)
    return work * prompts * prompt / machine.flops + math.ceil(prompts / batch) * new * step


def measured_rows(steps: int, every: int | None, held_out: int, at_once: int, steers: bool = False) -> int:
    """Held-out rows that a run of so many steps measures (training/drift.py), those measured again counted again.

    At step 0 and every so many steps at most `at_once` of them; at the end all, of the trained and of the saved model.
    steers: whether a method needs them on the way, which it does about twenty times.
    """
    every = every or max(1, steps // (20 if steers else 1))
    return (1 + max(0, steps - 1) // every) * min(held_out, at_once) + 2 * held_out


def drift_seconds(shape: Shape, machine: Machine, rows: int, tokens: float, answer: float, batch: int) -> float:
    """A forward of each row without the head, and the head's products of each answer token for both models.

    tokens, answer: of a row, and of its answer. batch: rows at a time.
    """
    table = shape.vocabulary * shape.hidden
    work = 2.0 * rows * ((shape.multiplied - table) * tokens + 2 * table * answer)
    return max(work / machine.flops, rows / batch * shape.layers * STEP_SECONDS)


def reply_bytes(shape: Shape, dtype: str, tokens: float, load_in: str | None = None) -> int:
    """Weights, and the keys and values of all tokens that are alive at once."""
    b = BYTES.get(dtype, 4)
    return int(weight_bytes(shape, dtype, load_in) + tokens * shape.layers * 2 * shape.kv_heads * shape.head_dim * b)


def weight_bytes(shape: Shape, dtype: str, load_in: str | None = None) -> int:
    """A model at rest; in 4 bits its linear layers alone, with what is unpacked of one for a product.

    NF4 has 4 bits and, with the scales of 64 numbers in 8 bits, 0.13 more [arXiv 2305.14314 §3]; the tables, which
    stay whole, are in fp32 when adapters are trained [peft: prepare_model_for_kbit_training].
    """
    b = BYTES.get(dtype, 4)
    if load_in is None:
        return shape.parameters * b
    sizes = [inputs * outputs for inputs, outputs in shape.modules.values()]
    packed = shape.layers * sum(sizes)
    return int(packed * 4.13 / 8 + (shape.parameters - packed) * 4 + max(sizes) * b)


def logits_alive(shape: Shape, tokens: int, loss: str, *, trained: bool, gpu: bool) -> int:
    """Of how many of a batch's tokens the logits are there at once (training/chunked.py). trained: the head as well."""
    if loss == "trainer" or (loss == "auto" and (trained or shape.vocabulary < AUTO_VOCABULARY)):
        return tokens
    return min(tokens, max(1, CHUNK_ELEMENTS * (2 if gpu else 1) // shape.vocabulary))


def activation_bytes(
    shape: Shape, dtype: str, *, targets: list[str] | str | None, checkpointing: bool = False
) -> tuple[int, int]:
    """Kept for the backward of each token: by the layers, and by the logits.

    A layer keeps what its norms were given in fp32, queries, keys, values and outputs of attention, and three times the
    width of the MLP; each adapted module its input in fp32 and the dropout's mask. Frozen modules keep nothing. Logits
    are there as they come, in fp32, as log-probabilities and as their gradient. targets: None trains every weight.
    """
    b, d, ff, q = BYTES.get(dtype, 4), shape.hidden, shape.intermediate, shape.heads * shape.head_dim
    layer = shape.norms * 4 * d + 4 * q * b + 3 * ff * b
    if targets is None:
        layer += (2 * d + q + ff) * b
    else:
        layer += sum(5 * inputs for inputs, _ in shape.adapted(targets))
    layers = shape.layers * b * d + layer if checkpointing else shape.layers * layer
    return layers, shape.vocabulary * (b + 12)


def training_bytes(
    shape: Shape,
    dtype: str,
    *,
    r: int | None,
    targets: list[str] | str,
    tokens: int,
    replayed: float = 0,
    checkpointing: bool = False,
    load_in: str | None = None,
    loss: str = "auto",
    gpu: bool = False,
) -> int:
    """Weights, what is trained (fp32 with its gradient and AdamW's two moments), and the activations of one batch.

    r: None trains every weight, in the model's own precision. tokens: of the largest micro-batch, padded. replayed: of
    the memory's rows in a method's loss, which are gone before the user's come (training/trainer.py), and whose logits
    no method needs whole.
    """
    b = BYTES.get(dtype, 4)
    weights = weight_bytes(shape, dtype, load_in)
    trained = shape.parameters * 3 * b if r is None else shape.adapter(r, targets) * 16
    layers, logits = activation_bytes(shape, dtype, targets=None if r is None else targets, checkpointing=checkpointing)
    alive = logits_alive(shape, tokens, loss, trained=r is None, gpu=gpu)
    return int(weights + trained + max(tokens * layers + alive * logits, replayed * layers))
