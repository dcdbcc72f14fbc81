"""A run on ranks written by hand, without a Trainer: its parts ask nothing else of whoever trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.methods.plainly import row_nll, tokens
from unforgotten import testing
from unforgotten.errors import TrainingError
from unforgotten.training import ranks
from unforgotten.training.aligned_store import Once
from unforgotten.training.collate import Collator
from unforgotten.training.run import TrainingRun

USER, SAFETY = (
    [{**row, "row_id": i} for i, row in enumerate(testing.ragged_rows(n, seed))] for n, seed in ((4, 1), (7, 2))
)


@dataclass
class Handmade:
    """One of `world` ranks, all of which have as much as this one."""

    wrapped: Any
    rank: int = 0
    world: int = 1
    others: Callable[[], None] = lambda: None
    """What the other ranks do until this one is let go on."""
    device: torch.device = torch.device("cpu")
    micro_batch_rows: int = 2
    batch_size: int = 4
    step: int = 0
    steps: int = 10

    def unwrapped(self, model: Any) -> Any:
        return model

    def logs_this_step(self) -> bool:
        return False

    def wait(self) -> None:
        self.others()

    def sum_number(self, number: int) -> int:
        return number * self.world

    def sum_tensor(self, tensor: Tensor) -> Tensor:
        return tensor * self.world

    def mean_tensor(self, tensor: Tensor) -> Tensor:
        return tensor


def run_on(made: Handmade) -> TrainingRun:
    return TrainingRun(made, USER, SAFETY, "full", seed=5, pad_id=0)


@pytest.fixture(scope="module")
def model() -> Any:
    return testing.tiny_model("full", dtype=torch.float64)


def test_the_users_gradient_is_that_of_the_loss_written_out(model: Any, tmp_path: Path) -> None:
    run = run_on(Handmade(model))
    run.once = Once(tmp_path, "key", may_build=True)  # for θ_safe's head, which is trained here
    batches = [Collator(0)(USER[:2]), Collator(0)(USER[2:])]
    run.new_step(batches)
    assert run.user.step_rows == 4 and run.user.step_tokens == sum(map(tokens, USER))
    with run.turn("x", "gradients"):
        gradient = run.weights.gradient(run.user.terms(batches))
    loss = sum(row_nll(model, row) for row in USER) / sum(map(tokens, USER))
    expected = torch.autograd.grad(loss, list(run.weights.params().values()))
    for g, wanted in zip(gradient.values(), expected, strict=True):
        torch.testing.assert_close(g, wanted, rtol=1e-9, atol=1e-12)


def test_all_ranks_and_micro_batches_share_what_a_step_draws(model: Any) -> None:
    shares: list[int] = []
    for rank in range(2):
        run = run_on(Handmade(model, rank=rank, world=2))
        run.new_step([Collator(0)(USER[:1])] * 3)
        for position in range(3):
            with run.turn("x", "loss", position):
                batch = run.memory.draw(7)
                shares += batch.row_ids
                assert sum(batch.counts) == sum(tokens(SAFETY[i]) for i in batch.row_ids)
        assert run.memory.tokens == sum(map(tokens, SAFETY))
    assert sorted(shares) == list(range(7)), "each row of the memory once, since seven are drawn of seven"


def test_row_weights_are_ones_until_a_method_sets_them(model: Any) -> None:
    run = run_on(Handmade(model))
    run.user.trained_rows = USER
    batch = {"row_id": torch.tensor([2, -1, 0])}
    assert run.user.row_weights(batch).tolist() == [1, 1, 1] and not run.user.has_row_weights
    with run.turn("x", "start"):
        run.user.set_row_weights(torch.tensor([0.25, 1.0, 0.5, 0.0]))
    assert run.user.row_weights(batch).tolist() == [0.5, 1, 0.25] and run.user.has_row_weights
    with run.turn("x", "start"):  # a second training sets them anew
        run.user.set_row_weights({0: 0.75})
    assert run.user.row_weights(batch).tolist() == [1, 1, 0.75]


@pytest.mark.parametrize(
    ("weights", "why"),
    [
        (torch.ones(3), "shape"),
        (torch.tensor([1.0, 1.0, 1.0, 1.5]), "0 to 1"),
        (torch.tensor([1.0, 1.0, 1.0, torch.nan]), "NaN"),
        ({4: 0.5}, "row 4"),
    ],
)
def test_row_weights_of_another_number_or_range_are_refused(weights: Any, why: str, model: Any) -> None:
    run = run_on(Handmade(model))
    run.user.trained_rows = USER
    with run.turn("x", "start"), pytest.raises(TrainingError, match=why):
        run.user.set_row_weights(weights)


def test_two_methods_cannot_both_weigh_rows(model: Any) -> None:
    run = run_on(Handmade(model))
    run.user.trained_rows = USER
    with run.turn("x", "start"):
        run.user.set_row_weights(torch.ones(4))
    with run.turn("y", "start"), pytest.raises(TrainingError, match="x has set"):
        run.user.set_row_weights(torch.ones(4))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_a_mean_over_rows_is_made_in_shares_and_kept_as_one_file(world: int, tmp_path: Path) -> None:
    rows, values = [4, 1, 6, 2, 5], torch.tensor([3.0, -1.0, 4.0, 1.0, 5.0, -9.0, 2.0])
    shares: list[list[int]] = []

    def sum_of(some: list[int]) -> dict[str, Tensor]:
        shares.append(some)
        return {"x": values[some].sum(0, keepdim=True)}

    once = Once(tmp_path, "key", may_build=True)
    alone = Handmade(None)
    if world > 1:  # the others make their shares while the first one waits

        def others() -> None:
            for rank in range(1, world):
                share = {f"{rank}:x": values[rows[rank::world]].sum(0, keepdim=True) / len(rows)}
                once.shards("fisher", world, lambda _, share=share: share, only=[rank])  # type: ignore[misc]

        alone = Handmade(None, world=world, others=others)
    mean = ranks.mean_over_rows(alone, once, "fisher", rows, sum_of)
    torch.testing.assert_close(mean["x"], values[rows].mean(0, keepdim=True))
    assert shares == [rows[::world]], "this rank has read its own share alone"
    assert [path.name for path in tmp_path.rglob("*.safetensors")] == ["fisher-key.safetensors"]
    again = ranks.mean_over_rows(Handmade(None), once, "fisher", rows, sum_of)
    assert torch.equal(again["x"], mean["x"]) and len(shares) == 1, "read back, on another number of ranks too"
