"""Own refusals on the user's own prompts, and a memory that holds the rest. [our own; after DER, arXiv 2512.10150]

Two parts, each for what the other cannot see:

own replies   Where θ_safe refuses a user's prompt, its refusal is the target (methods/own_replies.py). Poison then
              teaches refusals, on the very prompts that an attacker chose, and costs no utility.
replay        θ_safe's logits are held on memory's refusals and look-alikes (methods/der.py): against erosion by
              harmless rows, against poison that θ_safe does not refuse, and against refusing too much.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from unforgotten.methods.der import DER
from unforgotten.methods.own_replies import OwnReplies


@dataclass(kw_only=True)
class Guarded(OwnReplies, DER):
    """Own refusals in place of answers to prompts that θ_safe refuses, and DER on the memory. [our own, 2512.10150]"""

    family: ClassVar[str] = "memory"
    neutral: ClassVar[dict[str, Any]] = {"use": "list", "weight": 0.0}
    faint: ClassVar[dict[str, Any]] = {"use": "list", "weight": 1e-30}
    needs_safety: ClassVar[bool] = True
