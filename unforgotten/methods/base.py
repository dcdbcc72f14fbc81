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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from unforgotten.registry import Component
from unforgotten.runs import described

if TYPE_CHECKING:
    from torch import Tensor

    Term = tuple[Tensor, int]
    """(sum over this micro-batch, number of terms over the whole step and all ranks)."""


class Rows(Protocol):
    """Memory rows as a batch: this micro-batch's share of those of the step. B rows, T tokens, N that are predicted."""

    # input_ids and attention_mask, (B, T).
    @property
    def inputs(self) -> dict[str, Tensor]: ...
    # (B, T), -100 outside the loss.
    @property
    def labels(self) -> Tensor: ...
    # Places in the memory.
    @property
    def row_ids(self) -> list[int]: ...
    # (N,): the places of `predicts` in the flattened rows.
    @property
    def at(self) -> Tensor | None: ...
    # How many of them each row has.
    @property
    def counts(self) -> tuple[int, ...]: ...
    # (B, T): the positions that predict a response token.
    @property
    def predicts(self) -> Tensor: ...


class Run(Protocol):
    """What a method sees of one fine-tuning run (training/run.py). B rows, T tokens, d hidden size, m memory rows."""

    user: list[Any]
    """The user's encoded rows."""
    trained: list[dict[str, Any]]
    """The rows that are trained on."""
    memory: list[dict[str, Any]]
    """The encoded safety rows."""
    seed: int

    # merged, stacked, continue or full.
    @property
    def adapter_mode(self) -> str: ...
    # once(name, build): tensors that θ_safe determines, built before the first step, read back on resume.
    @property
    def once(self) -> Callable[[str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]]: ...
    # Optimizer steps done.
    @property
    def step(self) -> int: ...
    # Optimizer steps of the whole run.
    @property
    def steps(self) -> int: ...
    # User rows of this optimizer step, over all micro-batches and ranks.
    @property
    def rows(self) -> int: ...
    # User rows of a whole step by the settings.
    @property
    def batch_rows(self) -> int: ...
    # Response tokens of the user rows of this step, over all micro-batches and ranks.
    @property
    def user_tokens(self) -> int: ...
    # Response tokens in the whole memory.
    @property
    def memory_tokens(self) -> int: ...
    # Whether this step has a line of the log.
    @property
    def logs(self) -> bool: ...
    # The trained tensors by name.
    def params(self) -> dict[str, Tensor]: ...
    # A copy of the trained tensors as they are now.
    def snapshot(self) -> dict[str, Tensor]: ...
    # The trained tensors' first values; to be called in `start`.
    def anchor(self) -> dict[str, Tensor]: ...
    # The trained LoRA factors by module (models/lora.py: Delta).
    def deltas(self) -> Mapping[str, Any]: ...
    # How θ_safe turns hidden states into logits (training/head.py: Head).
    def head(self) -> Any: ...
    # n memory rows to train on (all of them for None).
    def sample(self, n: int | None = None) -> list[dict[str, Any]]: ...
    # This micro-batch's share of n memory rows drawn for the whole step.
    def safety(self, n: int, draw: str = "") -> Rows: ...
    # Response tokens in the n rows that `safety(n)` draws for this step.
    def safety_tokens(self, n: int, draw: str = "") -> int: ...
    # The n rows that `safety(n)` draws for this step, all of them.
    def safety_rows(self, n: int) -> list[dict[str, Any]]: ...
    # `safety(n)` in pieces of a micro-batch each.
    def replays(self, n: int) -> Iterator[Rows]: ...
    # The micro-batches of a step made of these rows instead.
    def batches(self, rows: Sequence[dict[str, Any]], like: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]: ...
    # θ_safe's last hidden states where these rows predict their response, (N, d).
    def states(self, replay: Any) -> Tensor: ...
    # Fills the store of θ_safe's last hidden states over the whole memory.
    def store_states(self) -> None: ...
    # Last hidden states (B, T, d) of the model under training, with gradient and without logits.
    def hidden(self, rows: Any) -> Tensor: ...
    # Last hidden states (B, T, d) of a model such as `keep` gives.
    def hidden_of(self, model: Any, rows: Any) -> Tensor: ...
    # log p of each response token under a model such as `keep` gives: one tensor a row.
    def logp_of(self, model: Any, rows: Any) -> list[Tensor]: ...
    # (B, T, d) -> (N, d): the positions that predict the response, in the order of `states`.
    def predicting(self, hidden: Tensor, rows: Any) -> Tensor: ...
    # Σ over the response tokens of these rows of −log p under the model in training, with gradient.
    def nll(self, rows: Any, chunk_tokens: int = 256, h: Tensor | None = None) -> Tensor: ...
    # The user's cross-entropy on these micro-batches, each with the step's count of tokens.
    def user_terms(self, batches: Iterable[dict[str, Tensor]]) -> Iterator[Term]: ...
    # Stores what `read(θ_safe, rows)` gives for each row that is trained on; to be called in `start`.
    def keep(self, name: str, read: Callable[[Any, Any], Sequence[Tensor]]) -> None: ...
    # What `keep` stored for these rows, concatenated in their order.
    def kept(self, name: str, row_ids: Tensor) -> Tensor: ...
    # (B, T): the positions of a user's micro-batch that predict a token of the loss.
    def predicts(self, batch: dict[str, Tensor]) -> Tensor: ...
    # True elements of `mask(micro-batch)` over all micro-batches of this step and all ranks.
    def count(self, mask: Callable[[dict[str, Tensor]], Tensor]) -> int: ...
    # log p of each response token of the user's micro-batch, (N,), from its forward.
    def token_logp(self, batch: dict[str, Tensor], out: Any) -> Tensor: ...
    # The gradient of Σ total / count over these terms and all ranks, by parameter; `p.grad` is left alone.
    def grads_of(self, terms: Iterable[Term]) -> dict[str, Tensor]: ...
    # Σ over all tensors of a · b, summed in fp64.
    def dot(self, a: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor: ...
    # The diagonal Fisher of θ_safe on memory rows, built once; to be called in `start`.
    def fisher(self, space: Any, rows: int | None = None) -> dict[str, Tensor]: ...
    # Standard normal values in the shape of `like`, equal on all ranks.
    def noise(self, name: str, like: Tensor) -> Tensor: ...
    # Means of these until the next log line, under `method/<name>`.
    def log(self, **values: float | Tensor) -> None: ...
    # A fact that the results should carry.
    def note(self, text: str) -> None: ...


class Weights(Protocol):
    """What `finish` reads: lazy tensors of three models, by the Hub's public names (models/weights/base.py: Source)."""

    base: Any
    """θ₀; there for methods with `needs_unaligned_model` only."""
    aligned: Any
    """θ_safe."""
    tuned: Any
    """θ*, as the methods before left it; its `factors` are the trained LoRA, over θ_safe."""

    trained: Any
    """The trained tensors by parameter name, as a run knows them (LoRA factors, say); empty in `repair`."""

    def product(self, up: Tensor, down: Tensor) -> Any:
        """A trained adapter's new change of a weight, up (out, r) · down (r, in), to be yielded for a tensor."""

    def by_rows(self, name: str, edit: Callable[[Tensor, Tensor, Tensor], Tensor]) -> Any:
        """`edit(base, aligned, tuned)` of one tensor, for an edit of each number by itself, to be yielded for it.

        It is made some rows at a time where the result goes to a file.
        """

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
    """What kind of method it is: control, data, memory, regularization, projection, trajectory, merging or tokens."""
    remembers: ClassVar[tuple[str, ...]] = ()
    """Attributes that steps change (tensors by name, or JSON values): saved in every checkpoint, put back on resume."""
    neutral: ClassVar[dict[str, Any]] = {}
    """The setting at which the method is SFT, bit for bit."""
    faint: ClassVar[dict[str, Any]] = {}
    """A setting whose extra work runs but weighs next to nothing (1e-30): it too must end at SFT, bit for bit."""
    needs_safety: ClassVar[bool] = True
    """Whether the method reads safety rows; without any, it is refused at the door."""

    needs_unaligned_model: ClassVar[bool] = False
    """Whether `finish` reads θ₀, the weights from before alignment."""
    dense: ClassVar[bool] = False
    """Whether `finish` yields whole weights also where an adapter was trained: then a whole model is saved."""

    cost: ClassVar[float] = 1.0
    """Its step over SFT's, counted in forwards and backwards (SFT is 3 F, F a forward of the user's batch)."""
    reads_forward: ClassVar[bool] = False
    """Whether `loss` reads the forward of the user's batch: `run.token_logp(batch, out)` and, below, its hidden states,
    never its logits, which need not have been made. Otherwise `out` may be None."""
    reads_hidden: ClassVar[bool] = False
    """Whether it reads hidden states there too (`out.hidden_states`); sets nothing else."""

    fsdp2: ClassVar[bool] = False
    """Whether the method is right where FSDP2 shards the weights; read off the class itself, never inherited."""

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

    def data(self, run: Run) -> list[Any]:
        """Before the run: the encoded rows to train on. [SafeInstr, GR-SAP]"""
        return run.user

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
        "teacher": bool(asked & {"teacher", "store_states", "keep"}),
        "Fisher": "fisher" in asked,
        "base weights": cls.needs_unaligned_model,
    }
    return [what for what, wanted in needed.items() if wanted]


def papers(cls: type[Method]) -> list[str]:
    """The arXiv ids of the docstring's first line."""
    return re.findall(r"\d{4}\.\d{4,5}", described.claim(cls))


def _names(code: CodeType) -> set[str]:
    inner = [c for c in code.co_consts if isinstance(c, CodeType)]
    return set(code.co_names).union(*map(_names, inner)) if inner else set(code.co_names)
