"""Held-out measurements against full logits in float64, and a training that they leave bit for bit as it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import TrainerCallback, TrainingArguments

from unforgotten import testing
from unforgotten.errors import DataError
from unforgotten.models.adapters import AdapterMode
from unforgotten.training import drift
from unforgotten.training.replay_memory import Memory
from unforgotten.training.trainer import MethodTrainer

Rows = list[dict[str, Any]]


def trainer(folder: Path, mode: AdapterMode = "merge", *, exact: bool = True, **more: Any) -> MethodTrainer:
    """Seven steps on ragged rows; exact: float64 without dropout."""
    settings = {
        "method": "sft",
        "memory": Memory(n_rows=12, held_out=0.5, held_out_rows=4, held_out_every_steps=3),
        "safety_dataset": testing.ragged_rows(24, 2),
        **more,
    }
    args = TrainingArguments(
        str(folder),
        **{
            "per_device_train_batch_size": 2,
            "max_steps": 7,
            "learning_rate": 1e-2,
            "lr_scheduler_type": "constant",
            "save_strategy": "steps",
            "save_steps": 4,
            "logging_steps": 2,
            "report_to": [],
            "disable_tqdm": True,
            "use_cpu": True,
            "seed": 5,
        },
    )
    model = testing.tiny_model(mode, 0.0 if exact else 0.1, torch.float64 if exact else torch.float32)
    return MethodTrainer(model=model, args=args, train_dataset=testing.ragged_rows(20, 1), **settings)


def plainly(aligned: Any, model: Any, rows: Rows) -> dict[str, float]:
    """The five units, one row after the other, from the whole logits."""
    sums: dict[str, list[Tensor]] = {}
    for row in rows:
        ids, labels = torch.tensor([row["input_ids"]]), row["labels"]
        at = [t - 1 for t, label in enumerate(labels) if t and label != -100]
        answer = torch.tensor([labels[t + 1] for t in at])[:, None]
        kind = "refusals" if row["kind"] == "harmful" else "lookalikes"
        with torch.no_grad():
            was, now = (m(input_ids=ids, output_hidden_states=True) for m in (aligned, model))
        z0, z = was.logits[0, at], now.logits[0, at]
        p0, p = z0.softmax(1), z.softmax(1)
        kl = (p0 * (p0 / p).log()).sum(1)
        h0, h = was.hidden_states[-1][0, at[0]], now.hidden_states[-1][0, at[0]]
        for unit, each in (
            ("kl", kl),
            ("kl_first", kl[:4]),
            ("logits", (z - z0).square().mean(1)),
            ("nll", p0.gather(1, answer).log() - p.gather(1, answer).log()),
            ("state", ((h - h0).square().sum() / h0.square().sum())[None]),
        ):
            sums.setdefault(f"{unit}_{kind}", []).append(each.flatten())
    return {name: float(torch.cat(values).mean()) for name, values in sums.items()}


@pytest.mark.parametrize("mode", ["merge", "full"])
def test_every_unit_is_that_of_whole_logits(mode: AdapterMode, tmp_path: Path) -> None:
    run = trainer(tmp_path, mode)
    aligned = copy.deepcopy(run.model).eval()
    run.train()
    held_out = run.run.memory.held_out
    assert [(each.step, each.rows) for each in held_out.course] == [(0, 4), (3, 4), (6, 4), (7, 6)]
    assert max(map(abs, held_out.course[0].means.values())) < 1e-12
    expected = plainly(aligned, run.model.eval(), held_out.rows)
    assert held_out.result is not None and held_out.result.means == pytest.approx(expected, rel=1e-6)
    assert min(expected["kl_refusals"], expected["kl_lookalikes"]) > 1e-4
    assert held_out.result.kl == max(held_out.result.means["kl_refusals"], held_out.result.means["kl_lookalikes"])


def test_the_first_rows_are_of_both_kinds_and_are_never_replayed(tmp_path: Path) -> None:
    run = trainer(tmp_path)
    held_out, memory = run.run.memory.held_out, run.run.memory.rows
    assert len(memory) == 12 and len(held_out.rows) == 6
    seen = {tuple(row["input_ids"]) for row in (*memory, *run.run.user.trained_rows)}
    assert not seen & {tuple(row["input_ids"]) for row in held_out.rows}
    assert {held_out.rows[i]["kind"] for i in held_out._order[:2]} == {"harmful", "benign"}


@pytest.mark.parametrize("method", ["sft", "der"])
def test_a_training_with_measurements_is_bit_for_bit_the_one_without(method: str, tmp_path: Path) -> None:
    with_it = trainer(tmp_path / "with", exact=False, method=method)
    with_it.train()
    without = trainer(tmp_path / "without", exact=False, method=method, memory=Memory(n_rows=12))
    without.train()
    assert testing.distance(with_it.run.weights.snapshot(), without.run.weights.snapshot()) == 0.0
    logged = [line for line in with_it.state.log_history if "held_out/kl_refusals" in line]
    assert [line["step"] for line in logged] == [0, 3, 6, 7]
    plain = [[line["loss"] for line in run.state.log_history if "loss" in line] for run in (with_it, without)]
    assert plain[0] == plain[1] and len(plain[0]) == 3
    assert any("KL from the aligned model on held-out safety rows" in note for note in with_it.run.notes)


class Stop(TrainerCallback):
    """As a kill after a checkpoint: the run ends at its step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step == 4


@pytest.mark.parametrize("mode", ["merge", "full"])
def test_a_resumed_run_has_the_course_of_one_that_was_not_stopped(mode: AdapterMode, tmp_path: Path) -> None:
    whole = trainer(tmp_path / "whole", mode)
    whole.train()
    trainer(tmp_path / "stopped", mode, callbacks=[Stop()]).train()
    resumed = trainer(tmp_path / "stopped", mode)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.run.memory.held_out.course == whole.run.memory.held_out.course
    assert resumed.run.memory.held_out.result == whole.run.memory.held_out.result


@pytest.mark.parametrize("cap", [None, 3.0])
def test_a_soft_capped_head_gives_its_own_logits(cap: float | None) -> None:
    from unforgotten.training.head import Head

    torch.manual_seed(0)
    module = torch.nn.Linear(8, 30, bias=False, dtype=torch.float64)
    head = Head(module, 0.7, cap, False, module.weight.detach() + 0.1, None)
    h, stored = (torch.randn(9, 8, dtype=torch.float64) for _ in range(2))
    tokens = torch.randint(0, 30, (9,))

    def bent(raw: Tensor) -> Tensor:
        return raw * 0.7 if cap is None else cap * torch.tanh(raw * 0.7 / cap)

    z, z0 = bent(h @ module.weight.T), bent(stored @ head.weight.T)
    with torch.no_grad():
        kl, square, rise, moved = drift.values(head, h, stored, tokens).T
    p0 = z0.softmax(1)
    assert kl == pytest.approx((p0 * (p0 / z.softmax(1)).log()).sum(1).detach())
    assert square == pytest.approx((z - z0).square().mean(1).detach())
    at = torch.arange(9)
    assert rise == pytest.approx((p0[at, tokens] / z.softmax(1)[at, tokens]).log().detach())
    assert moved == pytest.approx((h - stored).square().sum(1) / stored.square().sum(1))


def test_a_small_drift_in_fp32_is_not_lost_in_rounding() -> None:
    """KL of some 1e-8 nats, as after a first step: a difference of log p, each rounded to 1e-7, would be noise."""
    from unforgotten.training.head import Head

    torch.manual_seed(0)
    module = torch.nn.Linear(16, 500, bias=False)
    head = Head(module, 1.0, None, False, module.weight.detach(), None)
    stored = torch.randn(9, 16)
    h = stored + 3e-4 * torch.randn(9, 16)
    with torch.no_grad():
        kl = drift.values(head, h, stored, torch.zeros(9, dtype=torch.long))[:, 0]
        p0, p = ((each.double() @ module.weight.double().T).softmax(1) for each in (stored, h))
    expected = (p0 * (p0 / p).log()).sum(1)
    assert 1e-9 < float(expected.min()) and float(expected.max()) < 1e-7
    assert kl.tolist() == pytest.approx(expected.tolist(), rel=1e-2)


def test_rows_cannot_be_held_out_of_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="memory.held_out needs safety rows"):
        trainer(tmp_path, safety_dataset=None)


def test_a_line_is_read_back() -> None:
    each = drift.Drift(3, 4, {"kl_refusals": 0.5, "nll_refusals": -0.1})
    assert drift.of_line(drift.line(each)) == each


@pytest.mark.parametrize(("method", "at"), [("sft", [0, 7]), ({"name": "kl", "weight": "auto"}, [*range(8)])])
def test_only_a_method_that_steers_by_them_measures_on_the_way(method: Any, at: list[int], tmp_path: Path) -> None:
    """In 7 steps, each is more than a twentieth of the run."""
    made = trainer(tmp_path, method=method, memory=Memory(n_rows=12, held_out=0.5))
    made.train()
    assert [each.step for each in made.run.memory.held_out.course] == at
