"""Fine-tune on anyone's data without forgetting safety.

    from unforgotten import DER, Jsonl, MethodTrainer, evaluate, finetune, load_recipe

Verbs are functions: `finetune(load_recipe("my.yaml"))` is `unforgotten finetune my.yaml`. `__init__.pyi` lists every
name with its module, for type checkers and for this file. A name is imported on first use: `import unforgotten` loads
no torch.
"""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

__version__ = "0.1.0"

_STUB = Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")
_HOMES = {name: home for home, name in re.findall(r"^from (\S+) import (\w+) as \w+$", _STUB, re.MULTILINE)}
"""Each public name -> its module, relative to this package."""

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'unforgotten' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*(name for name in globals() if name.startswith("__")), *_HOMES])
