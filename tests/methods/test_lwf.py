"""LwF's positions by hand, its stored states against the teacher's own, its step against autograd of the whole loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from tests.methods.step import Caught, Rows, cross_entropy, one_step, response, states_at
from unforgotten import testing
from unforgotten.errors import RecipeError
from unforgotten.methods.base import Method, Run, squared_gap
from unforgotten.methods.lwf import LwF, Positions, chosen
from unforgotten.registry import build, determining

USER, SAFETY = testing.ragged_rows(4, 1), testing.ragged_rows(5, 2)
NORMS = 1e-6
"""Llama's norms round to float32, also in the backward, which what is written out goes through twice."""
X = -100

# One turn and two of padding; two turns; one token of prompt; a row whose loss is masked away.
LABELS = torch.tensor([[X, X, X, 5, 6, X, X], [X, 4, X, X, 5, 6, X], [X, 5, 6, 7, 8, 9, 3], [X, X, X, X, X, X, X]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 1, 0], [1] * 7, [1, 1, 1, 0, 0, 0, 0]])
BY_HAND: dict[Positions, list[list[int]]] = {
    "all": [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5, 6], [0, 1, 2]],
    "response": [[2, 3], [0, 3, 4], [0, 1, 2, 3, 4, 5], []],
    "last": [[2], [0, 3], [0], []],
    "prompt": [[0, 1, 2], [0], [0], []],
}


@pytest.mark.parametrize("positions", BY_HAND)
def test_positions_by_hand(positions: Positions) -> None:
    actual = chosen(LABELS, MASK, positions)
    assert actual.dtype == torch.bool
    assert [row.nonzero().flatten().tolist() for row in actual] == BY_HAND[positions]


def positions_of(row: dict[str, Any], positions: Positions) -> list[int]:
    """The same of one row without padding, from its list of predicting positions."""
    said = response(row)
    spans: dict[str, Callable[[], list[int]]] = {
        "all": lambda: list(range(len(row["input_ids"]))),
        "response": lambda: said,
        "last": lambda: [t for t in said if t - 1 not in said],
        "prompt": lambda: list(range(said[0] + 1)),
    }
    return spans[positions]()


def distance(caught: Caught, rows: Rows, positions: Positions) -> torch.Tensor:
    """E‖h − h′‖²: squares summed over d, averaged over positions, the teacher being a frozen copy of θ_safe."""
    gaps = []
    for row in rows:
        at = positions_of(row, positions)
        gaps.append(states_at(caught.at, row, at) - states_at(caught.aligned, row, at))
    return torch.cat(gaps).square().sum(1).mean()


@pytest.mark.parametrize("positions", BY_HAND)
@pytest.mark.parametrize("adapter_mode", ["full", "merge"])
def test_a_step_goes_down_cross_entropy_and_the_distance_of_states(
    positions: Positions, adapter_mode: Any, tmp_path: Path
) -> None:
    method = {"name": "lwf", "weight": 0.3, "positions": positions}
    caught = one_step(method, tmp_path, user=USER, safety=[], adapter_mode=adapter_mode)
    caught.check(cross_entropy(caught.at, USER) + 0.3 * distance(caught, USER, positions), NORMS)


@pytest.mark.parametrize("positions", BY_HAND)
@pytest.mark.parametrize("adapter_mode", testing.ADAPTER_MODES)
def test_stored_states_are_the_teachers(positions: Positions, adapter_mode: Any, tmp_path: Path) -> None:
    caught = one_step(
        {"name": "lwf", "positions": positions}, tmp_path, user=USER, safety=[], adapter_mode=adapter_mode
    )
    actual = caught.trainer.run.user.stored(f"lwf-{positions}", torch.tensor([3, 0, 1]))
    expected = torch.cat([states_at(caught.aligned, USER[i], positions_of(USER[i], positions)) for i in (3, 0, 1)])
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def relative(caught: Caught, rows: Rows, positions: Positions, shares: list[float]) -> torch.Tensor:
    """E[share · ‖h − h′‖² / ‖h′‖²] over all positions, a row's share being the same at each of its own."""
    terms = []
    for row, share in zip(rows, shares, strict=True):
        at = positions_of(row, positions)
        aligned = states_at(caught.aligned, row, at)
        terms.append(share * (states_at(caught.at, row, at) - aligned).square().sum(1) / aligned.square().sum(1))
    return torch.cat(terms).mean()


def test_squared_gaps_by_hand() -> None:
    h, stored = torch.tensor([[2.0, 4.0], [0.0, 1.0]]), torch.tensor([[1.0, 2.0], [0.0, 2.0]])
    assert squared_gap(h, stored).tolist() == [[1, 4], [0, 1]]
    # ‖(1, 2)‖² = 5, ‖(0, 2)‖² = 4.
    torch.testing.assert_close(squared_gap(h, stored, relative=True), torch.tensor([[0.2, 0.8], [0, 0.25]]))


@dataclass(kw_only=True)
class Weighs(Method):
    """Sets the weights of the user's rows."""

    needs_safety: ClassVar[bool] = False

    def start(self, run: Run) -> None:
        run.user.set_row_weights(torch.tensor(WEIGHTS))


WEIGHTS = [1.0, 0.25, 0.5, 0.0]


@pytest.mark.parametrize("positions", ["last", "response"])
@pytest.mark.parametrize(
    ("gate", "shares"), [("none", [1.0] * 4), ("trusted", WEIGHTS), ("suspect", [1 - w for w in WEIGHTS])]
)
def test_a_step_in_the_relative_unit_and_gated_by_row_weights(
    gate: str, shares: list[float], positions: Positions, tmp_path: Path
) -> None:
    lwf = LwF(weight=5.0, positions=positions, unit="relative", gate=gate)  # type: ignore[arg-type]
    caught = one_step([Weighs(), lwf], tmp_path, user=USER, safety=[], adapter_mode="merge")
    caught.check(cross_entropy(caught.at, USER) + 5.0 * relative(caught, USER, positions, shares), NORMS)


@pytest.mark.parametrize("order", [["lwf"], ["lwf", "weighs"]])
def test_a_gate_without_row_weights_before_it_is_refused(order: list[str], tmp_path: Path) -> None:
    methods = {"lwf": LwF(gate="suspect"), "weighs": Weighs()}
    with pytest.raises(RecipeError, match="gate: suspect needs row weights"):
        one_step([methods[name] for name in order], tmp_path, user=USER, safety=[])


def test_the_first_edition_keeps_its_digest() -> None:
    assert determining(LwF()) == {"name": "lwf", "weight": 1.0, "positions": "last"}


@pytest.mark.parametrize("order", [["safeinstr", "lwf"], ["lwf", "safeinstr"]])
def test_rows_that_safeinstr_mixes_in_are_matched_like_the_users(order: list[str], tmp_path: Path) -> None:
    method = [{"name": "lwf", "weight": 0.3} if name == "lwf" else name for name in order]
    caught = one_step(method, tmp_path, user=USER[:3], safety=SAFETY, gradient_accumulation_steps=4)
    rows = USER[:3] + SAFETY
    assert len(caught.trainer.run.user.trained_rows) == 8
    caught.check(cross_entropy(caught.at, rows) + 0.3 * distance(caught, rows, "last"), NORMS)


def test_rows_that_come_without_stored_states_are_left_out(tmp_path: Path) -> None:
    """Lisa's safety step trains on memory rows; there is nothing to match them with."""
    lisa = {"name": "lisa", "mode": "reference", "safety_steps": 1, "user_steps": 1, "pull": 0.0}
    method = [lisa, {"name": "lwf", "weight": 0.3}]
    caught = one_step(method, tmp_path, user=USER, safety=SAFETY[:4])
    caught.check(cross_entropy(caught.at, SAFETY[:4]))


def test_a_weight_of_0_asks_nothing_of_the_run(tmp_path: Path) -> None:
    run: Any = None
    method = LwF(weight=0.0)
    method.start(run)
    assert method.loss(run, {}, None) is None
    caught = one_step({"name": "lwf", "weight": 0.0}, tmp_path, user=USER, safety=[])
    caught.check(cross_entropy(caught.at, USER))


@pytest.mark.parametrize("wrong", [{"weight": -1}, {"positions": "first"}])
def test_a_setting_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        build("methods", {"name": "lwf", **wrong})
