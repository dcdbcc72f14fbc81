"""Constrained SFT's token weights by hand, and its gradient against that of the loss which the paper prints."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from tests.methods.plainly import tokens
from tests.methods.step import Caught, Rows, cross_entropy, one_step, response
from unforgotten import testing
from unforgotten.errors import RecipeError
from unforgotten.methods.base import ranks_in_turn
from unforgotten.methods.constrained_sft import ConstrainedSFT, token_weights
from unforgotten.registry import build

USER = testing.ragged_rows(4, 3)


def test_token_weights_by_hand() -> None:
    # σ(0) = 1/2; σ(ln 3) = 3/4 at β 1 and at β 2 with half the gap; σ(−ln 3) = 1/4; σ(20) ≈ 1: held at 1e-3.
    gap = torch.tensor([0.0, math.log(3), math.log(3) / 2, -math.log(3), 20.0, 20.0], dtype=torch.float64)
    beta = torch.tensor([1.0, 1.0, 2.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    actual = token_weights(gap - 5.0, torch.full_like(gap, -5.0), beta)
    assert actual.tolist() == pytest.approx([1.0, 0.5, 0.5, 1.5, 1e-3, 1.0], abs=1e-12)


def test_the_clamp_acts_below_1e_3_and_not_above() -> None:
    # w = 2 / (1 + e^gap): 1/999 at e^gap = 1997, 1/1001 at e^gap = 2001.
    gap = torch.tensor([1997.0, 2001.0], dtype=torch.float64).log()
    actual = token_weights(gap, torch.zeros_like(gap), torch.ones_like(gap)).tolist()
    assert actual == pytest.approx([1 / 999, 1e-3], abs=1e-15)


def test_ranks_in_turn_by_hand() -> None:
    f, t = False, True
    counts = torch.tensor([[f, t, t, f, f, t, t, t], [t, t, f, t, f, f, f, f], [f, f, f, f, f, f, f, t], [f] * 8])
    assert ranks_in_turn(counts).tolist() == [0, 1, 0, 1, 2, 0, 1, 0, 0]


def test_betas_by_hand() -> None:
    actual = ConstrainedSFT(beta=0.1)._betas(torch.arange(7))
    assert actual.tolist() == pytest.approx([0.5, 2.0, 2.0, 2.0, 2.0, 0.1, 0.1])
    only_first = ConstrainedSFT(beta=1.0, first_factor=3.0, early_factor=9.0, early_tokens=1)._betas(torch.arange(3))
    assert only_first.tolist() == [3.0, 1.0, 1.0]


def log_ratios(caught: Caught, row: dict[str, Any]) -> torch.Tensor:
    """log π_θ/π_safe of each response token of one row, (n,)."""
    ids, at = torch.tensor([row["input_ids"]]), response(row)
    said = ids[0, [t + 1 for t in at]][:, None]
    logp, aligned = (torch.log_softmax(m(input_ids=ids).logits[0, at], -1) for m in (caught.at, caught.aligned))
    return (logp.gather(1, said) - aligned.gather(1, said))[:, 0]


def places_in_turn(row: dict[str, Any]) -> list[int]:
    """For each response token, how many of its turn came before it."""
    actual, before = [], 0
    for label in row["labels"]:
        if label != -100:
            actual.append(before)
        before = before + 1 if label != -100 else 0
    return actual


def paper_loss(caught: Caught, rows: Rows, beta: float) -> torch.Tensor:
    """−Σ_t (2/β_t) log σ(β_t log π_θ/π_safe) over the tokens' number; β is 5 β at first, 20 β on the next four."""
    total = torch.zeros((), dtype=torch.float64)
    for row in rows:
        betas = [beta * (5 if k == 0 else 20 if k < 5 else 1) for k in places_in_turn(row)]
        for b, ratio in zip(betas, log_ratios(caught, row), strict=True):
            total = total - 2 / b * logsigmoid(b * ratio)
    return total / sum(map(tokens, rows))


@pytest.mark.parametrize("adapter_mode", ["full", "merge", "continue"])
def test_the_step_goes_down_the_papers_loss(adapter_mode: Any, tmp_path: Path) -> None:
    method = {"name": "constrained_sft", "beta": 0.2}
    caught = one_step(method, tmp_path, user=USER, safety=[], adapter_mode=adapter_mode, move=0.05)
    gaps = torch.cat([log_ratios(caught, row) for row in USER]).abs()
    assert gaps.max() > 0.05  # the weights differ from 1
    assert gaps.max() * 0.2 * 20 < math.log(1999)  # and nowhere does the clamp act
    caught.check(paper_loss(caught, USER, 0.2))


def test_before_anything_has_moved_it_is_cross_entropy(tmp_path: Path) -> None:
    caught = one_step("constrained_sft", tmp_path, user=USER, safety=[], move=0.0)
    caught.check(cross_entropy(caught.at, USER))


def test_rows_that_come_without_stored_likelihoods_weigh_1(tmp_path: Path) -> None:
    """Lisa's safety step trains on memory rows, as plain SFT would."""
    lisa = {"name": "lisa", "mode": "reference", "safety_steps": 1, "user_steps": 1, "pull": 0.0}
    safety = testing.ragged_rows(4, 2)
    caught = one_step([lisa, "constrained_sft"], tmp_path, user=USER, safety=safety, move=0.05)
    caught.check(cross_entropy(caught.at, safety))


def test_a_beta_of_0_asks_nothing_of_the_run() -> None:
    run: Any = None
    method = ConstrainedSFT(beta=0.0)
    method.start(run)
    assert method.loss(run, {}, None) is None


@pytest.mark.parametrize("wrong", [{"beta": -0.1}, {"early_tokens": 0}])
def test_a_setting_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        build("methods", {"name": "constrained_sft", **wrong})


@pytest.mark.parametrize("field", ["beta", "first_factor", "early_factor"])
def test_a_beta_whose_product_is_infinite_is_refused(field: str) -> None:
    """∞ · 0 is no weight: at the first step log π − log π_safe is 0."""
    with pytest.raises(RecipeError, match=f"{field}: Input should be less than or equal to 1000000"):
        build("methods", {"name": "constrained_sft", field: 1e38})
