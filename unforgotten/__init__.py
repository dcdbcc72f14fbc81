"""Fine-tune on anyone's data without forgetting safety.

The public names are imported on first use, so that `import unforgotten` loads no torch. The verbs are functions of
their own modules: `from unforgotten.verbs.finetune.finetune import finetune`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unforgotten.methods.agem import AGEM
    from unforgotten.methods.base import Method
    from unforgotten.methods.constrained_sft import ConstrainedSFT
    from unforgotten.methods.der import DER
    from unforgotten.methods.derpp import DERpp
    from unforgotten.methods.ema import EMA
    from unforgotten.methods.ewc import EWC
    from unforgotten.methods.grsap import GRSAP
    from unforgotten.methods.lisa import Lisa
    from unforgotten.methods.lwf import LwF
    from unforgotten.methods.magmax import MagMax
    from unforgotten.methods.refresh import Refresh
    from unforgotten.methods.safeinstr import SafeInstr
    from unforgotten.methods.safelora import SafeLoRA
    from unforgotten.methods.sft import SFT
    from unforgotten.recipe.recipe import Recipe, read
    from unforgotten.training.memory import Memory
    from unforgotten.training.trainer import MethodMixin, MethodTrainer

__version__ = "0.1.0"

_HOMES = {
    "AGEM": "methods.agem",
    "ConstrainedSFT": "methods.constrained_sft",
    "DER": "methods.der",
    "DERpp": "methods.derpp",
    "EMA": "methods.ema",
    "EWC": "methods.ewc",
    "GRSAP": "methods.grsap",
    "Lisa": "methods.lisa",
    "LwF": "methods.lwf",
    "MagMax": "methods.magmax",
    "Refresh": "methods.refresh",
    "SFT": "methods.sft",
    "SafeInstr": "methods.safeinstr",
    "SafeLoRA": "methods.safelora",
    "Method": "methods.base",
    "Memory": "training.memory",
    "MethodMixin": "training.trainer",
    "MethodTrainer": "training.trainer",
    "Recipe": "recipe.recipe",
    "read": "recipe.recipe",
}

__all__ = [
    "AGEM",
    "ConstrainedSFT",
    "DER",
    "DERpp",
    "EMA",
    "EWC",
    "GRSAP",
    "Lisa",
    "LwF",
    "MagMax",
    "Memory",
    "Method",
    "MethodMixin",
    "MethodTrainer",
    "Recipe",
    "Refresh",
    "SFT",
    "SafeInstr",
    "SafeLoRA",
    "read",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"unforgotten.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'unforgotten' has no attribute {name!r}")
