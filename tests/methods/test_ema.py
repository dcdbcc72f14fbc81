"""EMA by hand, and as the average of the weights that a real run went through."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from unforgotten import testing
from unforgotten.methods.ema import averaged
from unforgotten.training.trainer import MethodTrainer


def test_one_step_by_hand() -> None:
    assert averaged(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 8.0]), 0.75).tolist() == [1.5, 2.0]


def test_what_is_served_is_the_weighted_sum_of_every_step(tmp_path: Path) -> None:
    """θ̄_n = mⁿ θ₀ + Σ_k (1 − m) m^(n−k) θ_k, with θ_k caught after each optimizer step of the run."""
    m, caught = 0.7, list[dict[str, torch.Tensor]]()

    class Catch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            caught.append({n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad})

    model = testing.tiny_model("merge", dtype=torch.float64)
    first = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=4, max_steps=5, learning_rate=0.05, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    trainer = MethodTrainer(
        model=model, args=args, train_dataset=testing.ragged_rows(20, 1), method={"name": "ema", "decay": m},
        callbacks=[Catch()],
    )  # fmt: skip
    trainer.train()
    for name, served in trainer.run.weights.params().items():
        expected = m**5 * first[name] + sum((1 - m) * m ** (4 - k) * caught[k][name] for k in range(5))
        torch.testing.assert_close(served.detach(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("decay", [1.0, -0.1])
def test_decay_lies_below_one(decay: float) -> None:
    from unforgotten.errors import RecipeError
    from unforgotten.registry import build

    with pytest.raises(RecipeError, match="decay"):
        build("methods", {"name": "ema", "decay": decay})
