"""A-GEM's projection by hand, and its effect on a real run's gradients against autograd on the whole batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from tests.methods.plainly import row_nll, tokens
from unforgotten import testing
from unforgotten.methods.agem import AGEM
from unforgotten.methods.base import overlap
from unforgotten.training.replay_memory import Memory
from unforgotten.training.trainer import MethodTrainer


def test_conflict_is_taken_out_by_hand() -> None:
    # g = (1, -2), g_safe = (0, 4): g·g_safe = -8, ‖g_safe‖² = 16, so -1/2 of g_safe goes: (1, 0).
    g, safe = torch.tensor([1.0, -2.0]), torch.tensor([0.0, 4.0])
    scale = overlap(g @ safe, safe @ safe)
    assert scale.item() == -0.5
    assert (g - scale * safe).tolist() == [1.0, 0.0]


def test_agreement_is_left_alone_and_so_is_a_safety_gradient_of_zero() -> None:
    g, safe = torch.tensor([1.0, 2.0]), torch.tensor([3.0, -1.0])
    assert overlap(g @ safe, safe @ safe).item() == 0.0
    assert overlap(torch.tensor(0.0), torch.tensor(0.0)).item() == 0.0


def test_gradients_of_a_step_are_projected_against_the_memory(tmp_path: Path) -> None:
    """The trainer's p.grad after the turn is g less its projection, the latter taken here with the model's own loss."""
    seen: dict[str, Any] = {}

    class Watched(AGEM):
        def gradients(self, run: Any) -> None:
            model, params = run.weights.model, run.weights.params()
            before = {n: p.grad.clone() for n, p in params.items()}
            ids = run.memory.places(4)
            rows = [run.memory.rows[i] for i in ids]
            loss = sum(row_nll(model, r) for r in rows) / sum(map(tokens, rows))
            safe = dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))
            dot = sum(float((before[n] * safe[n]).sum()) for n in params)
            norm = sum(float((safe[n] ** 2).sum()) for n in params)
            seen["conflict"] = seen.get("conflict", 0) + (dot < 0)
            super().gradients(run)
            for n, p in params.items():
                torch.testing.assert_close(p.grad, before[n] - min(dot / norm, 0.0) * safe[n], rtol=1e-9, atol=1e-12)
            seen["steps"] = seen.get("steps", 0) + 1

    model = testing.tiny_model("full", dtype=torch.float64)
    user = testing.ragged_rows(16, 1)
    # Safety rows that contradict the user's: the same prompts with other answers, so that gradients conflict.
    safety = testing.ragged_rows(8, 1)
    for r in safety:
        r["labels"] = [x if x == -100 else (x + 7) % 64 for x in r["labels"]]
        r["input_ids"] = [i if x == -100 else x for i, x in zip(r["input_ids"], r["labels"], strict=True)]
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=6, report_to=[],
        learning_rate=0.05, optim="sgd", use_cpu=True, disable_tqdm=True, save_strategy="no", logging_strategy="no",
    )  # fmt: skip
    MethodTrainer(
        model=model, args=args, train_dataset=user, safety_dataset=safety, memory=Memory(n_rows=8), method=Watched()
    ).train()
    assert seen["steps"] == 6
    assert seen["conflict"] > 0


def test_the_share_of_projected_steps_is_logged(tmp_path: Path) -> None:
    logs: list[dict[str, float]] = []

    class Keep(TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            kept.append(dict(logs))

    kept = logs
    args = TrainingArguments(
        str(tmp_path), per_device_train_batch_size=4, max_steps=4, logging_steps=2, report_to=[], use_cpu=True,
        disable_tqdm=True, save_strategy="no",
    )  # fmt: skip
    MethodTrainer(
        model=testing.tiny_model("merge"), args=args, train_dataset=testing.ragged_rows(8, 1),
        safety_dataset=testing.ragged_rows(4, 2), method="agem", callbacks=[Keep()],
    ).train()  # fmt: skip
    shares = [log["agem/projected"] for log in logs if "agem/projected" in log]
    assert len(shares) == 2 and all(s in (0.0, 0.5, 1.0) for s in shares)


@pytest.mark.parametrize("replay", [-1, "many"])
def test_replay_must_be_a_number_from_0(replay: Any) -> None:
    from unforgotten.errors import RecipeError
    from unforgotten.registry import build

    with pytest.raises(RecipeError, match="replay"):
        build("methods", {"name": "agem", "replay": replay})
