"""Fine-tune on anyone's data without forgetting safety.

    from unforgotten import DER, Jsonl, MethodTrainer, evaluate, finetune, load_recipe

Verbs are functions: `finetune(load_recipe("my.yaml"))` is `unforgotten finetune my.yaml`. Names are imported on first
use, so that `import unforgotten` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unforgotten.datasets.base import Dataset, Row
    from unforgotten.datasets.jsonl import Jsonl
    from unforgotten.errors import (
        DataError,
        EndpointError,
        JudgeError,
        LeaseLost,
        ModelError,
        RecipeError,
        SandboxError,
        TemplateError,
        TrainingError,
        Unfinished,
        UnforgottenError,
        UnknownName,
        UnsupportedError,
    )
    from unforgotten.generation.reply import Reply
    from unforgotten.judges.base import Judge, Verdict
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
    from unforgotten.models.chat.chat import Chat
    from unforgotten.recipe.read import read as load_recipe
    from unforgotten.recipe.recipe import Recipe
    from unforgotten.training.memory import Memory
    from unforgotten.training.trainer import MethodMixin, MethodTrainer
    from unforgotten.verbs.align import align
    from unforgotten.verbs.audit.audit import audit
    from unforgotten.verbs.compare.compare import compare
    from unforgotten.verbs.evaluate import evaluate
    from unforgotten.verbs.export.export import export
    from unforgotten.verbs.finetune.finetune import finetune
    from unforgotten.verbs.gate import against
    from unforgotten.verbs.judge import judge
    from unforgotten.verbs.plan.plan import plan
    from unforgotten.verbs.repair import repair
    from unforgotten.verbs.sweep.sweep import sweep
    from unforgotten.verbs.synthesize.synthesize import synthesize

__version__ = "0.1.0"

_HOMES = {
    "AGEM": "methods.agem",
    "Chat": "models.chat.chat",
    "ConstrainedSFT": "methods.constrained_sft",
    "DER": "methods.der",
    "DERpp": "methods.derpp",
    "DataError": "errors",
    "Dataset": "datasets.base",
    "EMA": "methods.ema",
    "EWC": "methods.ewc",
    "EndpointError": "errors",
    "GRSAP": "methods.grsap",
    "Jsonl": "datasets.jsonl",
    "Judge": "judges.base",
    "JudgeError": "errors",
    "LeaseLost": "errors",
    "Lisa": "methods.lisa",
    "LwF": "methods.lwf",
    "MagMax": "methods.magmax",
    "Memory": "training.memory",
    "Method": "methods.base",
    "MethodMixin": "training.trainer",
    "MethodTrainer": "training.trainer",
    "ModelError": "errors",
    "Recipe": "recipe.recipe",
    "RecipeError": "errors",
    "Refresh": "methods.refresh",
    "Reply": "generation.reply",
    "Row": "datasets.base",
    "SFT": "methods.sft",
    "SafeInstr": "methods.safeinstr",
    "SafeLoRA": "methods.safelora",
    "SandboxError": "errors",
    "TemplateError": "errors",
    "TrainingError": "errors",
    "Unfinished": "errors",
    "UnforgottenError": "errors",
    "UnknownName": "errors",
    "UnsupportedError": "errors",
    "Verdict": "judges.base",
    "against": "verbs.gate",
    "align": "verbs.align",
    "audit": "verbs.audit.audit",
    "compare": "verbs.compare.compare",
    "evaluate": "verbs.evaluate",
    "export": "verbs.export.export",
    "finetune": "verbs.finetune.finetune",
    "judge": "verbs.judge",
    "load_recipe": "recipe.read:read",
    "plan": "verbs.plan.plan",
    "repair": "verbs.repair",
    "sweep": "verbs.sweep.sweep",
    "synthesize": "verbs.synthesize.synthesize",
}
"""Where each public name stands."""

__all__ = [
    "AGEM",
    "Chat",
    "ConstrainedSFT",
    "DER",
    "DERpp",
    "DataError",
    "Dataset",
    "EMA",
    "EWC",
    "EndpointError",
    "GRSAP",
    "Jsonl",
    "Judge",
    "JudgeError",
    "LeaseLost",
    "Lisa",
    "LwF",
    "MagMax",
    "Memory",
    "Method",
    "MethodMixin",
    "MethodTrainer",
    "ModelError",
    "Recipe",
    "RecipeError",
    "Refresh",
    "Reply",
    "Row",
    "SFT",
    "SafeInstr",
    "SafeLoRA",
    "SandboxError",
    "TemplateError",
    "TrainingError",
    "Unfinished",
    "UnforgottenError",
    "UnknownName",
    "UnsupportedError",
    "Verdict",
    "against",
    "align",
    "audit",
    "compare",
    "evaluate",
    "export",
    "finetune",
    "judge",
    "load_recipe",
    "plan",
    "repair",
    "sweep",
    "synthesize",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unforgotten' has no attribute {name!r}")
    home, _, own = _HOMES[name].partition(":")
    return getattr(importlib.import_module(f"unforgotten.{home}"), own or name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
