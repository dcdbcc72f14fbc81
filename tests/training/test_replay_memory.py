"""Which rows are kept and drawn: numbers by hand, and a draw that neither split nor ranks change."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch

from unforgotten.errors import RecipeError
from unforgotten.training.collate import Collator, predicts, response_tokens
from unforgotten.training.replay_memory import Memory, as_batch, deal, draw


def rows(refusals: int, others: int) -> list[dict[str, Any]]:
    kinds = ["harmful"] * refusals + ["benign"] * others
    return [{"input_ids": [i, 1, 2], "labels": [-100, 1, 2], "kind": kind} for i, kind in enumerate(kinds)]


@pytest.mark.parametrize(
    ("users", "safety", "kept"),
    [(1000, 500, 100), (5000, 500, 250), (1000, 60, 60), (10_000, 400, 400)],  # 5 %, at least 100, at most all
)
def test_five_percent_but_a_hundred(users: int, safety: int, kept: int) -> None:
    assert len(Memory().replayed(rows(safety, 0), users, 0)) == kept


def test_the_mix_is_what_was_asked_for() -> None:
    chosen = Memory(n_rows=20, refusals=0.25).replayed(rows(30, 30), 1000, 0)
    assert Counter(row["kind"] for row in chosen) == {"harmful": 5, "benign": 15}
    assert [row["row_id"] for row in chosen] == list(range(20))
    with pytest.raises(RecipeError, match="needs 18 refusals and 2 look-alikes. The safety data has 3 and 30"):
        Memory(n_rows=20, refusals=0.9).replayed(rows(3, 30), 1000, 0)
    with pytest.raises(RecipeError, match="n_rows is 99"):
        Memory(n_rows=99).replayed(rows(3, 3), 1000, 0)


def test_a_step_draws_without_replacement_while_it_can() -> None:
    assert sorted(draw(10, 10, 0, "der", 3)) == list(range(10))
    assert max(Counter(draw(10, 25, 0, "der", 3)).values()) == 3
    assert draw(10, 5, 0, "der", 3) == draw(10, 5, 0, "der", 3) != draw(10, 5, 0, "der", 4)
    drawn = Counter(i for step in range(4000) for i in draw(10, 3, 0, "der", step))
    assert all(abs(n - 1200) < 5 * (4000 * 0.3 * 0.7) ** 0.5 for n in drawn.values())  # five standard deviations


@pytest.mark.parametrize("slots", [1, 2, 3, 7, 20])
def test_dealing_keeps_every_row_once(slots: int) -> None:
    shares = [deal(list(range(11)), slot, slots) for slot in range(slots)]
    assert [i for share in shares for i in share] == list(range(11))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_an_empty_share_still_runs_a_forward_that_counts_nothing() -> None:
    memory = [{**row, "row_id": i} for i, row in enumerate(rows(2, 0))]
    ghost = as_batch(memory, [], Collator(0), "cpu")
    assert ghost.inputs["input_ids"].shape == (1, 3)
    assert not ghost.predicts.any()


def test_which_positions_predict() -> None:
    # Response tokens at 2, 3 and 5: they are predicted at 1, 2 and 4. A label at 0 is predicted by nothing.
    labels = torch.tensor([[7, -100, 8, 9, -100, 3]])
    assert predicts(labels).tolist() == [[False, True, True, False, True, False]]
    assert response_tokens({"labels": labels[0].tolist()}) == 3


def test_the_collator_pads_on_the_right_and_masks_what_it_added() -> None:
    batch = Collator(9)(
        [{"input_ids": [1, 2, 3], "labels": [-100, 2, 3], "row_id": 4}, {"input_ids": [5], "labels": [5], "row_id": 0}]
    )
    assert batch["input_ids"].tolist() == [[1, 2, 3], [5, 9, 9]]
    assert batch["labels"].tolist() == [[-100, 2, 3], [5, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["row_id"].tolist() == [4, 0]
