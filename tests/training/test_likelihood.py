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
from unforgotten.training.collate import Collator, predicts
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
