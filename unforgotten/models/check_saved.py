"""Checks a saved model: the file is loaded again, and its logits must be those of the model in memory.

    loaded again     the saved folder opened as a user opens it; its logits on rows of the user's data; and in an
                     adapter's file every trained tensor, bit for bit
    on the live base where a second model does not fit: the saved adapter put on the base in memory, logits likewise
    tensor by tensor where a second whole model does not fit: each tensor of the files against the one in memory

The first proves the folder. The second does not read the base's own files again; the third runs no model.
T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from unforgotten.errors import TrainingError
from unforgotten.models.weights.base import untied
from unforgotten.models.weights.open import opened

TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest deviation of a logit, as a share of the largest logit, by the precision of the base's weights. The same sum
in another order (a joined adapter) stays a tenth below; bf16 keeps three digits in each of some hundred layers."""

PROMPTS, TOKENS = 3, 64
"""Rows that are asked, and tokens of each row's end: logits of whole rows are gigabytes at a large vocabulary."""


def prompts(rows: Sequence[dict[str, Any]]) -> list[list[int]]:
    """Token ids of the last tokens of a few encoded rows, spread over all."""
    chosen = sorted({round(i * (len(rows) - 1) / max(1, PROMPTS - 1)) for i in range(PROMPTS)})
    return [list(rows[i]["input_ids"])[-TOKENS:] for i in chosen]


@torch.no_grad()
def heard(model: Any, ids: Iterable[Sequence[int]]) -> list[Tensor]:
    """The model's logits on each prompt, (T, V), in eval mode, on the CPU in fp32 at least; its mode is put back."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    try:
        logits = [model(input_ids=torch.tensor([list(i)], device=device), use_cache=False).logits[0] for i in ids]
    finally:
        model.train(was_training)
    return [f.to("cpu", torch.promote_types(f.dtype, torch.float32)) for f in logits]


def deviation(before: Sequence[Tensor], after: Sequence[Tensor]) -> tuple[float, float]:
    """(largest deviation of a logit, largest logit); a deviation that is no number is infinite."""
    if any(a.shape != b.shape for a, b in zip(before, after, strict=True)):
        return float("inf"), 0.0
    worst = torch.stack([(a.double() - b.double()).abs().max() for a, b in zip(before, after, strict=True)]).max()
    scale = torch.stack([a.double().abs().max() for a in before]).max()
    return float(worst.nan_to_num(nan=float("inf"))), float(scale.nan_to_num(nan=0.0, posinf=0.0))


def limit(scale: float, dtype: torch.dtype) -> float:
    """The largest deviation that rounding explains."""
    return TOLERANCE.get(dtype, TOLERANCE[torch.bfloat16]) * scale


def dtype_of(model: Any) -> torch.dtype:
    """The coarsest precision among a model's floating-point weights."""
    kinds = {p.dtype for p in model.parameters() if p.dtype in TOLERANCE}
    return max(kinds, key=lambda kind: TOLERANCE[kind], default=torch.float32)


def proved(
    model: Any,
    before: Sequence[Tensor],
    ids: Sequence[Sequence[int]],
    folder: Path,
    load: Callable[[], Any],
    adapter: str | None = None,
    *,
    room: bool | None = None,
) -> dict[str, Any]:
    """Compares a saved folder with the live model; returns what the record says.

    Raises TrainingError where they differ.
    before: the live model's logits on `ids`, as trained. load: opens the folder as a user does. adapter: the name of
    the saved adapter in the live model; None for a whole model. room: whether a second model fits; None asks.
    """
    if adapter is not None:
        same_tensors(model, adapter, folder)
    dtype = dtype_of(model)
    if fits(model) if room is None else room:
        how, after = "loaded again", heard(load(), ids)
    elif adapter is not None:
        how, after = "on the live base", _on_live_base(model, folder, ids)
    else:
        return _tensor_by_tensor(model, folder)
    worst, scale = deviation(before, after)
    bound = limit(scale, dtype)
    if not worst <= bound:
        raise _differs(folder, f"a logit deviates by {worst:.2g}, where rounding explains {bound:.1g}")
    return {
        "how": how,
        "prompts": len(ids),
        "largest_logit_deviation": worst,
        "limit": bound,
        "dtype": str(dtype).removeprefix("torch."),
    }


def words(proof: dict[str, Any]) -> str:
    """A proof in words, for the screen."""
    if "tensors" in proof:
        return f"{proof['tensors']} tensors, {proof['how']}"
    lead = "the largest deviation is"
    return f"{proof['how']}, {lead} {proof['largest_logit_deviation']:.1e} (limit {proof['limit']:.1e})"


def same_tensors(model: Any, adapter: str, folder: Path) -> None:
    """Raises TrainingError unless every tensor of this adapter in memory is in its file, bit for bit."""
    from peft import get_peft_model_state_dict

    written = load_file(folder / "adapter_model.safetensors")
    live = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    places = {t.data_ptr() for t in live.values()}
    lost = [n for n, p in model.named_parameters() if _is_of(n, adapter) and p.numel() and p.data_ptr() not in places]
    if lost:
        raise _differs(folder, f"{len(lost)} trained tensors are not in it ({lost[0]})")
    for name, tensor in live.items():
        saved = written.get(name, written.get(f"{name}.weight"))  # a DoRA magnitude, see save.py
        if saved is None or not torch.equal(saved, tensor.detach().cpu()):
            raise _differs(folder, f"{name} is not what was trained")


def _is_of(parameter: str, adapter: str) -> bool:
    return adapter in parameter.split(".")


def _differs(folder: Path, what: str) -> TrainingError:
    return TrainingError(
        f"The saved {folder.name.strip('.').partition('.')[0]} is not the trained model: {what}. Nothing was "
        "published; the checkpoints are kept. This is a fault of saving and not of the data: please report it with the "
        "model's architecture and the adapter's settings, or train with other targets."
    )


def fits(model: Any) -> bool:
    """Is there room for this model a second time, where `load` puts it?"""
    import psutil  # type: ignore[import-untyped]  # comes with accelerate

    needed = 1.1 * sum(t.numel() * t.element_size() for t in model.state_dict().values())
    free = float(psutil.virtual_memory().available)
    limits = [Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")]
    if all(file.is_file() for file in limits) and (most := limits[0].read_text().strip()).isdigit():
        free = min(free, int(most) - int(limits[1].read_text()))
    if torch.cuda.is_available():
        free = min(free, torch.cuda.mem_get_info()[0])
    return needed < free


def _on_live_base(model: Any, folder: Path, ids: Sequence[Sequence[int]]) -> list[Tensor]:
    """Logits of the saved adapter, read from its file, alone on the live model's base; the model is put back."""
    names = list(model.active_adapters)
    model.load_adapter(str(folder), "saved", is_trainable=False)
    try:
        model.base_model.set_adapter("saved")
        return heard(model, ids)
    finally:
        model.base_model.set_adapter(names)
        model.delete_adapter("saved")


def _tensor_by_tensor(model: Any, folder: Path) -> dict[str, Any]:
    files = opened(folder)
    live = public_state(model)
    missing = sorted(set(live) ^ set(files.names()))
    if missing:
        raise _differs(folder, f"{missing[0]!r} is in one of the two only")
    for name, tensor in live.items():
        if not torch.equal(files[name], tensor.detach().cpu()):
            raise _differs(folder, f"{name} is not what was trained")
    return {"how": "tensor by tensor", "tensors": len(live), "largest_logit_deviation": 0.0, "limit": 0.0}


def public_state(model: Any) -> dict[str, Tensor]:
    """A model's tensors by the names under which `save_pretrained` writes them, each once."""
    from transformers.core_model_loading import revert_weight_conversion

    return dict(revert_weight_conversion(model, untied(model.state_dict())))
