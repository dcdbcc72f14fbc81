"""The anchor's units by hand, the prompts that it draws, and its step against autograd of the whole loss in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.methods.step import Caught, cross_entropy, one_step, response, states_at
from unforgotten import testing
from unforgotten.errors import RecipeError
from unforgotten.methods.anchor import Anchor, equivalents
from unforgotten.registry import build

USER, SAFETY = testing.ragged_rows(4, 1), testing.ragged_rows(6, 2)
NORMS = 1e-6
"""Llama's norms round to float32, also in the backward, which what is written out goes through twice."""


def test_equivalents_by_hand() -> None:
    # ‖(1, 2)‖² = 5 and ‖(3, 4)‖² = 25, on average 15; d is 2.
    stored = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert list(equivalents(30.0, stored).values()) == [30.0, 4.0, 2.0]


def anchored(caught: Caught, places: list[int]) -> torch.Tensor:
    """The mean over prompts of ‖h − h′‖² / ‖h′‖², from forwards of the prompts alone, one after the other."""
    shares = []
    for i in places:
        first = response(SAFETY[i])[0]
        prompt = {"input_ids": SAFETY[i]["input_ids"][: first + 1]}
        h, aligned = states_at(caught.at, prompt, [first]), states_at(caught.aligned, prompt, [first])
        shares.append((h - aligned).square().sum() / aligned.square().sum())
    return torch.stack(shares).mean()


def drawn(caught: Caught, n: int, refusals: float | None) -> list[int]:
    run = caught.trainer.run
    caught.trainer.state.global_step = 0
    with run.turn("anchor", "loss"):
        return run.memory.prompt_places(n, refusals)


@pytest.mark.parametrize(("prompts", "refusals"), [(1, None), (4, None), (4, 0.5), (9, 1.0)])
@pytest.mark.parametrize("adapter_mode", ["full", "merge"])
def test_a_step_goes_down_cross_entropy_and_the_distance_before_the_answer(
    prompts: int, refusals: float | None, adapter_mode: Any, tmp_path: Path
) -> None:
    method = {"name": "anchor", "weight": 3.0, "prompts": prompts, "refusals": refusals}
    caught = one_step(method, tmp_path, user=USER, safety=SAFETY, adapter_mode=adapter_mode)
    places = drawn(caught, prompts, refusals)
    assert len(places) == prompts
    caught.check(cross_entropy(caught.at, USER) + 3.0 * anchored(caught, places), NORMS)


@pytest.mark.parametrize("adapter_mode", testing.ADAPTER_MODES)
def test_stored_states_are_the_teachers_before_the_first_answer(adapter_mode: Any, tmp_path: Path) -> None:
    caught = one_step("anchor", tmp_path, user=USER, safety=SAFETY, adapter_mode=adapter_mode)
    run = caught.trainer.run
    with run.turn("anchor", "gradients"):
        batch = run.memory.draw_prompts(6)
        actual = run.memory.prompt_states(batch)
    # Whole rows here: what comes after a position does not change its state.
    expected = [states_at(caught.aligned, SAFETY[i], response(SAFETY[i])[:1]) for i in batch.row_ids]
    torch.testing.assert_close(actual, torch.cat(expected), rtol=1e-10, atol=1e-12)


def test_no_token_of_an_answer_is_run_through_the_model(tmp_path: Path) -> None:
    caught = one_step("anchor", tmp_path, user=USER, safety=SAFETY)
    run = caught.trainer.run
    with run.turn("anchor", "gradients"):
        batch = run.memory.draw_prompts(6)
    for i, ids, real in zip(batch.row_ids, batch.inputs["input_ids"], batch.inputs["attention_mask"], strict=True):
        assert ids[real.bool()].tolist() == SAFETY[i]["input_ids"][: response(SAFETY[i])[0] + 1]


def test_the_share_of_harmful_prompts_is_exact_and_no_prompt_repeats_too_soon(tmp_path: Path) -> None:
    caught = one_step("anchor", tmp_path, user=USER, safety=SAFETY)
    places, notes = drawn(caught, 4, 0.75), caught.trainer.run.notes
    assert sum(SAFETY[i]["kind"] == "harmful" for i in places) == 3 and len(set(places)) == 4
    assert not any("harmful prompts" in note for note in notes)
    assert len(drawn(caught, 5, 1.0)) == 5
    assert any("replays 5 harmful prompts" in note and "has 3" in note for note in notes)


@pytest.mark.parametrize(
    ("settings", "safety", "why"),
    [
        ({"prompts": 1, "refusals": 0.5}, SAFETY, "cannot hold a share"),
        ({"refusals": 0.5}, SAFETY[::2], "has none"),
    ],
)
def test_a_share_that_the_memory_cannot_give_is_refused(
    settings: dict[str, Any], safety: Any, why: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match=why):
        one_step({"name": "anchor", **settings}, tmp_path, user=USER, safety=safety)


@pytest.mark.parametrize(("adapter_mode", "said"), [("full", True), ("merge", False)])
def test_a_trained_head_is_said(adapter_mode: Any, said: bool, tmp_path: Path) -> None:
    notes = one_step("anchor", tmp_path, user=USER, safety=SAFETY, adapter_mode=adapter_mode).trainer.run.notes
    assert any("head is trained" in note for note in notes) is said
    assert any("mean over the hidden size" in note for note in notes)


def test_a_weight_of_0_asks_nothing_of_the_run(tmp_path: Path) -> None:
    run: Any = None
    method = Anchor(weight=0.0)
    method.start(run)
    assert method.loss(run, {}, None) is None
    caught = one_step({"name": "anchor", "weight": 0.0}, tmp_path, user=USER, safety=SAFETY)
    caught.check(cross_entropy(caught.at, USER))


@pytest.mark.parametrize("wrong", [{"weight": -1}, {"prompts": 0}, {"refusals": 1.5}])
def test_a_setting_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        build("methods", {"name": "anchor", **wrong})
