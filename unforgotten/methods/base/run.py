"""What a method sees of one fine-tuning run: `run.memory`, `run.user`, `run.weights`, and `run` itself.

training/run.py fills these Protocols. B rows, T tokens of the longest row, N response tokens, d hidden size.
"""

# Long because a method's whole view of a run is read in one file.

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from unforgotten.methods.base.replies import AskedReplies

    Term = tuple[Tensor, int]
    """(sum over this micro-batch, number of terms over the whole step and all ranks)."""

EncodedRow = dict[str, Any]
"""`input_ids` and `labels` (-100 outside the loss); a safety row's `kind` and `difficulty`; `row_id`, its place."""


@dataclass(frozen=True)
class RowBatch:
    """Encoded rows as a batch on the device. B rows, T tokens of the longest, N tokens in the loss."""

    inputs: dict[str, Tensor]
    """input_ids and attention_mask, (B, T)."""
    labels: Tensor
    """(B, T), -100 outside the loss."""
    predicts: Tensor
    """(B, T): the positions whose next token is in the loss."""
    row_ids: list[int]
    """Places in the memory, or among the rows that are trained on."""
    at: Tensor | None = None
    """(N,): the places of `predicts` in (B·T,), found on the host: reading a mask makes the device wait."""
    counts: tuple[int, ...] = ()
    """How many of them each row has, likewise."""

    def select(self, hidden: Tensor) -> Tensor:
        """(B, T, d) -> (N, d): the positions that predict a token of the loss."""
        return hidden[self.predicts] if self.at is None else hidden.flatten(0, 1).index_select(0, self.at)


@dataclass(frozen=True)
class Drift:
    """How far the model has moved from θ_safe on held-out safety rows (training/drift.py has the units)."""

    step: int
    """Optimizer steps done."""
    rows: int
    """Rows measured."""
    means: Mapping[str, float]
    """By unit and kind: `kl_refusals`, `kl_lookalikes`, `kl_first_refusals` … A kind without rows has none."""

    @property
    def kl(self) -> float:
        """KL(θ_safe ‖ θ) in nats per response token, of refusals or of look-alikes, whichever moved further.

        NaN where one of them is.
        """
        both = [value for name, value in self.means.items() if name in ("kl_refusals", "kl_lookalikes")]
        return next((value for value in both if value != value), max(both))


class AlignedHead(Protocol):
    """How θ_safe turns hidden states into logits (training/head.py). h, stored: (N, d); V vocabulary."""

    @property
    def vocabulary(self) -> int:
        """V."""

    @property
    def linear(self) -> bool:
        """Whether ‖logits − logits′‖² is a quadratic form of hidden states: then `gram` gives its (d, d) matrix."""

    @property
    def closed(self) -> bool:
        """Whether the head is frozen: then `distance` gives Σ ‖logits − logits′‖² with its gradient by formula."""

    def gram(self) -> Tensor: ...
    def distance(self, h: Tensor, stored: Tensor, chunk_tokens: int, weights: Tensor | None = None) -> Tensor: ...
    def kl(self, h: Tensor, stored: Tensor, chunk_tokens: int) -> Tensor:
        """KL(θ_safe ‖ θ) in nats of each token, (N,), with gradient."""

    def logits(self, hidden: Tensor) -> Tensor: ...
    def aligned_logits(self, hidden: Tensor) -> Tensor: ...


class MemoryRows(Protocol):
    """`run.memory`: the safety rows kept for replay."""

    rows: list[EncodedRow]

    @property
    def tokens(self) -> int:
        """Response tokens of all rows."""

    def sample(self, n: int | None = None) -> list[EncodedRow]:
        """n rows to train on (all of them for None), chosen by the seed and the method's name; for `data`."""

    def draw(self, n: int, name: str = "") -> RowBatch:
        """This micro-batch's share of n rows drawn for the whole step. name: of a second, independent draw."""

    def draw_in_pieces(self, n: int) -> Iterator[RowBatch]:
        """`draw(n)` in pieces of a micro-batch each; every rank gets as many."""

    def drawn_rows(self, n: int) -> list[EncodedRow]:
        """The n rows of the whole step, as `run.user.micro_batches` takes them."""

    def drawn_tokens(self, n: int, name: str = "") -> int:
        """Response tokens in the n rows of the whole step: the count of a `Term`."""

    def draw_prompts(self, n: int, refusals: float | None = None) -> RowBatch:
        """This micro-batch's share of n prompts of the whole step; `predicts` marks each prompt's last token.

        A row is cut before its first answer. refusals: share of harmful prompts; None draws from all rows alike.
        """

    def store_prompt_states(self) -> Tensor:
        """Stores θ_safe's last hidden state at the end of each row's prompt, (rows, d); to be called in `start`."""

    def prompt_states(self, batch: RowBatch) -> Tensor:
        """What is stored for these prompts, (B, d)."""

    def store_states(self) -> None:
        """Stores θ_safe's last hidden states on all rows; to be called in `start`."""

    def stored_states(self, batch: RowBatch) -> Tensor:
        """What is stored for these rows, (N, d)."""

    @property
    def measures_drift(self) -> bool:
        """Whether held-out rows are measured after this step."""

    def drift(self, rows: int | None = None) -> Drift:
        """How far the model is from θ_safe on held-out rows now; to be called in `after_step`, on all ranks.

        rows: so many of them, else as many as a measurement takes.
        """

    def store(self, name: str, read: Callable[[Any, RowBatch], Sequence[Tensor]]) -> None:
        """Stores `read(θ_safe, rows)`, one tensor a row, for each memory row; to be called in `start`."""

    def stored(self, name: str) -> list[Tensor]:
        """What is stored there, one tensor a row."""


class UserBatches(Protocol):
    """`run.user`: the user's rows, and the micro-batches of this step."""

    rows: list[EncodedRow]
    trained_rows: list[EncodedRow]
    """The rows trained on: the user's and those that methods put in (`data`); a batch's `row_id` counts these."""
    places: list[int]
    """Which of `rows` each row trained on comes from; -1 for those that methods put in."""

    @property
    def batch_size(self) -> int:
        """Rows of a whole step by the settings; an epoch's last step may have fewer."""

    @property
    def step_rows(self) -> int:
        """Rows of this step, over all micro-batches and ranks."""

    @property
    def step_tokens(self) -> int:
        """Response tokens of this step, likewise: the count of a `Term`."""

    def count(self, mask: Callable[[dict[str, Tensor]], Tensor]) -> int:
        """True elements of `mask(micro-batch)` in this step, likewise."""

    def terms(self, batches: Iterable[dict[str, Tensor]]) -> Iterator[Term]:
        """The cross-entropy of each of these micro-batches."""

    def micro_batches(self, rows: Sequence[EncodedRow], like: Sequence[dict[str, Tensor]]) -> list[dict[str, Tensor]]:
        """As many micro-batches as in `like`, of these rows instead."""

    def store(self, name: str, read: Callable[[Any, RowBatch], Sequence[Tensor]]) -> None:
        """Stores `read(θ_safe, rows)`, one tensor a row, for each row trained on; to be called in `start`."""

    def stored(self, name: str, row_ids: Tensor) -> Tensor:
        """What is stored for these rows, one after the other."""

    def set_row_weights(self, weights: Tensor | Mapping[int, float]) -> None:
        """Weights in [0, 1] by `row_id`, for methods later in the list; to be called in `start` by one method.

        weights: (rows trained on,), or a mapping whose missing rows have weight 1.
        """

    @property
    def has_row_weights(self) -> bool:
        """Whether a method has set row weights."""

    def row_weights(self, batch: dict[str, Tensor]) -> Tensor:
        """(B,): the weights of a micro-batch's rows; 1 where none are set, and for rows without a `row_id` (-1)."""

    def predicts(self, batch: dict[str, Tensor]) -> Tensor:
        """(B, T): the positions that predict a token of the loss."""

    def token_logp(self, batch: dict[str, Tensor], out: Any) -> Tensor:
        """log p of each response token, (N,), from the forward that `loss` is given."""


class TrainedWeights(Protocol):
    """`run.weights`: the model under training, and θ_safe."""

    @property
    def model(self) -> Any:
        """The model under training, without what wraps it."""

    def params(self) -> dict[str, Tensor]:
        """The trained tensors by name."""

    def snapshot(self) -> dict[str, Tensor]:
        """A copy of them as they are now."""

    def anchor(self) -> dict[str, Tensor]:
        """Their values at θ_safe, also after a resume; to be called in `start`."""

    def deltas(self) -> Mapping[str, Any]:
        """The trained LoRA factors by module (models/lora.py: Delta)."""

    def teacher(self) -> AbstractContextManager[Any]:
        """θ_safe in eval mode and without gradient; under `continue` and `full` in `start` alone."""

    def head(self) -> AlignedHead:
        """How θ_safe turns hidden states into logits."""

    def states(self, batch: RowBatch) -> Tensor:
        """Last hidden states (N, d) of the model under training, with gradient and without logits."""

    def hidden_of(self, model: Any, batch: RowBatch) -> Tensor:
        """Last hidden states (B, T, d) of a model that `teacher` gives."""

    def logp_of(self, model: Any, batch: RowBatch) -> list[Tensor]:
        """log p of each response token under a model that `teacher` gives: one tensor a row."""

    def nll(self, batch: RowBatch, chunk_tokens: int = 256, h: Tensor | None = None) -> Tensor:
        """Σ −log p of these rows' response tokens, with gradient. h: their `states`, where they are known."""

    def gradient(self, terms: Iterable[Term]) -> dict[str, Tensor]:
        """The gradient of Σ total / count over terms and ranks, by name; `p.grad` is left alone."""

    def dot(self, a: dict[str, Tensor], b: dict[str, Tensor]) -> Tensor:
        """Σ over all tensors of a · b."""

    def noise(self, name: str, like: Tensor) -> Tensor:
        """Standard normal values, fixed by seed, step, method and name."""

    def fisher(self, space: Literal["weights", "adapter"], rows: int | None = None) -> dict[str, Tensor]:
        """The diagonal Fisher of θ_safe on memory rows; to be called in `start`."""


class Run(Protocol):
    """What a method sees of one fine-tuning run (training/run.py)."""

    seed: int
    adapter_mode: Literal["merge", "stack", "continue", "full"]
    """How θ_safe and what is trained lie in one model (models/adapters.py)."""

    @property
    def memory(self) -> MemoryRows:
        """The safety rows kept for replay."""

    @property
    def user(self) -> UserBatches:
        """The user's rows, and the micro-batches of this step."""

    @property
    def weights(self) -> TrainedWeights:
        """The model under training, and θ_safe."""

    @property
    def once(self) -> Callable[[str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]]:
        """`once(name, build)`: tensors that θ_safe determines, built before the first step, read back on resume."""

    @property
    def step(self) -> int:
        """Optimizer steps done."""

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""

    @property
    def logs_this_step(self) -> bool:
        """Whether this step has a line of the log."""

    @property
    def gradient_norms(self) -> tuple[float, float] | None:
        """‖the gradient of the user's loss‖ and ‖that of this method's term‖ in this step, before clipping.

        For `after_step`, where the method's `reads_gradient_norms` asked for them. None where there are none.
        """

    def log(self, **values: float | Tensor) -> None:
        """Means of these until the next log line, under `method/<name>`."""

    def note(self, text: str) -> None:
        """A fact that the results should carry."""

    @property
    def replies(self) -> AskedReplies:
        """θ_safe's own replies, made before the run; for `data`. Raises RecipeError where none can be made."""

    def list_rows(self, name: str, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> str:
        """Writes user rows that a person should look at into <name>.jsonl of the run folder.

        rows: (place in `user.rows`, facts of the row). Returns the first of them in words, and the file's name.
        """
