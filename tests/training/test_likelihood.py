"""Log-probabilities by hand, and against whole logits in float64 whatever the chunks."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.methods.plainly import row_nll, tokens
from tests.training.shapes import tiny
from unforgotten import testing
from unforgotten.training import likelihood
from unforgotten.training.collate import Collator, predicts
from unforgotten.training.head import Head
from unforgotten.training.likelihood import nll, targets, token_logp

X = -100


def test_targets_by_hand() -> None:
    # The first position predicts nothing, so a label there is no target; the order is row by row.
    labels = torch.tensor([[X, 4, 5, X, 6], [7, X, X, 8, X]])
    assert targets(labels).tolist() == [4, 5, 6, 8]
    assert predicts(labels).nonzero().tolist() == [[0, 0], [0, 1], [0, 3], [1, 2]]


def test_token_logp_by_hand() -> None:
    # Two words with logits (0, ln 3): probabilities ¼ and ¾. What stands at the last position predicts nothing.
    even, odd = [0.0, math.log(3)], [math.log(3), 0.0]
    logits = torch.tensor([[even, odd, [50.0, -50.0]]], dtype=torch.float64)
    actual = token_logp(logits, torch.tensor([[X, 1, 1]]))
    assert actual.exp().tolist() == pytest.approx([0.75, 0.25])


def test_token_logp_of_ragged_rows_is_that_of_each_row_alone() -> None:
    model, rows = tiny("llama", dtype=torch.float64).eval(), testing.ragged_rows(5, 3)
    batch = Collator(0)(rows)
    labels = batch.pop("labels")
    actual = token_logp(model(**batch).logits, labels).split([tokens(row) for row in rows])
    for logp, row in zip(actual, rows, strict=True):
        assert -logp.sum().item() == pytest.approx(row_nll(model, row).item(), rel=1e-10)


def test_narrow_logits_are_taken_in_float32() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 6, 50).bfloat16(), torch.randint(0, 50, (2, 6))
    actual = token_logp(logits, labels)
    assert actual.dtype == torch.float32
    exact = torch.log_softmax(logits.double(), -1)[:, :-1].gather(2, labels[:, 1:, None]).flatten()
    torch.testing.assert_close(actual.double(), exact, rtol=1e-6, atol=1e-6)


def head() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    h, w = (torch.randn(*size, dtype=torch.float64, requires_grad=True) for size in ((12, 8), (30, 8)))
    return h, w, torch.randint(0, 30, (12,))


@pytest.mark.parametrize("chunk", [1, 5, 12, 100])
def test_the_sum_and_its_gradients_do_not_depend_on_the_chunks(chunk: int) -> None:
    h, w, said = head()
    direct = -torch.log_softmax(h @ w.T, -1)[torch.arange(12), said].sum()
    actual = nll(h, said, lambda x: x @ w.T, chunk)
    assert actual.item() == pytest.approx(direct.item(), rel=1e-12)
    expected = torch.autograd.grad(direct, (h, w))
    for a, b in zip(torch.autograd.grad(actual, (h, w)), expected, strict=True):
        torch.testing.assert_close(a, b)


def test_no_more_logits_than_a_chunks_are_made_at_once() -> None:
    h, w, said = head()
    made: list[int] = []

    def logits(x: Tensor) -> Tensor:
        made.append(len(x))
        return x @ w.T

    nll(h, said, logits, 5).backward()
    assert made == [5, 5, 2, 2, 5, 5]  # forward; and again in the backward, from the last


def test_states_without_gradient_still_train_the_head() -> None:
    h, w, said = head()
    actual = nll(h.detach(), said, lambda x: x @ w.T, 5)
    direct = -torch.log_softmax(h.detach() @ w.T, -1)[torch.arange(12), said].sum()
    (a,), (b,) = torch.autograd.grad(actual, w), torch.autograd.grad(direct, w)
    torch.testing.assert_close(a, b)


def test_no_token_at_all_is_a_0_that_can_be_gone_back_through() -> None:
    """A rank that has no row of the step must still take part in its backward."""
    h = torch.zeros(0, 8, dtype=torch.float64, requires_grad=True)
    w = torch.ones(3, 8, dtype=torch.float64, requires_grad=True)
    none: Any = torch.zeros(0, dtype=torch.long)
    actual = nll(h, none, lambda x: x @ w.T)
    assert actual.item() == 0.0
    actual.backward()
    assert h.grad is not None and h.grad.shape == (0, 8)


def test_divergence_by_hand() -> None:
    # p′ = (1/2, 1/2), p = (3/4, 1/4): ½ log(2/3) + ½ log 2 = ½ log(4/3); p − p′ = (¼, −¼).
    aligned, live = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.75, 0.25]]).log()
    kl, slope = likelihood.divergence(aligned, live - aligned)
    assert kl.item() == pytest.approx(0.5 * math.log(4 / 3), rel=1e-6)
    torch.testing.assert_close(slope, torch.tensor([[0.25, -0.25]]))


# Near 0, eˣ − 1 − x is x²/2, and eˣ − 1 is rounded to 6e-8 of x: at x = 1e-4 that is 1.2e-3 of a term.
@pytest.mark.parametrize(("size", "rtol"), [(1e-4, 1e-2), (1e-2, 1e-3), (1.0, 1e-3), (30.0, 1e-3)])
def test_divergence_in_float32_over_a_large_vocabulary(size: float, rtol: float) -> None:
    """Against float64, for models that hardly differ and for models that have nothing in common."""
    generator = torch.Generator().manual_seed(3)
    aligned, noise = (torch.randn(4, 262_144, generator=generator, dtype=torch.float64) for _ in range(2))
    aligned, gap = (8 * aligned).float(), (size * noise).float()
    live, fixed = (aligned.double() + gap.double()).log_softmax(1), aligned.double().log_softmax(1)
    expected = (fixed.exp() * (fixed - live)).sum(1)
    slope = live.exp() - fixed.exp()
    kl, actual = likelihood.divergence(aligned.clone(), gap.clone())
    torch.testing.assert_close(kl.double(), expected, rtol=rtol, atol=0)
    assert bool((kl > 0).all())
    assert float((actual.double() - slope).norm() / slope.norm()) < 1e-3


def test_divergence_is_exactly_nothing_between_equals_and_finite_between_opposites() -> None:
    aligned = 20 * torch.randn(3, 1000, generator=torch.Generator().manual_seed(3))
    kl, slope = likelihood.divergence(aligned.clone(), torch.zeros_like(aligned))
    assert not kl.any() and not slope.any()
    one, other = torch.zeros(1, 50), torch.zeros(1, 50)
    one[0, 0], other[0, 1] = 200.0, 200.0  # e^200 is no float32, and neither is e^-200
    kl, slope = likelihood.divergence(one.clone(), other - one)
    assert kl.item() == pytest.approx(200.0)
    torch.testing.assert_close(slope[0, :3], torch.tensor([-1.0, 1.0, 0.0]))


@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_a_heads_kl_and_its_gradient_are_those_of_its_logits(chunk: int, cap: float | None) -> None:
    torch.manual_seed(2)
    module = torch.nn.Linear(8, 40, dtype=torch.float64).requires_grad_(False)
    head = Head(module, 1.5, cap, False, module.weight.detach(), module.bias.detach())
    h, stored = torch.randn(7, 8, dtype=torch.float64, requires_grad=True), torch.randn(7, 8, dtype=torch.float64)
    live, aligned = head.logits(h).log_softmax(1), head.aligned_logits(stored).log_softmax(1)
    expected = (aligned.exp() * (aligned - live)).sum(1)
    weights = torch.rand(7, dtype=torch.float64)
    [gradient] = torch.autograd.grad((weights * expected).sum(), h)
    for closed in (True, False):
        if not closed:
            head.trained = True
        kl = head.kl(h, stored, chunk)
        torch.testing.assert_close(kl, expected)
        torch.testing.assert_close(torch.autograd.grad((weights * kl).sum(), h)[0], gradient)
        [still] = torch.autograd.grad(head.kl(h, h.detach(), chunk).sum(), h)
        assert not still.any(), "at θ_safe it pulls nowhere"
