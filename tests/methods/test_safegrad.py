"""SafeGrad's rule by hand, and the gradient of a real step against autograd of both losses in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.methods.step import Caught, close, cross_entropy, one_step, response
from unforgotten import testing
from unforgotten.errors import RecipeError
from unforgotten.methods.safegrad import SafeGrad, conflict
from unforgotten.registry import build

USER, SAFETY = testing.ragged_rows(4, 1), testing.ragged_rows(6, 2)
EPS = 2.0**-52
NORMS = 1e-6
"""Llama's norms round to float32, also in the backward, which what is written out goes through twice."""


def against(user: list[float], safe: list[float]) -> float:
    g, a = torch.tensor(user).double(), torch.tensor(safe).double()
    return conflict(g @ a, a @ a, g @ g, EPS).item()


def test_conflict_by_hand() -> None:
    # (1, −2)·(0, 4) = −8 over 16: half of g_a takes the conflict out, (1, −2) + ½ (0, 4) = (1, 0).
    assert against([1.0, -2.0], [0.0, 4.0]) == 0.5
    assert against([1.0, 2.0], [3.0, 1.0]) == 0.0
    assert against([1.0, -2.0], [0.0, 0.0]) == 0.0
    assert against([0.0, 0.0], [0.0, 4.0]) == 0.0


def test_what_rounding_leaves_of_a_gradient_is_no_conflict() -> None:
    assert against([1.0, -2.0], [0.0, 1e-15]) == 0.0
    assert against([1.0, -2.0], [0.0, 1e-10]) == pytest.approx(2e10)


def drawn(caught: Caught, n: int) -> list[dict[str, Any]]:
    run = caught.trainer.run
    caught.trainer.state.global_step = 0
    with run.turn("safegrad", "gradients"):
        return [run.memory.rows[i] for i in run.memory.places(n)]


def written_out(caught: Caught, replay: float) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """g_u and g_a, from whole logits of both models."""
    terms = []
    for row in drawn(caught, round(4 * replay)):
        ids = torch.tensor([row["input_ids"]])
        live, aligned = (m(input_ids=ids).logits[0, response(row)].log_softmax(-1) for m in (caught.at, caught.aligned))
        terms.append((aligned.exp() * (aligned - live)).sum(-1))
    return caught.autograd(cross_entropy(caught.at, USER)), caught.autograd(torch.cat(terms).mean())


@pytest.mark.parametrize("adapter_mode", ["full", "merge"])
@pytest.mark.parametrize(("rho", "project"), [(1.0, True), (0.0, True), (0.3, False)])
def test_a_step_has_the_sum_of_both_gradients(rho: float, project: bool, adapter_mode: Any, tmp_path: Path) -> None:
    # A second run starts on the far side of θ_safe, so that one of the two is in conflict.
    conflicts = []
    for move in (0.02, -0.02):
        method = {"name": "safegrad", "rho": rho, "project": project, "replay": 0.5, "chunk_tokens": 7}
        caught = one_step(method, tmp_path, user=USER, safety=SAFETY, adapter_mode=adapter_mode, move=move)
        user, safe = written_out(caught, 0.5)
        dot = sum(float((user[n] * safe[n]).sum()) for n in user)
        norm = sum(float(safe[n].square().sum()) for n in user)
        share = -min(0.0, dot / norm) if project else 0.0
        conflicts.append(dot < 0)
        close(caught.grads, {n: user[n] + (share + rho) * safe[n] for n in user}, NORMS)
    assert any(conflicts)


def test_at_the_aligned_model_nothing_is_projected(tmp_path: Path) -> None:
    """g_a is 0 there but for rounding, whose direction would take something out at random."""
    caught = one_step("safegrad", tmp_path, user=USER, safety=SAFETY, adapter_mode="merge", move=0.0)
    caught.check(cross_entropy(caught.at, USER), NORMS)


def test_without_either_part_it_asks_nothing_of_the_run() -> None:
    run: Any = None
    method = SafeGrad(rho=0.0, project=False)
    method.start(run)
    method.gradients(run)


@pytest.mark.parametrize("wrong", [{"rho": -1}, {"replay": 0}, {"project": "sometimes"}])
def test_a_setting_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        build("methods", {"name": "safegrad", **wrong})
