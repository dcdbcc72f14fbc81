"""Fine-tune on anyone's data without forgetting safety.

The public names are imported on first use, so that `import unforgotten` loads no torch. The verbs are functions of
their own modules: `from unforgotten.finetune import finetune`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unforgotten.methods.base import Method
    from unforgotten.methods.der import DER
    from unforgotten.methods.safeinstr import SafeInstr
    from unforgotten.methods.sft import SFT
    from unforgotten.recipe import Recipe, read
    from unforgotten.training.memory import Memory
    from unforgotten.training.trainer import MethodMixin, MethodTrainer

__version__ = "0.1.0"

_HOMES = {
    "DER": "methods.der",
    "SFT": "methods.sft",
    "SafeInstr": "methods.safeinstr",
    "Method": "methods.base",
    "Memory": "training.memory",
    "MethodMixin": "training.trainer",
    "MethodTrainer": "training.trainer",
    "Recipe": "recipe",
    "read": "recipe",
}

__all__ = [
    "DER",
    "SFT",
    "Memory",
    "Method",
    "MethodMixin",
    "MethodTrainer",
    "Recipe",
    "SafeInstr",
    "read",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"unforgotten.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'unforgotten' has no attribute {name!r}")
