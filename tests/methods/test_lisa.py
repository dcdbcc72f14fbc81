"""Lisa's schedule and pull by hand, and a whole run watched: which rows each step trained on, and what it pulled to."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.methods.step import Rows, arguments, close, exact
from unforgotten import testing
from unforgotten.errors import RecipeError
from unforgotten.methods.base import Method
from unforgotten.methods.lisa import Lisa, early, on_safety, pull_gradient
from unforgotten.registry import build
from unforgotten.training.replay_memory import Memory
from unforgotten.training.trainer import MethodTrainer

SAFETY = testing.ragged_rows(5, 2)


def test_the_schedule_by_hand() -> None:
    assert "".join("su"[not on_safety(step, 2, 3)] for step in range(12)) == "ssuuussuuuss"
    assert not any(on_safety(step, 0, 3) for step in range(12))


def test_the_pull_ends_at_the_closed_form_minimum() -> None:
    """½ a (w − t)² + ½ ρ (w − w′)² is least at (a t + ρ w′) / (a + ρ); by hand: a 2, t 3, ρ 4, w′ −1 -> ⅓."""
    w, other = torch.tensor([5.0], dtype=torch.float64), torch.tensor([-1.0], dtype=torch.float64)
    for _ in range(300):
        w = w - 0.1 * (2 * (w - 3) + pull_gradient(w, other, 4.0))
    assert w.item() == pytest.approx(1 / 3, abs=1e-12)


def test_the_pull_is_autograds() -> None:
    torch.manual_seed(0)
    w, other = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), torch.randn(3, 4, dtype=torch.float64)
    (expected,) = torch.autograd.grad(1.7 / 2 * (w - other).square().sum(), w)
    torch.testing.assert_close(pull_gradient(w.detach(), other, 1.7), expected)


@dataclass(kw_only=True)
class Before(Method):
    """Stands in front of Lisa: the weights and gradients of each step as they come to it."""

    registry_name: ClassVar[str] = "before"
    needs_safety: ClassVar[bool] = False

    def start(self, run: Any) -> None:
        self.weights: list[dict[str, Tensor]] = []
        self.grads: list[dict[str, Tensor]] = []
        self.came: list[list[int]] = []

    def before_step(self, run: Any, batches: list[Any]) -> list[Any]:
        self.weights.append(run.weights.snapshot())
        self.came.append([i for b in batches for i in b["row_id"].tolist()])
        return batches

    def gradients(self, run: Any) -> None:
        self.grads.append({n: p.grad.clone() for n, p in run.weights.params().items()})


@dataclass(kw_only=True)
class After(Method):
    """Stands behind it: the gradients that it leaves, and the rows that each micro-batch is trained on."""

    registry_name: ClassVar[str] = "after"
    needs_safety: ClassVar[bool] = False

    def start(self, run: Any) -> None:
        self.grads: list[dict[str, Tensor]] = []
        self.rows: dict[int, list[tuple[int, ...]]] = {}

    def loss(self, run: Any, batch: Any, out: Any) -> None:
        for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True):
            self.rows.setdefault(run.step, []).append(tuple(ids[mask.bool()].tolist()))

    def gradients(self, run: Any) -> None:
        self.grads.append({n: p.grad.clone() for n, p in run.weights.params().items()})


def watched(lisa: Lisa, folder: Path, user: Rows, first: Any = (), **more: Any) -> tuple[Any, Before, After]:
    before, after = Before(), After()
    trainer = MethodTrainer(
        model=testing.tiny_model("merge", dtype=torch.float64),
        args=arguments(folder, **more),
        train_dataset=user,
        safety_dataset=SAFETY,
        memory=Memory(n_rows=len(SAFETY)),
        method=[before, *first, lisa, after],
        compute_loss_func=exact,
    )
    trainer.train()
    return trainer, before, after


def said(rows: Rows) -> list[tuple[int, ...]]:
    return [tuple(row["input_ids"]) for row in rows]


@pytest.mark.parametrize("rows", [12, 24])
def test_every_user_row_is_served_once_a_round_and_safety_steps_come_on_top(rows: int, tmp_path: Path) -> None:
    """Cycles of 2 + 3 steps of 4 rows: 12 user rows take one, and two epochs serve each row twice."""
    user = testing.ragged_rows(rows, 1)
    lisa = Lisa(safety_steps=2, user_steps=3)
    trainer, before, after = watched(lisa, tmp_path, user, num_train_epochs=2)
    steps = rows * 2 // 4 * 5 // 3
    assert trainer.state.global_step == len(before.came) == steps
    safety = [row for step in range(steps) if step % 5 < 2 for row in after.rows[step]]
    users = [row for step in range(steps) if step % 5 >= 2 for row in after.rows[step]]
    assert set(safety) <= set(said(SAFETY)) and len(safety) == 4 * (steps - rows // 2)
    assert len(users) == 2 * rows
    rounds = users[:rows], users[rows:]
    assert all(Counter(served) == Counter(said(user)) for served in rounds)
    assert rounds[0] != rounds[1] != said(user)  # each round has an order of its own


def test_a_last_step_of_fewer_rows_serves_fewer(tmp_path: Path) -> None:
    """7 rows and 5 more for safety are 12: in steps of 5 that is s, u, u of 5, 5 and 2 rows."""
    user = testing.ragged_rows(7, 1)
    more = {"per_device_train_batch_size": 5, "gradient_accumulation_steps": 1, "num_train_epochs": 1}
    trainer, _, after = watched(Lisa(safety_steps=2, user_steps=3), tmp_path, user, **more)
    assert [len(after.rows[step]) for step in range(trainer.state.global_step)] == [5, 5, 2]
    _, _, after = watched(Lisa(safety_steps=1, user_steps=2), tmp_path / "b", user, **more)
    # One safety step for the two user steps: 12 rows in steps of 5, 5 and 2; the user steps serve each of the 7 once.
    assert [len(after.rows[step]) for step in range(3)] == [5, 5, 2]
    assert Counter(after.rows[1] + after.rows[2]) == Counter(said(user))


def test_rows_that_safeinstr_put_in_before_it_are_served_too(tmp_path: Path) -> None:
    user = testing.ragged_rows(7, 1)
    _, _, after = watched(Lisa(safety_steps=2, user_steps=3), tmp_path, user, first=["safeinstr"], num_train_epochs=1)
    users = [row for step in (2, 3, 4) for row in after.rows[step]]
    assert Counter(users) == Counter(said(user + SAFETY))


def test_the_code_throws_away_the_user_rows_of_a_safety_step(tmp_path: Path) -> None:
    user = testing.ragged_rows(20, 1)
    lisa = Lisa(mode="reference", safety_steps=2, user_steps=3)
    trainer, before, after = watched(lisa, tmp_path, user, num_train_epochs=1)
    assert trainer.state.global_step == 5  # as many as without Lisa
    for step in range(5):
        came = [tuple(user[i]["input_ids"]) for i in before.came[step]]
        if step < 2:
            assert set(after.rows[step]) <= set(said(SAFETY))
        else:
            assert after.rows[step] == came
    seen = {row for step in (2, 3, 4) for row in after.rows[step]}
    assert len(seen) == 12 and len(set(said(user)) - seen) == 8


def test_the_pull_begins_where_the_code_begins_it() -> None:
    """trainer.py: `self.steps > 0.1 * len(loader) * epochs`, counted from 0: of 20 steps it leaves out 0, 1 and 2."""
    assert [early(step, 20) for step in range(5)] == [True, True, True, False, False]
    assert [early(step, 25) for step in range(5)] == [True, True, True, False, False]
    for steps in range(1, 500):
        assert [early(i, steps) for i in range(steps)] == [not i > 0.1 * steps for i in range(steps)]


@pytest.mark.parametrize(("mode", "quiet"), [("paper", 0), ("reference", 4)])
def test_each_step_is_pulled_to_where_the_other_state_ended(mode: Any, quiet: int, tmp_path: Path) -> None:
    """Until the first user step w′ is θ_safe, then it changes at each border. The code leaves out 4 of 30 steps."""
    lisa = Lisa(mode=mode, safety_steps=2, user_steps=3, pull=0.7)
    _, before, after = watched(lisa, tmp_path, testing.ragged_rows(20, 1), max_steps=30)
    for step in range(30):
        border = step - step % 5 + (2 if step % 5 >= 2 else 0)
        w, other = before.weights[step], before.weights[border]
        pulled = {n: after.grads[step][n] - before.grads[step][n] for n in w}
        if step < quiet or step == border:
            assert not any(bool(g.any()) for g in pulled.values())
        else:
            close(pulled, {n: 0.7 * (w[n] - other[n]) for n in w})


def test_the_other_state_and_the_rows_served_are_in_the_checkpoint(tmp_path: Path) -> None:
    lisa = Lisa(safety_steps=2, user_steps=3)
    more = {"max_steps": 8, "save_strategy": "steps", "save_steps": 1}
    _, before, _ = watched(lisa, tmp_path, testing.ragged_rows(20, 1), **more)
    served = [0, 0, 4, 8, 12, 12, 12, 16]
    for step, border in enumerate([0, 0, 2, 2, 2, 5, 5, 7]):
        state = tmp_path / f"checkpoint-{step + 1}" / "unforgotten"
        kept = {n.removeprefix("other:"): t for n, t in load_file(state / "lisa.safetensors").items()}
        assert testing.distance(kept, before.weights[border]) == 0.0
        assert json.loads((state / "lisa.json").read_text()) == {"served": served[step]}


@pytest.mark.parametrize("wrong", [{"pull": -1}, {"user_steps": 0}, {"safety_steps": -1}, {"mode": "code"}])
def test_a_setting_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        build("methods", {"name": "lisa", **wrong})
