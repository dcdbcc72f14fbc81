"""What methods say of themselves in the log, against the same quantity worked out from the weights beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, TrainingArguments

from tests.methods import safety_adapter
from unforgotten import registry, testing
from unforgotten.models.adapters import AdapterMode
from unforgotten.training.distance import squared_norm
from unforgotten.training.replay_memory import Memory
from unforgotten.training.trainer import MethodTrainer

SAYS = {
    "agem": {"agem/projected", "agem/gradient_norm_ratio"},
    "anchor": {"anchor/loss", "method/gradient_norm_ratio", "anchor/gradient_norm_ratio"},
    "constrained_sft": {
        "constrained_sft/token_weight",
        "constrained_sft/loss",
        "method/gradient_norm_ratio",
        "constrained_sft/gradient_norm_ratio",
    },
    "der": {"der/loss", "method/gradient_norm_ratio", "der/gradient_norm_ratio"},
    "guarded": {"guarded/loss", "guarded/nats", "method/gradient_norm_ratio", "guarded/gradient_norm_ratio"},
    "row_weights": {
        "row_weights/row_weight",
        "row_weights/loss",
        "method/gradient_norm_ratio",
        "row_weights/gradient_norm_ratio",
    },
    "derpp": {"derpp/loss", "method/gradient_norm_ratio", "derpp/gradient_norm_ratio"},
    "ema": {"ema/distance_from_average"},
    "ewc": {"ewc/penalty", "ewc/gradient_norm_ratio"},
    "kl": {"kl/loss", "kl/nats", "method/gradient_norm_ratio", "kl/gradient_norm_ratio"},
    "lisa": {"lisa/safety_step", "lisa/pull_norm", "lisa/gradient_norm_ratio"},
    "lwf": {"lwf/loss", "method/gradient_norm_ratio", "lwf/gradient_norm_ratio"},
    "safegrad": {"safegrad/projected", "safegrad/nats", "safegrad/gradient_norm_ratio"},
    "refresh": {"refresh/loss", "refresh/unlearned_norm", "method/gradient_norm_ratio", "refresh/gradient_norm_ratio"},
}
"""Methods that only choose rows or edit the finished weights have nothing to say at a step."""


class Seen(TrainerCallback):
    """The trained weights before and after each step."""

    def __init__(self) -> None:
        self.before: list[dict[str, torch.Tensor]] = []
        self.after: list[dict[str, torch.Tensor]] = []
        self.model: Any = None

    def copied(self) -> dict[str, torch.Tensor]:
        return {n: p.detach().double().clone() for n, p in self.model.named_parameters() if p.requires_grad}

    def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        self.model = model
        self.before.append(self.copied())

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.after.append(self.copied())


def trained(
    method: Any, adapter_mode: AdapterMode, folder: Path, **more: Any
) -> tuple[Any, Seen, list[dict[str, float]]]:
    seen = Seen()
    args = TrainingArguments(
        str(folder), per_device_train_batch_size=2, max_steps=4, learning_rate=1e-2, lr_scheduler_type="constant",
        logging_steps=1, save_strategy="no", report_to=[], use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    model = testing.tiny_model(adapter_mode, dtype=torch.float64)
    name = method if isinstance(method, str) else method["name"]
    needs_unaligned_model = registry.load("methods", name).needs_unaligned_model
    trainer = MethodTrainer(
        model=model, args=args, train_dataset=testing.ragged_rows(8, 1), safety_dataset=[
            {**row, "kind": "harmful" if i % 2 else "benign"} for i, row in enumerate(testing.ragged_rows(10, 2))
        ],
        memory=Memory(n_rows=10), method=method, callbacks=[seen],
        unaligned_model=testing.base_of(model, adapter_mode) if needs_unaligned_model else None, **more,
    )  # fmt: skip
    trainer.train()
    return trainer, seen, [log for log in trainer.state.log_history if "loss" in log]


@pytest.mark.parametrize("name", registry.names("methods"))
def test_every_method_says_how_far_it_went_and_what_it_did(name: str, tmp_path: Path) -> None:
    more: dict[str, dict[str, Any]] = {
        "lisa": {"safety_steps": 1, "user_steps": 1, "mode": "reference"},
        "grsap": {"control": "downstream"},
        "own_replies": {"most": 1.0},
        "guarded": {"most": 1.0},
        "row_weights": {"separation": 0.5, "most": 1.0, "spread": 0.5},
    }
    if name == "safemerge":
        more[name] = {"safety_adapter": str(safety_adapter.write("merge", tmp_path / "safety"))}
    _, _, logs = trained({"name": name, **more.get(name, {})}, "merge", tmp_path, replies=testing.replies())
    said = {key for log in logs for key in log if "/" in key}
    assert said == SAYS.get(name, set()) | {"method/distance_from_aligned"}
    assert all(log["method/distance_from_aligned"] > 0 for log in logs)


@pytest.mark.parametrize("adapter_mode", testing.ADAPTER_MODES)
def test_the_distance_is_that_of_the_dense_weights(adapter_mode: AdapterMode, tmp_path: Path) -> None:
    trainer, seen, logs = trained("sft", adapter_mode, tmp_path, log_distance=True)
    for log, now in zip(logs, seen.after, strict=True):
        total = 0.0
        if adapter_mode == "full":
            total = sum(float((now[n] - seen.before[0][n]).square().sum()) for n in now)
        else:
            for one in trainer.run.weights.deltas().values():
                first, last = ((w[one.b_name] @ w[one.a_name]) * one.scale for w in (seen.before[0], now))
                total += float((last - first).square().sum())
        assert log["method/distance_from_aligned"] == pytest.approx(total**0.5, rel=1e-9)


def test_a_second_copy_of_all_weights_is_kept_only_where_asked(tmp_path: Path) -> None:
    _, _, logs = trained("sft", "full", tmp_path)
    assert not any("method/distance_from_aligned" in log for log in logs)
    assert not list(tmp_path.rglob("anchor*"))


def test_the_norm_through_grams_by_hand() -> None:
    """B A = [[1, 2], [2, 4]] of B = (1, 2)ᵀ and A = (1, 2): 1 + 4 + 4 + 16."""
    assert squared_norm(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0], [2.0]])).item() == 25.0


@pytest.mark.parametrize("space", ["weights", "adapter"])
def test_the_penalty_is_half_the_weighted_squares(space: str, tmp_path: Path) -> None:
    trainer, seen, logs = trained({"name": "ewc", "weight": 3.0, "space": space}, "merge", tmp_path)
    method = trainer.methods["ewc"]
    for log, now in zip(logs, seen.before, strict=True):
        total = 0.0
        if space == "adapter":
            for name, f in method._fisher.items():
                total += float((f.double() * (now[name] - seen.before[0][name]).square()).sum())
        else:
            for name, one in trainer.run.weights.deltas().items():
                gap = one.scale * now[one.b_name] @ now[one.a_name]
                total += float((method._fisher[name].double() * gap.square()).sum())
        assert log["ewc/penalty"] == pytest.approx(1.5 * total, rel=1e-6, abs=1e-12)
    assert logs[-1]["ewc/penalty"] > 0


def test_the_pull_the_average_and_the_move_are_those_that_were_made(tmp_path: Path) -> None:
    trainer, seen, logs = trained({"name": "ema", "decay": 0.5}, "merge", tmp_path / "ema")
    average = seen.before[0]
    for log, now in zip(logs, seen.after, strict=True):
        average = {n: 0.5 * average[n] + 0.5 * now[n] for n in now}
        apart = sum(float((now[n] - average[n]).square().sum()) for n in now) ** 0.5
        assert log["ema/distance_from_average"] == pytest.approx(apart, rel=1e-6)
    spec = {"name": "lisa", "safety_steps": 0, "user_steps": 2, "pull": 0.7, "mode": "paper"}
    trainer, seen, logs = trained(spec, "merge", tmp_path / "lisa")
    for log, now in zip(logs, seen.before, strict=True):
        apart = sum(float((now[n] - seen.before[0][n]).square().sum()) for n in now) ** 0.5
        assert log["lisa/pull_norm"] == pytest.approx(0.7 * apart, rel=1e-6)
        assert log["lisa/safety_step"] == 0.0
