"""KL of replayed answers in one real step against whole logits in float64, and the weights of first tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback

from tests.methods.step import Caught, Rows, arguments, cross_entropy, one_step, response
from tests.training.shapes import SHAPES, tiny
from unforgotten import testing
from unforgotten.errors import RecipeError
from unforgotten.methods.base import first_weights
from unforgotten.methods.kl import KL
from unforgotten.registry import build
from unforgotten.training.replay_memory import Memory
from unforgotten.training.trainer import MethodTrainer

USER, SAFETY = testing.ragged_rows(4, 1), testing.ragged_rows(6, 2)
NORMS = 1e-6
"""Llama's norms round to float32, also in the backward, which what is written out goes through twice."""


def test_first_weights_by_hand() -> None:
    # One turn of three; two turns, of one and of two.
    predicts = torch.tensor([[0, 1, 1, 1, 0], [1, 0, 1, 1, 0]]).bool()
    assert first_weights(predicts, 2, 5.0).tolist() == [5, 5, 1, 5, 5, 5]
    assert first_weights(predicts, 1, 0.0).tolist() == [0, 1, 1, 0, 0, 1]


def weights_of(row: dict[str, Any], first: int, weight: float) -> list[float]:
    """The same of one row, counting from each turn's start."""
    rank, weights, before = 0, [], -2
    for t in response(row):
        rank = rank + 1 if t == before + 1 else 0
        weights.append(weight if rank < first else 1.0)
        before = t
    return weights


def mean_kl(caught: Caught, rows: Rows, first: int, weight: float) -> torch.Tensor:
    """The mean over response tokens of the weighted KL(θ_safe ‖ θ), from whole logits of both models."""
    terms = []
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        live, aligned = (m(input_ids=ids).logits[0, response(row)].log_softmax(-1) for m in (caught.at, caught.aligned))
        kl = torch.nn.functional.kl_div(live, aligned, log_target=True, reduction="none").sum(-1)
        terms.append(kl * torch.tensor(weights_of(row, first, weight)))
    return torch.cat(terms).mean()


@pytest.mark.parametrize("adapter_mode", ["full", "merge", "stack"])
@pytest.mark.parametrize("first_weight", [1.0, 7.0])
def test_a_step_goes_down_cross_entropy_and_kl(first_weight: float, adapter_mode: Any, tmp_path: Path) -> None:
    method = {"name": "kl", "weight": 3.0, "replay": 0.5, "chunk_tokens": 7, "first_weight": first_weight, "first": 2}
    caught = one_step(method, tmp_path, user=USER, safety=SAFETY, adapter_mode=adapter_mode)
    run = caught.trainer.run
    caught.trainer.state.global_step = 0
    with run.turn("kl", "loss"):
        rows = [run.memory.rows[i] for i in run.memory.places(2)]
    caught.check(cross_entropy(caught.at, USER) + 3.0 * mean_kl(caught, rows, 2, first_weight), NORMS)


@pytest.mark.parametrize("adapter_mode", ["lora", "lora_head"])
@pytest.mark.parametrize("shape", SHAPES)
def test_heads_with_caps_scales_and_adapters(shape: str, adapter_mode: str, tmp_path: Path) -> None:
    """The logged divergence is that of the whole logits, also of soft-capped ones and of a head that is trained."""
    targets = ["q_proj", "v_proj"] + (["lm_head"] if adapter_mode == "lora_head" else [])
    torch.manual_seed(42)
    model = get_peft_model(tiny(shape, dtype=torch.float64), LoraConfig(r=4, target_modules=targets)).double()
    seen: dict[str, float] = {}

    class Move(TrainerCallback):
        @torch.no_grad()
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            def logp() -> list[torch.Tensor]:
                out = [model(input_ids=torch.tensor([r["input_ids"]])).logits[0, response(r)] for r in SAFETY]
                return [z.log_softmax(-1) for z in out]

            model.eval()
            before = logp()
            for i, p in enumerate(trainer.run.weights.params().values()):
                torch.manual_seed(i)
                p += 0.1 * torch.randn_like(p)
            kl = [(a.exp() * (a - b)).sum(-1) for a, b in zip(before, logp(), strict=True)]
            seen["expected"] = float(torch.cat(kl).mean())
            model.train()

    args = arguments(
        tmp_path, max_steps=1, per_device_train_batch_size=6, gradient_accumulation_steps=1,
        logging_strategy="steps", logging_steps=1,
    )  # fmt: skip
    trainer = MethodTrainer(
        model=model, args=args, train_dataset=testing.ragged_rows(6, 1), safety_dataset=SAFETY, memory=Memory(n_rows=6),
        method=KL(weight=2.0, chunk_tokens=5), callbacks=[Move()],
    )  # fmt: skip
    trainer.train()
    [logged] = [log for log in trainer.state.log_history if "kl/nats" in log]
    assert seen["expected"] > 1e-5
    # Gemma 2 divides by fp32 constants, and its soft-cap makes the head's check start from fp32 config numbers.
    assert logged["kl/nats"] == pytest.approx(seen["expected"], rel=1e-5)
    assert logged["kl/loss"] == pytest.approx(2.0 * seen["expected"], rel=1e-5)


def test_a_weight_of_0_asks_nothing_of_the_run(tmp_path: Path) -> None:
    run: Any = None
    method = KL(weight=0.0)
    method.start(run)
    assert method.loss(run, {}, None) is None
    caught = one_step({"name": "kl", "weight": 0.0}, tmp_path, user=USER, safety=SAFETY)
    caught.check(cross_entropy(caught.at, USER))


@pytest.mark.parametrize("wrong", [{"weight": -1}, {"replay": 0}, {"first": 0}, {"first_weight": -2}])
def test_a_setting_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match=next(iter(wrong))):
        build("methods", {"name": "kl", **wrong})
