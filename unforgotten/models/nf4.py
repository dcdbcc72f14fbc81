"""A base in 4 bits under adapters that are not: NF4 with quantised scales. [QLoRA, arXiv 2305.14314]

Only linear layers are quantised; embeddings, norms and the head stay whole, so that what reads the head (DER's Gram
matrix, the chunked loss) reads real weights. Quantisation is a function of the weights alone: the same folder gives the
same base in training, on resume and in evaluation.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from unforgotten.errors import ModelError, UnsupportedError

INSTALL = "pip install 'unforgotten[qlora]'"


def check() -> None:
    """Raises UnsupportedError where nothing here can quantise: no bitsandbytes, or a device that it does not know."""
    try:
        import bitsandbytes  # noqa: F401
    except (ImportError, OSError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UnsupportedError(
            f"load_in: nf4 needs bitsandbytes, which does not load here ({reason}): `{INSTALL}`. "
            "Or leave out `load_in` to train adapters on the unquantised base."
        ) from error
    device = torch.accelerator.current_accelerator()
    if device is not None and device.type not in ("cuda", "xpu"):
        raise UnsupportedError(
            f"load_in: nf4 works on CUDA GPUs (and, slowly, on the CPU), not on {device.type}. Leave out `load_in`."
        )


def compute_dtype() -> torch.dtype:
    """bf16 on GPUs that have it, else fp32: what weights are unpacked to for each product."""
    return torch.bfloat16 if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else torch.float32


def config() -> Any:
    """What Transformers quantises by. Raises UnsupportedError where it could not."""
    from transformers import BitsAndBytesConfig

    check()
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute_dtype(),
    )


def checked(model: Any, trains: bool) -> Any:
    """The quantised model, ready for adapters to be trained on it where asked.

    Raises UnsupportedError where no layer was quantised, or the head was.
    """
    head = model.get_output_embeddings()
    if not is_quantised(model):
        raise UnsupportedError(
            f"{type(model).__name__} has no linear layer that could be kept in 4 bits. Leave out `load_in`."
        )
    if head is not None and any(is_4_bit(p) for p in head.parameters()):
        raise ModelError(f"The head of {type(model).__name__} was quantised too. Leave out `load_in`.")
    keep_layout(model)
    if not trains:
        return model
    from peft import prepare_model_for_kbit_training

    # Activation checkpointing is the Trainer's to switch on, without re-entrance, which needs no gradient of inputs.
    return prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)


def keep_layout(model: Any) -> None:
    """Forbids bitsandbytes to repack weights for inference. Raises UnsupportedError where it has: that loses digits.

    On CPUs with AVX512-BF16 the first forward in eval mode without gradients repacks a layer for good, and the kernel
    for that layout has no backward: after a teacher's forward, training would go on with gradients cut at every layer,
    without a word (bitsandbytes 0.50: nn/modules.py, Linear4bit.forward; autograd/_functions.py, matmul_4bit).
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            if getattr(getattr(module.weight, "quant_state", None), "packing_format_for_cpu", False):
                raise UnsupportedError(
                    "This model in 4 bits was run in eval mode on the CPU, where bitsandbytes repacks its weights: "
                    "they take no gradients any more. Load it again, and make the trainer before anything runs it."
                )
            module.support_avx512bf16_for_cpu = False


def is_4_bit(tensor: Tensor) -> bool:
    """Is this a parameter of bitsandbytes, packed?"""
    return type(tensor).__name__ == "Params4bit"


def is_quantised(model: Any) -> bool:
    """Has the model any weight in 4 bits?"""
    return any(is_4_bit(p) for p in model.parameters())


def scales(model: Any) -> Iterator[tuple[str, Tensor]]:
    """The scale of each block of each packed weight, by name: packed values alone do not tell one base from another."""
    for name, p in model.named_parameters():
        state = getattr(p, "quant_state", None)
        if state is not None:
            yield f"{name}.absmax", state.absmax
            if state.nested:
                yield f"{name}.absmax.absmax", state.state2.absmax
                yield f"{name}.absmax.offset", state.offset


def facts(model: Any) -> dict[str, Any]:
    """What environment.json says of the base."""
    packed = [p for p in model.parameters() if is_4_bit(p)]
    return {
        "load_in": "nf4",
        "double_quantisation": any(p.quant_state is not None and p.quant_state.nested for p in packed),
        "compute_dtype": str(compute_dtype()).removeprefix("torch."),
        "weights_in_4_bits": len(packed),
        "parameters_in_4_bits": sum(p.quant_state.shape.numel() for p in packed if p.quant_state is not None),
    }
