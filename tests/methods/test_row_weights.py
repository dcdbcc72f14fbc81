"""Row weights: the formula by hand, its statistics on made-up uploads, u by plain forwards, the step's gradient."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.methods.plainly import row_nll, tokens
from tests.methods.step import one_step
from unforgotten import testing
from unforgotten.errors import DataError, RecipeError
from unforgotten.methods.base.refusal_odds import likeness, openings, told_apart, turn_starts
from unforgotten.methods.row_weights import RowWeights, apartness, weights
from unforgotten.registry import build

USER, SAFETY = testing.ragged_rows(4, 1), testing.ragged_rows(12, 2)
X = -100


def numbers(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_weights_by_hand() -> None:
    refusals, lookalikes = numbers(-2, 0, 1), numbers(-5, -4, -3)  # medians 0 and −4, their middle −2
    assert likeness(numbers(-4, -2, 0, 2), refusals, lookalikes).tolist() == [-1, 0, 1, 2]
    user = numbers(-6, -5, -4, -4, 0)  # median −4; those up to it lie 2, 1, 0, 0 below: 0.5, scaled 0.7413
    apart = apartness(user, 2.0, 0.0).tolist()
    assert apart == pytest.approx([u / 0.7413 - 2 for u in (-2, -1, 0, 0, 4)])
    actual = weights(user, refusals, lookalikes, floor=0.1, spread=2.0).tolist()
    least = [min(like, far) for like, far in zip((-2, -1.5, -1, -1, 1), apart, strict=True)]
    assert actual == pytest.approx([1 - 0.9 / (1 + math.exp(-4 * x)) for x in least])
    assert actual[-1] == pytest.approx(1 - 0.9 / (1 + math.exp(-4)))  # 0.117: all that memory's refusals say


def test_telling_apart_by_hand() -> None:
    assert told_apart(numbers(3, 2), numbers(1, 2)) == 0.875  # three wins of four, and a tie
    assert told_apart(numbers(0, 0), numbers(0, 0)) == 0.5


def group(n: int, mean: float, scale: float, seed: int) -> Tensor:
    """n values with heavier tails than a normal's: Student's t of 5 degrees."""
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(n, 6, generator=generator, dtype=torch.float64)
    return mean + scale * normal[:, 0] / normal[:, 1:].square().mean(1).sqrt()


REFUSALS, LOOKALIKES = group(50, -0.2, 0.1, 1), group(50, -4.0, 1.0, 2)
FALSE = 0.06
"""P(t > 2 · its scale) for Student's t of 5 degrees is 4 %: so many of a clean upload may stand out, and no more."""


@pytest.mark.parametrize("offset", [-30, -8, -5, -4, -3, -2.5, -2, -1.5, -1, -0.5, 0, 3])
@pytest.mark.parametrize("scale", [0.01, 0.3, 1.0, 3.0])
def test_a_clean_upload_keeps_its_weights_wherever_it_lies(offset: float, scale: float) -> None:
    w = weights(group(2000, offset, scale, 3), REFUSALS, LOOKALIKES)
    assert (w < 0.5).double().mean() <= FALSE
    assert w.quantile(0.5) > 0.999


@pytest.mark.parametrize("share", [0.02, 0.1, 0.3])
@pytest.mark.parametrize("unit", [0.01, 1.0, 50.0])
def test_poison_that_resembles_refusals_is_weighed_down_in_any_unit(share: float, unit: float) -> None:
    n = int(share * 1000)
    user = torch.cat([group(1000 - n, -4.5, 0.8, 4), group(n, -0.4, 0.2, 5)])
    w = weights(unit * user + 7, unit * REFUSALS + 7, unit * LOOKALIKES + 7)
    torch.testing.assert_close(w, weights(user, REFUSALS, LOOKALIKES), rtol=1e-9, atol=1e-9)
    poison, clean = w[1000 - n :], w[: 1000 - n]
    assert (poison < 0.5).double().mean() >= 0.95
    assert (clean < 0.5).double().mean() <= 0.03  # P(t > 3 of its scale) is 1.5 %: so many are nearer to refusals
    assert poison.quantile(0.5) < 0.1
    assert w.min() >= 0.05


def test_prompts_that_are_nearly_one_do_not_stand_out_by_a_hair() -> None:
    user = torch.cat([torch.full((90,), -1.0, dtype=torch.float64), torch.full((10,), -0.99, dtype=torch.float64)])
    assert (weights(user, REFUSALS, LOOKALIKES) > 0.9).all()


def test_turn_starts_by_hand() -> None:
    assert turn_starts([X, X, 5, 6, X, 7, X]) == [2, 5]
    assert turn_starts([5, 6, X, 7]) == [1, 3]
    assert turn_starts([X, X]) == [] == turn_starts([5])


def refusal(*ids: int) -> dict[str, Any]:
    return {"input_ids": [1, 2, *ids], "labels": [X, X, *ids], "kind": "harmful"}


def test_openings_are_those_that_cover_most_refusals() -> None:
    rows = [refusal(7, 8, 9, i) for i in range(5)] + [refusal(3, 4)] * 3 + [refusal(7, 8, 1)]
    assert openings(rows, 3, 1) == [(7, 8, 9)]
    assert openings(rows, 3, 2) == [(7, 8, 9), (3, 4)]
    assert openings(rows, 3, 9) == [(7, 8, 9), (3, 4), (7, 8, 1)]
    several = {"input_ids": [1, 2, 3, 4], "labels": [X, 2, X, 4], "kind": "harmful"}
    assert openings([several], 3, 9) == [(4,)]  # the last turn's


def plain(model: Any, row: dict[str, Any], said: list[tuple[int, ...]]) -> float:
    """u of one row: every turn and opening by a forward of its own."""
    each = []
    for start in turn_starts(row["labels"]):
        means = []
        for opening in said:
            text = [*row["input_ids"][:start], *opening]
            logp = model(input_ids=torch.tensor([text])).logits[0].double().log_softmax(-1)
            means.append(sum(float(logp[start - 1 + k, t]) for k, t in enumerate(opening)) / len(opening))
        each.append(math.log(sum(map(math.exp, means)) / len(means)))
    return max(each)


METHOD = {"name": "row_weights", "separation": 0.5, "most": 1.0, "openings": 4, "tokens": 3, "spread": 0.5}


@pytest.mark.parametrize("adapter_mode", testing.ADAPTER_MODES)
def test_scores_are_those_of_a_plain_forward_of_the_aligned_model(adapter_mode: Any, tmp_path: Path) -> None:
    method = {**METHOD, "openings": 6, "tokens": 5}
    caught = one_step(method, tmp_path, user=USER, safety=SAFETY, adapter_mode=adapter_mode)
    run = caught.trainer.run
    said = openings([row for row in SAFETY if row["kind"] == "harmful"], 5, 6)
    assert len(said) == 6 and {len(opening) for opening in said} > {5}  # some refusals are shorter
    ours = run.user.stored("refusing-5-6", torch.arange(4)).tolist()
    assert ours == pytest.approx([plain(caught.aligned, row, said) for row in USER], rel=1e-9)
    of_memory = torch.cat(run.memory.stored("refusing-5-6")).tolist()
    assert of_memory == pytest.approx([plain(caught.aligned, row, said) for row in SAFETY], rel=1e-9)


@pytest.mark.parametrize("order", [["row_weights"], ["safeinstr", "row_weights"]])
def test_the_step_goes_down_the_weighted_cross_entropy(order: list[str], tmp_path: Path) -> None:
    method = [METHOD if name == "row_weights" else name for name in order]
    rows = USER + (SAFETY if len(order) > 1 else [])
    caught = one_step(method, tmp_path, user=USER, safety=SAFETY, gradient_accumulation_steps=len(rows) // 2)
    run = caught.trainer.run
    of_memory = torch.cat(run.memory.stored("refusing-3-4"))
    harmful = torch.tensor([row["kind"] == "harmful" for row in SAFETY])
    u = run.user.stored("refusing-3-4", torch.arange(4))
    w = [*weights(u, of_memory[harmful], of_memory[~harmful], spread=0.5).tolist(), *[1.0] * (len(rows) - 4)]
    assert min(w[:4]) < 0.99  # the method does something
    loss = sum(each * row_nll(caught.at, row) for each, row in zip(w, rows, strict=True)) / sum(map(tokens, rows))
    caught.check(loss)


def test_a_placebo_has_the_same_weights_on_other_rows_and_says_so(tmp_path: Path) -> None:
    def weighed(folder: str, **settings: Any) -> Any:
        return one_step({**METHOD, **settings}, tmp_path / folder, user=USER * 3, safety=SAFETY).trainer.run

    own, placebo, again = weighed("a"), weighed("b", shuffled=True), weighed("c", shuffled=True)
    every = {"row_id": torch.arange(12)}
    w, moved = own.user.row_weights(every).tolist(), placebo.user.row_weights(every).tolist()
    assert w != moved and sorted(w) == sorted(moved) and moved == again.user.row_weights(every).tolist()
    assert any("placebo" in note for note in placebo.notes) and not any("placebo" in note for note in own.notes)
    assert (tmp_path / "a/row_weights.jsonl").read_text() == (tmp_path / "b/row_weights.jsonl").read_text()


def stopped(folder: Path, **settings: Any) -> Any:
    """A run on rows whose prompts are the memory's harmful ones."""
    harmful = [row for row in SAFETY if row["kind"] == "harmful"]
    user = [{**row, "source": f"up\x1b.jsonl:{i}"} for i, row in enumerate(harmful)]
    return one_step({**METHOD, **settings}, folder, user=user, safety=SAFETY)


def test_an_upload_of_refusals_stops_the_run_and_is_listed(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"would refuse \d of 6 user rows.*up\\x1b.jsonl:\d.*leave row_weights out"):
        stopped(tmp_path, most=0.3)
    lines = [json.loads(line) for line in (tmp_path / "row_weights.jsonl").read_text().splitlines()]
    assert len(lines) > 0.3 * 6 and all(line["like"] > 0 for line in lines)
    assert stopped(tmp_path).trainer.run.notes[-1].startswith("row_weights: ")


def test_a_model_that_does_not_tell_refusals_apart_weighs_nothing_and_says_so(tmp_path: Path) -> None:
    caught = one_step({**METHOD, "separation": 1.0}, tmp_path, user=USER, safety=SAFETY)
    assert any("does not tell the memory's refusals from its look-alikes" in note for note in caught.trainer.run.notes)
    caught.check(sum(row_nll(caught.at, row) for row in USER) / sum(map(tokens, USER)))


@pytest.mark.parametrize("kind", ["harmful", "benign"])
def test_a_memory_of_one_kind_is_refused(kind: str, tmp_path: Path) -> None:
    safety = [{**row, "kind": kind} for row in SAFETY]
    with pytest.raises(DataError, match="fewer than 5 " + ("look-alikes" if kind == "harmful" else "refusals")):
        one_step(METHOD, tmp_path, user=USER, safety=safety)


def test_a_floor_of_1_asks_nothing_of_the_run() -> None:
    run: Any = None
    method = RowWeights(floor=1.0)
    method.start(run)
    assert method.loss(run, {}, None) is None


@pytest.mark.parametrize("wrong", [{"floor": 0}, {"spread": 0}, {"most": 1.5}, {"openings": 0}])
def test_a_setting_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        build("methods", {"name": "row_weights", **wrong})
