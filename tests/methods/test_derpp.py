"""DER++'s three terms in one real step against autograd of the loss written out, and its two draws of the memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.methods.step import Caught, Rows, cross_entropy, one_step, response
from unforgotten import testing
from unforgotten.errors import RecipeError
from unforgotten.methods.derpp import DERpp
from unforgotten.registry import build
from unforgotten.training.run_weights import RunWeights

USER, SAFETY = testing.ragged_rows(4, 1), testing.ragged_rows(6, 2)


def drawn(caught: Caught, n: int, draw: str = "", who: str = "derpp") -> Rows:
    """The memory rows that the method draws in the step."""
    run = caught.trainer.run
    caught.trainer.state.global_step = 0
    with run.turn(who, "loss"):
        return [run.memory.rows[i] for i in run.memory.places(n, draw)]


def mean_squared_difference(caught: Caught, rows: Rows) -> torch.Tensor:
    """The mean over response tokens and vocabulary of (z − z′)², from whole logits of both models."""
    gaps = []
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        gap = caught.at(input_ids=ids).logits - caught.aligned(input_ids=ids).logits
        gaps.append(gap[0, response(row)])
    return torch.cat(gaps).square().mean()


@pytest.mark.parametrize("adapter_mode", ["full", "merge", "stack"])
@pytest.mark.parametrize("draws", ["independent", "shared"])
def test_a_step_goes_down_three_terms(draws: str, adapter_mode: Any, tmp_path: Path) -> None:
    method = {"name": "derpp", "weight": 3.0, "beta": 0.7, "replay": 0.5, "draws": draws}
    caught = one_step(method, tmp_path, user=USER, safety=SAFETY, adapter_mode=adapter_mode)
    first = drawn(caught, 2)
    second = drawn(caught, 2, "cross-entropy") if draws == "independent" else first
    caught.check(
        cross_entropy(caught.at, USER)
        + 3.0 * mean_squared_difference(caught, first)
        + 0.7 * cross_entropy(caught.at, second),
        # Two gradients that go back together are rounded together by the fp32 within Llama's RMSNorm.
        within=1e-9 if draws == "independent" else 2e-7,
    )


def test_independent_draws_take_other_rows_than_shared_ones(tmp_path: Path) -> None:
    grads = {}
    for draws in ("independent", "shared"):
        method = {"name": "derpp", "weight": 1.0, "beta": 1.0, "replay": 0.5, "draws": draws}
        caught = one_step(method, tmp_path / draws, user=USER, safety=SAFETY)
        grads[draws] = caught.grads
    ids = [[row["row_id"] for row in drawn(caught, 2, draw)] for draw in ("", "cross-entropy")]
    assert sorted(ids[0]) != sorted(ids[1])
    assert testing.distance(grads["independent"], grads["shared"]) > 1e-4


@pytest.mark.parametrize(("draws", "forwards"), [("independent", 2), ("shared", 1)])
def test_shared_rows_are_read_once(draws: str, forwards: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = RunWeights.states
    monkeypatch.setattr(
        RunWeights, "states", lambda weights, rows: seen.append(len(rows.row_ids)) or real(weights, rows)
    )
    one_step({"name": "derpp", "replay": 0.5, "draws": draws}, tmp_path, user=USER, safety=SAFETY)
    assert seen == [1] * forwards * 2  # two micro-batches with a row of memory each


def test_without_beta_it_is_der(tmp_path: Path) -> None:
    """With the whole memory in each step both draw the same rows."""
    more = {"weight": 2.0, "replay": 1.5}
    plus = one_step({"name": "derpp", "beta": 0.0, **more}, tmp_path / "plus", user=USER, safety=SAFETY)
    der = one_step({"name": "der", **more}, tmp_path / "der", user=USER, safety=SAFETY)
    assert testing.distance(plus.grads, der.grads) < 1e-12


def test_without_weight_the_cross_entropy_of_the_memory_is_left(tmp_path: Path) -> None:
    method = {"name": "derpp", "weight": 0.0, "beta": 0.5, "replay": 0.5}
    caught = one_step(method, tmp_path, user=USER, safety=SAFETY)
    caught.check(cross_entropy(caught.at, USER) + 0.5 * cross_entropy(caught.at, drawn(caught, 2, "cross-entropy")))


def test_with_neither_there_is_no_term_and_no_forward(tmp_path: Path) -> None:
    run: Any = None  # nothing of it is asked for
    assert DERpp(weight=0.0, beta=0.0).loss(run, {}, None) is None
    caught = one_step({"name": "derpp", "weight": 0.0, "beta": 0.0}, tmp_path, user=USER, safety=SAFETY)
    caught.check(cross_entropy(caught.at, USER))


@pytest.mark.parametrize("wrong", [{"beta": -0.5}, {"draws": "both"}])
def test_a_setting_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        build("methods", {"name": "derpp", **wrong})
