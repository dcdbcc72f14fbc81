"""EWC: its Fisher against one backward a row, its penalty against autograd, its minimum in closed form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainingArguments

from tests.methods.plainly import row_nll
from unforgotten import testing
from unforgotten.methods.ewc import EWC, equivalents, factor_gradients, penalty_gradient
from unforgotten.models.adapters import AdapterMode
from unforgotten.training.replay_memory import Memory
from unforgotten.training.trainer import MethodTrainer


def test_descent_ends_at_the_closed_form_minimum() -> None:
    """½ a (θ − t)² + ½ λ F (θ − s)² is least at (a t + λ F s) / (a + λ F), by hand: a 2, t 3, λ 4, F .5, s 1 -> 2."""
    theta = torch.tensor([0.0], dtype=torch.float64)
    for _ in range(200):
        theta -= 0.1 * (2 * (theta - 3) + penalty_gradient(torch.tensor([0.5]), theta - 1, 4.0))
    assert theta.item() == pytest.approx(2.0, abs=1e-12)


def test_the_gradient_through_the_factors_is_that_of_the_dense_penalty() -> None:
    torch.manual_seed(0)
    a, b = (torch.randn(*s, dtype=torch.float64, requires_grad=True) for s in ((2, 5), (4, 2)))
    f, s, weight = torch.rand(4, 5, dtype=torch.float64), 0.5, 3.0
    gap = s * b @ a
    expected = torch.autograd.grad((weight / 2 * f * gap**2).sum(), (a, b))
    dense = penalty_gradient(f, gap.detach(), weight)
    for item, wanted in zip(factor_gradients(dense, a.detach(), b.detach(), s), expected, strict=True):
        torch.testing.assert_close(item, wanted)


def start(
    adapter_mode: AdapterMode, folder: Path, space: str, rows: list[dict[str, Any]], **more: Any
) -> tuple[Any, Any]:
    """A trainer whose method has taken its `start`, after one step at a learning rate of 0."""
    model = testing.tiny_model(adapter_mode, dtype=torch.float64)
    method = EWC(weight=1.0, space=space, **more)  # type: ignore[arg-type]
    args = TrainingArguments(
        str(folder), per_device_train_batch_size=3, max_steps=1, learning_rate=0.0, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    trainer = MethodTrainer(
        model=model, args=args, train_dataset=testing.ragged_rows(4, 1), safety_dataset=rows,
        memory=Memory(n_rows=len(rows)), method=method,
    )  # fmt: skip
    trainer.train()
    return trainer, method


def exhaustive(model: Any, rows: list[dict[str, Any]], params: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The mean over rows of the squared gradient of each row's log-likelihood, one backward a row."""
    model.eval()
    total = {n: torch.zeros_like(p) for n, p in params.items()}
    for row in rows:
        message = torch.autograd.grad(row_nll(model, row), list(params.values()), allow_unused=True)
        for n, g in zip(params, message, strict=True):
            if g is not None:
                total[n] += g**2 / len(rows)
    return total


@pytest.mark.parametrize("adapter_mode", testing.ADAPTER_MODES)
def test_the_fisher_of_what_is_trained_is_the_exhaustive_one(adapter_mode: AdapterMode, tmp_path: Path) -> None:
    rows = testing.ragged_rows(5, 2)
    trainer, method = start(adapter_mode, tmp_path, "adapter", rows)
    expected = exhaustive(trainer.model, trainer.run.memory.rows, trainer.run.weights.params())
    assert set(method._fisher) == set(expected)
    for name, fisher in method._fisher.items():
        torch.testing.assert_close(fisher, expected[name], rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("adapter_mode", ["merge", "stack", "continue"])
def test_the_fisher_of_dense_weights_is_the_exhaustive_one(adapter_mode: AdapterMode, tmp_path: Path) -> None:
    rows = testing.ragged_rows(5, 2)
    trainer, method = start(adapter_mode, tmp_path, "weights", rows)
    dense = {}
    for name, delta in trainer.run.weights.deltas().items():
        weight = delta.layer.base_layer.weight
        weight.requires_grad_(True)
        dense[name] = weight
    expected = exhaustive(trainer.model, trainer.run.memory.rows, dense)
    assert set(method._fisher) == set(expected) and len(expected) == 6
    for name, fisher in method._fisher.items():
        assert fisher.any()
        torch.testing.assert_close(fisher, expected[name], rtol=1e-9, atol=1e-15)


def test_a_fresh_adapter_leaves_a_without_fisher_and_the_dense_space_does_not(tmp_path: Path) -> None:
    _, adapter = start("merge", tmp_path / "a", "adapter", testing.ragged_rows(4, 2))
    for name, fisher in adapter._fisher.items():
        assert bool(fisher.any()) == ("lora_B" in name)


def test_squaring_a_batch_mean_would_underestimate_it(tmp_path: Path) -> None:
    rows = testing.ragged_rows(6, 2)
    trainer, method = start("full", tmp_path, "weights", rows)
    params = trainer.run.weights.params()
    total = sum(row_nll(trainer.model, r) for r in rows)
    mean = torch.autograd.grad(total / len(rows), list(params.values()))
    assert sum(float((g**2).sum()) for g in mean) < 0.5 * sum(float(f.sum()) for f in method._fisher.values())


def test_a_fisher_over_fewer_rows(tmp_path: Path) -> None:
    rows = testing.ragged_rows(5, 2)
    trainer, method = start("full", tmp_path, "weights", rows, fisher_rows=2)
    expected = exhaustive(trainer.model, trainer.run.memory.rows[:2], trainer.run.weights.params())
    for name, fisher in method._fisher.items():
        torch.testing.assert_close(fisher, expected[name], rtol=1e-9, atol=1e-15)


def test_a_fisher_over_no_row_is_refused() -> None:
    from unforgotten.errors import RecipeError
    from unforgotten.registry import build

    with pytest.raises(RecipeError, match="fisher_rows"):
        build("methods", {"name": "ewc", "fisher_rows": 0})


def test_other_conventions_by_hand() -> None:
    # λ 8, 100 rows in batches of 5, 10 tokens a row: 8; 4; 4·5; 4·25/100; 8·100.
    assert list(equivalents(8.0, 100, 5, 10.0).values()) == [8.0, 4.0, 20.0, 1.0, 800.0]


@pytest.mark.parametrize("adapter_mode", ["merge", "continue"])
def test_a_step_pulls_back_to_theta_safe(adapter_mode: AdapterMode, tmp_path: Path) -> None:
    """After the turn, p.grad holds autograd's own gradient of the dense penalty, for factors moved away from θ_safe."""
    trainer, method = start(adapter_mode, tmp_path, "weights", testing.ragged_rows(4, 2))
    generator = torch.Generator().manual_seed(1)
    pairs, first = {}, {}
    for name, d in trainer.run.weights.deltas().items():
        first[name] = d.dense()
        for p in (d.a, d.b):
            p.data += 0.1 * torch.randn(p.shape, generator=generator, dtype=torch.float64)
            p.grad = torch.zeros_like(p)
        pairs[name] = d
    loss = sum((0.5 * method._fisher[n] * (d.scale * d.b @ d.a - first[n]) ** 2).sum() for n, d in pairs.items())
    wanted = torch.autograd.grad(loss, [p for d in pairs.values() for p in (d.a, d.b)])
    method.gradients(trainer.run)
    for p, expected in zip([p for d in pairs.values() for p in (d.a, d.b)], wanted, strict=True):
        torch.testing.assert_close(p.grad, expected, rtol=1e-9, atol=1e-15)
