"""`weight: auto`: its rules by hand, and a run in which the constraint is held."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainingArguments

from unforgotten import registry, testing
from unforgotten.errors import DataError, RecipeError, TrainingError
from unforgotten.methods.base import Drift
from unforgotten.methods.base.auto_weight import BALANCE_STEPS, SPAN, TRACE, dual, mean
from unforgotten.methods.der import DER
from unforgotten.training.replay_memory import Memory
from unforgotten.training.trainer import MethodTrainer


def test_the_dual_variable_moves_by_half_the_log_of_the_excess() -> None:
    assert dual(2.0, 0.8, 1.0) == 2.0
    assert dual(2.0, 0.8 * math.exp(0.4), 1.0) == pytest.approx(2 * math.exp(0.2))
    assert dual(2.0, 1e6, 1.0) == pytest.approx(2 * math.e)  # clipped
    assert dual(2.0, 0.0, 1.0) == pytest.approx(2 / math.e)
    assert mean(0.0, 4.0) == 4.0 and mean(4.0, 1.0) == 2.0
    assert dual(900.0, 9.0, 1.0) == SPAN and dual(1e-3, 1e-9, 1.0) == 1 / SPAN


@pytest.mark.parametrize("slope", [1.0, 2.0])
def test_it_settles_where_kl_is_a_power_of_the_weight(slope: float) -> None:
    # KL = 5 λ^-a is 0.8 · 0.025 at λ = 250^(1/a); the running mean makes it swing, and it comes to rest.
    weight, recent = 1.0, 0.0
    for _ in range(60):
        excess = 5 * weight**-slope / 0.025
        recent = mean(recent, excess)
        weight = dual(weight, recent, 1.0)
    assert weight == pytest.approx(250 ** (1 / slope), rel=1e-2)


class Told:
    """A run as `after_step` sees it: what is measured and read is told by the test."""

    def __init__(self, **facts: Any) -> None:
        self.step, self.steps, self.gradient_norms, self.notes = 0, 100, None, list[str]()
        self.memory = SimpleNamespace(measures_drift=False, drift=lambda rows=None: self.drift)
        self.drift = Drift(0, 8, {"kl_refusals": 0.0, "kl_lookalikes": 0.0})
        self.__dict__ |= facts

    def log(self, **values: Any) -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)

    def after(self, method: DER, kl: float = 0.0, norms: tuple[float, float] | None = None, due: bool = False) -> float:
        """One step; λ of the next one."""
        run: Any = self
        self.drift, self.gradient_norms = Drift(self.step, 8, {"kl_refusals": kl, "kl_lookalikes": 0.0}), norms
        self.memory.measures_drift = due
        method.after_step(run)
        self.step += 1
        return method.present_weight(run)


def test_dual_is_free_then_balances_the_gradients_then_holds() -> None:
    method, run = DER(weight="auto", hold=0.02), Told()
    assert run.after(method, kl=0.009) == 0.0  # nothing is replayed, and nothing read
    assert not method.reads_gradient_norms(run)  # type: ignore[arg-type]
    assert run.after(method, kl=0.01) == TRACE
    assert run.after(method, norms=(6.0, 2.0 * TRACE)) == pytest.approx(3.0)
    assert run.after(method, norms=(2.0, 2.0 * 3.0)) == pytest.approx(8 / 4)
    for _ in range(BALANCE_STEPS - 2):
        run.after(method, norms=(0.0, 2.0 * method.present_weight(run)))  # type: ignore[arg-type]
    assert method.present_weight(run) == pytest.approx(1.0)  # type: ignore[arg-type]
    assert run.after(method, kl=0.016 * math.e, due=True) == pytest.approx(math.exp(0.5))
    assert run.after(method, kl=0.5) == pytest.approx(math.exp(0.5))  # not measured: λ stays


def test_ratio_and_polyak_follow_the_norms() -> None:
    run: Any = Told()
    method = DER(weight="auto", auto="ratio", ratio=0.5)
    assert method.present_weight(run) == 0.0, "at θ_safe the term's gradient is rounding"
    assert run.after(method, norms=(6.0, 1e-12 * TRACE)) == TRACE, "and no λ follows from it"
    assert run.after(method, norms=(6.0, 0.0)) == TRACE  # the term has no gradient yet
    assert run.after(method, norms=(6.0, 2.0 * TRACE)) == pytest.approx(0.5 * 3)
    run = Told(step=1)
    method = DER(weight="auto", auto="polyak", hold=0.02)
    assert run.after(method, kl=0.01) == TRACE
    assert run.after(method, norms=(6.0, 2.0 * TRACE)) == 0.0  # the constraint holds: nothing pulls
    assert run.after(method, kl=0.03, due=True) == pytest.approx(0.5 * 3)
    assert run.after(method, kl=5.0, due=True) == pytest.approx(10 * 3)  # the mean is √(1.5 · 250), the most is 10


@pytest.mark.parametrize(
    ("kl", "word"), [(0.03, "constraint not met: DER's held-out KL is 0.03"), (0.01, "constraint met")]
)
def test_the_end_says_whether_the_constraint_is_met(kl: float, word: str) -> None:
    run = Told(step=99)
    run.after(DER(weight="auto", hold=0.02), kl=kl, due=True)
    assert any(note.startswith(word) for note in run.notes)


@pytest.mark.parametrize("kinds", [("kl_refusals", "kl_lookalikes"), ("kl_lookalikes", "kl_refusals")])
def test_no_number_meets_no_constraint(kinds: tuple[str, str]) -> None:
    run: Any = Told(step=99)
    run.memory.measures_drift, run.drift = True, Drift(100, 8, {kinds[0]: math.nan, kinds[1]: 0.0})
    with pytest.raises(TrainingError, match="KL of DER is nan after step 100"):
        DER(weight="auto").after_step(run)
    assert not run.notes


def test_what_the_rule_does_not_read_is_said(tmp_path: Path) -> None:
    run = trainer(tmp_path, 0.1, method={"name": "der", "weight": 2.0, "hold": 0.1}, max_steps=1)
    run.train()
    assert "DER's hold had no effect, since weight 2 does not read it" in run.run.notes


def test_a_memory_that_leaves_none_to_hold_out_is_refused_before_training(tmp_path: Path) -> None:
    for rows in (1, 2):
        with pytest.raises(RecipeError, match=f"{rows} safety rows are too few to hold some out"):
            trainer(
                tmp_path, 0.1, safety_dataset=testing.ragged_rows(2, 2), memory=Memory(n_rows=rows, refusals=1 / rows)
            )


def test_a_recipe_takes_a_number_or_auto() -> None:
    assert registry.build("methods", {"name": "der", "weight": "2"}).weight == 2.0
    assert registry.build("methods", {"name": "der", "weight": "auto"}).weight == "auto"
    for wrong in (-1, "a lot", True):
        with pytest.raises(RecipeError, match="weight"):
            registry.build("methods", {"name": "der", "weight": wrong})
    before = {"name": "der", "weight": 2.0, "replay": 1.0, "chunk_tokens": 64}
    assert registry.determining(DER(weight=2.0)) == before
    assert registry.determining(DER(weight="auto", hold=0.1)) == {**before, "weight": "auto", "hold": 0.1}


def trainer(folder: Path, hold: float, max_steps: int = 60, **more: Any) -> MethodTrainer:
    settings = {
        "per_device_train_batch_size": 4,
        "max_steps": max_steps,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "logging_steps": 1,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "seed": 5,
    }
    return MethodTrainer(
        model=testing.tiny_model("merge"),
        args=TrainingArguments(str(folder), **settings),
        train_dataset=testing.ragged_rows(20, 1),
        **{
            "safety_dataset": testing.ragged_rows(40, 2),
            "memory": Memory(n_rows=30, held_out_every_steps=2),
            "method": {"name": "der", "weight": "auto", "hold": hold},
            **more,
        },
    )


def test_a_run_is_held_and_its_weight_logged(tmp_path: Path) -> None:
    free = trainer(tmp_path / "free", 100.0)
    free.train()
    moved = free.run.memory.held_out.result
    held = trainer(tmp_path / "held", 1e-3)
    held.train()
    result = held.run.memory.held_out.result
    assert moved is not None and result is not None
    assert moved.kl > 4e-3 and result.kl < 2e-3
    assert any("DER added nothing" in note for note in free.run.notes)
    weights = [line["der/weight"] for line in held.state.log_history if "der/weight" in line]
    assert weights[0] == 0.0 < weights[-1]
    assert any(note.startswith("constraint") for note in held.run.notes)


def test_it_needs_rows_that_are_held_out(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="memory.held_out is 0.1, but"):
        trainer(tmp_path, 0.1, memory=Memory(n_rows=30, held_out=0.1))
    with pytest.raises(DataError, match="safety"):
        trainer(tmp_path, 0.1, safety_dataset=None)
