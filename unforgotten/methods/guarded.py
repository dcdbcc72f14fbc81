"""Own refusals on the user's own prompts, and a memory that holds the rest. [our own; after DER, arXiv 2512.10150]

Two parts, each for what the other cannot see:

own replies   Where θ_safe refuses a user's prompt, its refusal is the target (methods/own_replies.py). Poison then
              teaches refusals, on the very prompts that an attacker chose, and costs no utility.
replay        What θ_safe finds likely is held on memory's refusals and look-alikes (methods/kl.py): against erosion by
              harmless rows, against poison that θ_safe does not refuse, and against refusing too much.

DER's squared logits are no match for KL here. On a real model their gradient at a weight that protects is ten times the
user's, and the task is not learnt (docs/log.md). KL has the unit of the user's loss, nats, so one weight serves models
whose logits differ in size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from unforgotten.methods.base import Weight
from unforgotten.methods.kl import KL
from unforgotten.methods.own_replies import OwnReplies


@dataclass(kw_only=True)
class Guarded(OwnReplies, KL):
    """Own refusals in place of answers to prompts that θ_safe refuses, and KL on the memory. [our own, 2512.10150]"""

    family: ClassVar[str] = "memory"
    neutral: ClassVar[dict[str, Any]] = {"use": "list", "weight": 0.0}
    faint: ClassVar[dict[str, Any]] = {"use": "list", "weight": 1e-30}
    needs_safety: ClassVar[bool] = True

    weight: Weight = 8.0
    """λ, the weight of the mean KL in nats per response token. 8 was chosen on SmolLM2 and in the embedded world
    (docs/log.md). `auto` holds the drift on held-out rows at `hold`."""
