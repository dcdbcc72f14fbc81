"""Methods in a list take their turns in order, and owe together what each owes alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from unforgotten import testing
from unforgotten.training.trainer import MethodTrainer

LISA = {"name": "lisa", "safety_steps": 2, "user_steps": 3}
WEIGHS = {"name": "row_weights", "separation": 0.5, "most": 1.0, "tokens": 3, "spread": 0.5}
REFUSES = {"name": "own_replies", "most": 1.0, "neighbours": 0}
LISTS: dict[str, list[Any]] = {
    "two losses and an average": ["der", "lwf", "ema"],
    "rows, a projection, a penalty": ["safeinstr", "agem", "ewc"],
    "batches, token weights, whole weights": [LISA, "constrained_sft", "magmax"],
    "perturbed, then an edit of factors": ["refresh", "ema", {"name": "safelora", "layers": 2}],
    "row weights, and what they gate": [WEIGHS, {"name": "lwf", "gate": "suspect", "unit": "relative", "weight": 30.0}],
    "own replies, two weights by themselves, a scaled change": [
        REFUSES,
        {"name": "der", "weight": "auto", "hold": 1e-6},
        {"name": "anchor", "weight": "auto", "hold": 1e-6},
        "interpolate",
    ],
    "two kinds of KL": ["kl", "safegrad"],
}


@pytest.mark.parametrize("methods", LISTS.values(), ids=LISTS)
@pytest.mark.parametrize("check", ["split", "ranks", "resume"])
def test_contract_of_lists(check: str, methods: list[Any], tmp_path: Path) -> None:
    testing.CHECKS[check](methods, "merge", tmp_path)


def test_an_average_is_over_the_course_that_the_other_method_takes(tmp_path: Path) -> None:
    """[der, ema]: each step is DER's own, draws and dropout included, and what is served averages those steps."""
    m = 0.6

    def run(method: Any) -> tuple[list[dict[str, torch.Tensor]], dict[str, torch.Tensor]]:
        course: list[dict[str, torch.Tensor]] = []

        class Catch(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                course.append({n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad})

        torch.manual_seed(0)
        model = testing.tiny_model("merge", dropout=0.1)
        course.append({n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad})
        args = TrainingArguments(
            str(tmp_path), per_device_train_batch_size=4, max_steps=4, learning_rate=0.02, report_to=[], use_cpu=True,
            disable_tqdm=True, save_strategy="no", logging_strategy="no",
        )  # fmt: skip
        trainer = MethodTrainer(
            model=model, args=args, train_dataset=testing.ragged_rows(12, 1), method=method, callbacks=[Catch()],
            safety_dataset=testing.ragged_rows(8, 2),
        )  # fmt: skip
        trainer.train()
        return course, {n: p.detach().clone() for n, p in trainer.run.weights.params().items()}

    alone, last = run({"name": "der", "weight": 3.0})
    course, served = run([{"name": "der", "weight": 3.0}, {"name": "ema", "decay": m}])
    for name in last:
        assert all(torch.equal(a[name], b[name]) for a, b in zip(alone, course, strict=True))
        expected = m**4 * course[0][name].double()
        expected += sum((1 - m) * m ** (4 - k) * course[k][name].double() for k in range(1, 5))
        torch.testing.assert_close(served[name].double(), expected, rtol=1e-5, atol=1e-7)
        assert not torch.equal(served[name], last[name])
