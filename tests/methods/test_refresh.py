"""Refresh's moves by hand, the size of its noise, and one real step of unlearning and relearning written out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.methods.plainly import row_nll
from tests.methods.step import Caught, close, cross_entropy, one_step
from unforgotten import testing
from unforgotten.errors import RecipeError
from unforgotten.methods.refresh import Refresh, unlearn_paper, unlearn_reference
from unforgotten.registry import build

USER, SAFETY = testing.ragged_rows(4, 1), testing.ragged_rows(5, 2)
Tensors = dict[str, torch.Tensor]


def test_the_papers_move_by_hand() -> None:
    # γ 1/2, d 1. F 3: ¼·½·2 + 2·√(2·½·¼)·1.5 = ¼ + 1.5. F 0: 1·½·(−4) + 2·√(2·½·1)·1 = −2 + 2.
    g, f, noise = torch.tensor([2.0, -4.0]), torch.tensor([3.0, 0.0]), torch.tensor([1.5, 1.0])
    assert unlearn_paper(g, f, noise, rate=0.5, damping=1.0, temperature=2.0).tolist() == [1.75, 0.0]
    assert unlearn_paper(g, f, noise, rate=0.5, damping=1.0, temperature=0.0).tolist() == [0.25, -2.0]


def test_the_codes_move_by_hand() -> None:
    # ‖θ‖ 5, ‖g‖ 2: g becomes (0, 5). Noise (1, −2) after its 0.001. Divided by 1 + 0.001 F = (1, 2), times δ 0.1.
    weights, g = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    actual = unlearn_reference(weights, g, torch.tensor([0.0, 1000.0]), torch.tensor([1000.0, -2000.0]), rate=0.1)
    assert actual.tolist() == pytest.approx([0.1, 0.15])


def test_the_codes_move_of_a_tensor_without_gradient_is_its_noise() -> None:
    zero, noise = torch.zeros(3), torch.tensor([1.0, 2.0, 3.0])
    assert unlearn_reference(torch.ones(3), zero, zero, noise, 1.0).tolist() == pytest.approx([1e-3, 2e-3, 3e-3])
    assert unlearn_reference(zero, torch.ones(3), zero, noise, 1.0).tolist() == pytest.approx([1e-3, 2e-3, 3e-3])


def noise(caught: Caught, name: str, like: torch.Tensor, step: int = 0) -> torch.Tensor:
    """The standard normal values that the turn draws for a tensor in a step."""
    run = caught.trainer.run
    caught.trainer.state.global_step = step
    with run.turn("refresh", "before_step"):
        return run.weights.noise(name, like)


@pytest.fixture(scope="module")
def some_run(tmp_path_factory: pytest.TempPathFactory) -> Caught:
    return one_step({"name": "refresh", "rate": 0.0}, tmp_path_factory.mktemp("run"), user=USER, safety=SAFETY)


@pytest.mark.parametrize(("fisher", "damping", "rate"), [(0.0, 0.01, 1e-5), (3.0, 0.5, 0.2)])
def test_the_noise_has_variance_2_gamma_over_damped_fisher(
    fisher: float, damping: float, rate: float, some_run: Caught
) -> None:
    n = 400_000  # the relative standard error of a variance is √(2/n) = 0.22 %
    like = torch.zeros(n, dtype=torch.float64)
    move = unlearn_paper(like, torch.full_like(like, fisher), noise(some_run, "x", like), rate, damping, 1.0)
    expected = 2 * rate / (fisher + damping)
    assert move.var().item() == pytest.approx(expected, rel=0.012)
    assert abs(move.mean().item()) < 5 * (expected / n) ** 0.5
    assert (move.abs() < expected**0.5).double().mean().item() == pytest.approx(0.6827, abs=0.005)  # it is normal


def test_noise_is_a_function_of_seed_step_and_name(some_run: Caught) -> None:
    like = torch.zeros(1000, dtype=torch.float64)
    first = noise(some_run, "x", like)
    assert torch.equal(first, noise(some_run, "x", like))
    for other in (noise(some_run, "x", like, step=1), noise(some_run, "y", like)):
        assert abs(float(torch.corrcoef(torch.stack([first, other]))[0, 1])) < 0.15
    some_run.trainer.run.seed += 1
    assert not torch.equal(first, noise(some_run, "x", like))
    some_run.trainer.run.seed -= 1


def fisher_of(caught: Caught) -> Tensors:
    """The mean over memory rows of the squared gradient of each one's likelihood under θ_safe."""
    params = {n: p for n, p in caught.aligned.named_parameters() if n in caught.weights}
    total = {n: torch.zeros_like(p) for n, p in params.items()}
    for p in params.values():
        p.requires_grad_(True)
    for row in SAFETY:
        for n, g in zip(params, torch.autograd.grad(row_nll(caught.aligned, row), list(params.values())), strict=True):
            total[n] += g**2 / len(SAFETY)
    return total


def uphill(caught: Caught) -> Tensors:
    """The gradient of the user's cross-entropy over the whole step, at the weights from before it."""
    now = dict(caught.at.named_parameters())
    with torch.no_grad():
        for name, p in caught.before.items():
            now[name].copy_(p)
    actual = caught.autograd(cross_entropy(caught.at, USER))
    with torch.no_grad():
        for name, p in caught.weights.items():
            now[name].copy_(p)
    return actual


@pytest.mark.parametrize("adapter_mode", ["full", "merge"])
def test_a_step_first_moves_the_weights_by_the_papers_rule(adapter_mode: Any, tmp_path: Path) -> None:
    gamma, d, t = 0.01, 0.5, 0.1
    method = {"name": "refresh", "rate": gamma, "damping": d, "temperature": t}
    caught = one_step(method, tmp_path, user=USER, safety=SAFETY, adapter_mode=adapter_mode)
    fisher, g = fisher_of(caught), uphill(caught)
    moved = {n: caught.weights[n] - p for n, p in caught.before.items()}
    close(
        moved,
        {
            n: gamma * g[n] / (fisher[n] + d) + t * (2 * gamma / (fisher[n] + d)) ** 0.5 * noise(caught, n, p)
            for n, p in caught.before.items()
        },
    )


def test_a_step_first_moves_the_weights_by_the_codes_rule(tmp_path: Path) -> None:
    method = {"name": "refresh", "mode": "reference", "rate": 0.1}
    caught = one_step(method, tmp_path, user=USER, safety=SAFETY)
    fisher, g = fisher_of(caught), uphill(caught)
    expected = {}
    for name, p in caught.before.items():
        length = p.square().sum().sqrt() / g[name].square().sum().sqrt()
        expected[name] = 0.1 * (length * g[name] + 0.001 * noise(caught, name, p)) / (1 + 0.001 * fisher[name])
    close({n: caught.weights[n] - p for n, p in caught.before.items()}, expected)


def test_the_codes_rule_leaves_a_fresh_adapter_to_the_noise(tmp_path: Path) -> None:
    """B is 0, so it has no length; and A has no gradient through it."""
    method = {"name": "refresh", "mode": "reference", "rate": 0.1}
    caught = one_step(method, tmp_path, user=USER, safety=SAFETY, adapter_mode="merge", move=0.0)
    fisher, g = fisher_of(caught), uphill(caught)
    assert all(bool(g[n].any()) == ("lora_B" in n) for n in g)
    close(
        {n: caught.weights[n] - p for n, p in caught.before.items()},
        {n: 0.1 * 0.001 * noise(caught, n, p) / (1 + 0.001 * fisher[n]) for n, p in caught.before.items()},
    )


@pytest.mark.parametrize("mode", ["paper", "reference"])
def test_the_step_then_relearns_user_and_memory_rows_where_it_stands(mode: str, tmp_path: Path) -> None:
    method = {"name": "refresh", "mode": mode, "rate": 0.01, "replay": 1.25, "weight": 0.6}
    caught = one_step(method, tmp_path, user=USER, safety=SAFETY)
    assert testing.distance(caught.before, caught.weights) > 0
    caught.check(cross_entropy(caught.at, USER) + 0.6 * cross_entropy(caught.at, SAFETY))


def test_at_rate_0_without_replay_nothing_is_asked_of_the_run() -> None:
    run: Any = None
    method = Refresh(rate=0.0, replay=0.0)
    method.start(run)
    assert method.before_step(run, []) == []
    assert method.loss(run, {}, None) is None


@pytest.mark.parametrize("wrong", [{"damping": 0}, {"rate": -1e-5}, {"mode": "code"}])
def test_a_setting_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        build("methods", {"name": "refresh", **wrong})
