"""One step of a real run caught between its turns, in float64, so that its gradient can be written out beside it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainingArguments

from tests.methods.plainly import row_nll, tokens
from unforgotten import testing
from unforgotten.models.adapters import AdapterMode
from unforgotten.training.replay_memory import Memory
from unforgotten.training.trainer import MethodTrainer

Rows = list[dict[str, Any]]


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    """SGD at a constant rate, two micro-batches of two rows a step, no clipping."""
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 0.05,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "optim": "sgd",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        **more,
    }
    return TrainingArguments(str(folder), **settings)


def exact(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """Cross-entropy over the step's tokens in the logits' own precision; transformers' is in float32."""
    logits = outputs["logits"][:, :-1]
    total = torch.nn.functional.cross_entropy(
        logits.reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), reduction="sum"
    )
    return total / num_items_in_batch


class Caught(TrainerCallback):
    """What a one-step run was like: θ_safe, the weights before and at the step, and the gradients it ended with."""

    def __init__(self, move: float) -> None:
        self.move = move
        self.trainer: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.aligned = copy.deepcopy(self.trainer.model).eval().requires_grad_(False)

    @torch.no_grad()
    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After `start` has read θ_safe: the model moves away from it, as training would do."""
        generator = torch.Generator().manual_seed(11)
        for p in self.trainer.run.weights.params().values():
            p += self.move * torch.randn(p.shape, generator=generator, dtype=p.dtype)
        self.before = self.trainer.run.weights.snapshot()

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.at = copy.deepcopy(self.trainer.model).eval()
        self.weights = self.trainer.run.weights.snapshot()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.grads = {n: p.grad.clone() for n, p in self.trainer.run.weights.params().items()}

    def autograd(self, loss: Tensor) -> dict[str, Tensor]:
        """The gradient of a loss that was made with `self.at`."""
        params = {n: p for n, p in self.at.named_parameters() if p.requires_grad}
        message = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        return {n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(params.items(), message, strict=True)}

    def check(self, loss: Tensor, within: float = 1e-9) -> None:
        """The step's gradient is that of `loss`."""
        close(self.grads, self.autograd(loss), within)


def close(actual: dict[str, Tensor], expected: dict[str, Tensor], within: float = 1e-9) -> None:
    """The same names and numbers, to `within` of each tensor's largest; and not all of them zero."""
    assert set(actual) == set(expected)
    assert any(bool(t.any()) for t in expected.values())
    for name, wanted in expected.items():
        apart, largest = float((actual[name] - wanted).abs().max()), float(wanted.abs().max())
        assert apart <= within * largest + 1e-18, f"{name}: {apart:.1e} apart, largest {largest:.1e}"


def one_step(
    method: Any,
    folder: Path,
    *,
    user: Rows,
    safety: Rows,
    adapter_mode: AdapterMode = "full",
    move: float = 0.02,
    **more: Any,
) -> Caught:
    """Trains one step of a tiny model moved away from θ_safe by `move`, with the whole safety data as its memory."""
    caught = Caught(move)
    caught.trainer = MethodTrainer(
        model=testing.tiny_model(adapter_mode, dtype=torch.float64),
        args=arguments(folder, **{"max_steps": 1, **more}),
        train_dataset=user,
        safety_dataset=safety,
        memory=Memory(n_rows=len(safety) or None),
        method=method,
        callbacks=[caught],
        compute_loss_func=exact,
    )
    caught.trainer.train()
    return caught


def cross_entropy(model: Any, rows: Rows) -> Tensor:
    """The mean over the response tokens of these rows of −log p, one row after the other."""
    return sum(row_nll(model, row) for row in rows) / sum(map(tokens, rows))


def states_at(model: Any, row: dict[str, Any], positions: list[int]) -> Tensor:
    """The last hidden states of one row at these positions, (n, d), from a forward of that row alone."""
    out = model(input_ids=torch.tensor([row["input_ids"]]), output_hidden_states=True)
    return out.hidden_states[-1][0, positions]


def response(row: dict[str, Any]) -> list[int]:
    """The positions whose next token is in the loss."""
    return [t - 1 for t, label in enumerate(row["labels"]) if t and label != -100]
