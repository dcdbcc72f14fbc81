"""Set-ups in which a method cannot be right, refused at the door with what to use instead."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from unforgotten.errors import UnsupportedError
from unforgotten.methods.base import TURNS, Method
from unforgotten.training import nf4


def takes(method: Method, turn: str) -> bool:
    """Does the method override this turn?"""
    return getattr(type(method), turn) is not getattr(Method, turn)


def refuse_4_bits(methods: Iterable[Method], model: Any) -> None:
    """Raises UnsupportedError for edits of whole weights on a base in 4 bits."""
    edits = [type(m).__name__ for m in methods if m.needs_base or m.dense]
    if edits and nf4.is_quantised(model):
        raise UnsupportedError(
            f"{', '.join(edits)} edits whole weights, and this model has them in 4 bits only. Train without, then run "
            "`unforgotten repair` on the saved adapter with the unquantised models."
        )


def refuse_packing(args: Any) -> None:
    """Raises UnsupportedError for TRL's packing and padding-free batches."""
    if getattr(args, "packing", False) or getattr(args, "padding_free", False):
        raise UnsupportedError(
            "packing / padding_free joins several rows into one, so a row's stored states could not be found and rows "
            "might attend to each other. Set packing=False and padding_free=False."
        )


def refuse(methods: Iterable[Method], args: Any, trainer: Any) -> None:
    """Raises UnsupportedError for FSDP1, DeepSpeed and fp16 with a scaler.

    Methods that only choose data (SFT, SafeInstr) run anywhere.
    """
    working = [type(m).__name__ for m in methods if any(takes(m, turn) for turn in TURNS if turn != "data")]
    if not working:
        return
    names = ", ".join(working)
    if trainer.is_deepspeed_enabled:
        raise UnsupportedError(f"{names} under DeepSpeed: its engine owns gradients and steps. Use DDP or FSDP2.")
    plugin = getattr(trainer.accelerator.state, "fsdp_plugin", None) if trainer.is_fsdp_enabled else None
    if plugin is not None and int(getattr(plugin, "fsdp_version", 1)) < 2:
        raise UnsupportedError(
            f"{names} under FSDP1: flattened parameters have no names. Use fsdp_config={{'version': 2}}."
        )
    if args.fp16:
        raise UnsupportedError(
            f"{names} with fp16: the loss scaler changes the gradients a method sees and skips steps. Use bf16=True."
        )
