"""What a method is: the turns it may take in a run (DESIGN: the seven turns).

rows = method.data(run)
method.start(run)
for each optimizer step:
    micro-batches = method.before_step(run, micro-batches)
    for batch in micro-batches:
        total, count = method.loss(run, batch, out)
        loss = cross-entropy / tokens of the step  +  total / count
        loss.backward()
    method.gradients(run)          # p.grad whole and averaged over ranks; then the Trainer clips
    optimizer.step()
    method.after_step(run)
overwrite(model, method.finish(weights))
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from unforgotten.registry import Component
from unforgotten.runs import field_docs

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.methods.base.run import EncodedRow, Run, Term


MODELS = ("base", "aligned", "tuned")
"""What `finish` can read: θ₀, θ_safe and θ*."""
MOST_REPLAY = 1000
"""Memory rows per user row in a step at most: more is a slip of the pen, and no machine could draw them."""


class Weights(Protocol):
    """What `finish` reads: lazy tensors of three models, by the Hub's public names (models/weights/base.py: Source)."""

    base: Any
    """θ₀; only for methods with `needs_unaligned_model`."""
    aligned: Any
    """θ_safe."""
    tuned: Any
    """θ* after the edits of earlier methods; its `factors` are the trained LoRA on θ_safe."""

    trained: Any
    """The trained tensors by parameter name, such as LoRA factors; empty in `repair`."""

    def product(self, up: Tensor, down: Tensor) -> Any:
        """A trained adapter's new change of a weight, up (out, r) · down (r, in), to be yielded for a tensor."""

    def by_rows(
        self, name: str, edit: Callable[..., Tensor], reads: Sequence[str] = MODELS, beside: Sequence[Tensor] = ()
    ) -> Any:
        """`edit` of one tensor's rows as the models in `reads` have them, to be yielded for it.

        It is made some rows at a time where the result goes to a file, so each row must need no other. beside: tensors
        with as many rows as the weight, whose same rows follow as further arguments.
        """

    def adapter(self, folder: str) -> Any:
        """Another adapter on θ_safe, opened: its `factors` by weight. Raises ModelError where it lies on others."""

    def note(self, text: str) -> None:
        """A fact that the results should carry."""


@dataclass(kw_only=True)
class Method(Component):
    """One way to fine-tune on user data without forgetting safety.

    Subclass as a dataclass; each field is a hyperparameter with one sentence under it. Override only the turns that
    the paper changes: the rest stays plain supervised fine-tuning. A method imports this file, and torch inside
    functions or under TYPE_CHECKING, so that listing methods and checking a recipe load no torch.
    """

    room: ClassVar[str] = "methods"
    family: ClassVar[str] = "other"
    """Kind of method: control, data, memory, regularization, projection, trajectory, merging or tokens."""
    remembers: ClassVar[tuple[str, ...]] = ()
    """Attributes that steps change: tensors by name, or JSON values. Checkpoints save them, and a resume restores
    them."""
    later: ClassVar[tuple[str, ...]] = ()
    """Fields that came after results were published. At its default such a field leaves a run's digest as it was."""
    neutral: ClassVar[dict[str, Any]] = {}
    """The setting at which the method equals SFT, bit for bit."""
    faint: ClassVar[dict[str, Any]] = {}
    """A setting whose extra work runs with almost no weight (1e-30). It must also end at SFT, bit for bit."""
    needs_safety: ClassVar[bool] = True
    """Whether the method reads safety rows. If it does, a recipe without safety rows is refused."""

    needs_unaligned_model: ClassVar[bool] = False
    """Whether `finish` reads θ₀, the weights from before alignment."""
    reads_aligned: ClassVar[bool] = False
    """Whether `finish` reads θ_safe. Set it for an edit that reads θ_safe and no θ₀."""
    adapter_field: ClassVar[str] = ""
    """The field that names another adapter on θ_safe which `finish` reads; it is opened before anything is trained."""
    dense: ClassVar[bool] = False
    """Whether `finish` returns whole weights even if an adapter was trained. A whole model is then saved."""

    cost: ClassVar[float] = 1.0
    """Cost of one step relative to SFT, in forwards and backwards (SFT is 3 F; F is a forward of the user's batch)."""
    reads_forward: ClassVar[bool] = False
    """Whether `loss` reads the forward of the user's batch: `run.user.token_logp(batch, out)` and, below, its hidden
    states, never its logits, which need not have been made. Otherwise `out` may be None."""
    reads_hidden: ClassVar[bool] = False
    """Whether it reads hidden states there too (`out.hidden_states`); sets nothing else."""

    fsdp2: ClassVar[bool] = False
    """Whether the method is right where FSDP2 shards the weights; read off the class itself, never inherited."""

    @property
    def held_out_share(self) -> float:
        """Safety rows that it needs held out, as a share of the replayed ones; 0 unless it reads `run.memory.drift`."""
        return 0.0

    def reads_gradient_norms(self, run: Run) -> bool:
        """Whether it reads `run.gradient_norms` after the step that is to come: one more backward of its term."""
        return False

    @classmethod
    def facts(cls) -> dict[str, str]:
        """What `list methods` and docs/methods.md print, read off the class."""
        return {
            "family": cls.family,
            "turns": ", ".join(turns(cls)) or "–",
            "needs": ", ".join(needs(cls)) or "–",
            "step": f"{3 * cls.cost:g} F",
            "arXiv": ", ".join(papers(cls)) or "–",
        }

    def data(self, run: Run) -> list[EncodedRow]:
        """Before the run: the encoded rows to train on. [SafeInstr, GR-SAP]"""
        return run.user.rows

    def start(self, run: Run) -> None:
        """Once, before the first step: what θ_safe determines goes through `run.once`. [DER, EWC, Refresh]"""

    def before_step(self, run: Run, batches: list[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """Before each optimizer step: replace its micro-batches (as many as came), or move weights. [Refresh, Lisa]"""
        return batches

    def loss(self, run: Run, batch: dict[str, Tensor], out: Any) -> Term | None:
        """On each micro-batch: a sum, and the number of terms that the whole step sums over on all ranks. [DER, LwF]

        The trainer divides one by the other, so that neither the split into micro-batches nor the number of ranks
        changes the step. None means: nothing to add, no work done.
        """
        return None

    def gradients(self, run: Run) -> None:
        """Once per step: edit `p.grad` in place; it is whole, averaged over ranks, not yet clipped. [A-GEM, EWC]"""

    def after_step(self, run: Run) -> None:
        """The optimizer has just moved the weights. [EMA]"""

    def finish(self, weights: Weights) -> Iterable[tuple[str, Tensor]]:
        """After training: (public name, tensor) pairs that replace the tuned model's. [MagMax, SafeLoRA]"""
        return ()


TURNS = ("data", "start", "before_step", "loss", "gradients", "after_step", "finish")


def turns(cls: type[Method]) -> list[str]:
    """The turns that a method takes, in their order."""
    return [turn for turn in TURNS if getattr(cls, turn) is not getattr(Method, turn)]


def needs(cls: type[Method]) -> list[str]:
    """What a method needs beside the user's rows, read off its flags and off what its turns ask of the run."""
    asked = {
        name for c in cls.__mro__ for f in vars(c).values() if inspect.isfunction(f) for name in _names(f.__code__)
    }
    needed = {
        "safety data": cls.needs_safety,
        "teacher": bool(asked & {"teacher", "store_states", "store_prompt_states", "store"}),
        "Fisher": "fisher" in asked,
        "base weights": cls.needs_unaligned_model,
    }
    return [what for what, wanted in needed.items() if wanted]


def papers(cls: type[Method]) -> list[str]:
    """The arXiv ids of the docstring's first line."""
    return re.findall(r"\d{4}\.\d{4,5}", field_docs.claim(cls))


def _names(code: CodeType) -> set[str]:
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return set(code.co_names).union(*map(_names, inner)) if inner else set(code.co_names)
