"""Plain supervised fine-tuning on the user's rows: the control that forgets. [arXiv 2512.10150 §5]"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from unforgotten.methods.base import Method


@dataclass(kw_only=True)
class SFT(Method):
    """Plain supervised fine-tuning: the control that forgets. [arXiv 2512.10150 §5]"""

    family: ClassVar[str] = "control"
    fsdp2: ClassVar[bool] = True
    needs_safety: ClassVar[bool] = False
    neutral: ClassVar[dict[str, Any]] = {}
