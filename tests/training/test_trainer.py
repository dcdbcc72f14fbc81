"""MethodTrainer with SFT is transformers.Trainer, step for step; turns come in order; broken set-ups are refused."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments

from tests.training.shapes import tiny
from unforgotten import testing
from unforgotten.errors import DataError, ModelError, RecipeError, TrainingError, UnknownName, UnsupportedError
from unforgotten.methods.base import Method
from unforgotten.methods.der import DER
from unforgotten.methods.sft import SFT
from unforgotten.training.collate import Collator
from unforgotten.training.trainer import MethodTrainer


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "max_steps": 6,
        "learning_rate": 1e-2,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
    }
    return TrainingArguments(str(folder), **{**settings, **more})


class Losses(TrainerCallback):
    def __init__(self) -> None:
        self.seen: list[tuple[float, float]] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        if "loss" in logs:
            self.seen.append((logs["loss"], logs["grad_norm"]))


@pytest.mark.parametrize("adapter", [True, False])
def test_sft_is_the_trainer_step_for_step(tmp_path: Path, adapter: bool) -> None:
    def run(cls: Any, **more: Any) -> tuple[list[tuple[float, float]], dict[str, torch.Tensor]]:
        model = tiny("llama", attention_dropout=0.1)
        torch.manual_seed(42)
        if adapter:
            model = get_peft_model(model, LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"]))
        losses = Losses()
        rows = testing.ragged_rows(18, 1)  # the last step of the epoch has fewer micro-batches
        trainer = cls(
            model=model, args=arguments(tmp_path / cls.__name__), train_dataset=rows, callbacks=[losses], **more
        )
        trainer.train()
        return losses.seen, {n: p.detach() for n, p in trainer.model.named_parameters() if p.requires_grad}

    expected, theirs = run(Trainer, data_collator=Collator(0))
    actual, ours = run(MethodTrainer, method="sft")
    assert len(expected) == 6
    assert actual == expected
    assert testing.distance(theirs, ours) == 0.0


TURNS: list[str] = []


@dataclass(kw_only=True)
class Recorder(Method):
    """Writes down its turns."""

    needs_safety: ClassVar[bool] = False

    def data(self, run: Any) -> list[Any]:
        TURNS.append("data")
        return run.user.rows  # type: ignore[no-any-return]

    def start(self, run: Any) -> None:
        TURNS.append(f"start@{run.step}")

    def before_step(self, run: Any, batches: list[Any]) -> list[Any]:
        TURNS.append(f"before_step({len(batches)})")
        return batches

    def loss(self, run: Any, batch: Any, out: Any) -> None:
        assert batch["row_id"].shape == batch["input_ids"].shape[:1]
        TURNS.append("loss")

    def gradients(self, run: Any) -> None:
        assert all(p.grad is not None for p in run.weights.params().values())
        TURNS.append("gradients")

    def after_step(self, run: Any) -> None:
        TURNS.append("after_step")

    def finish(self, weights: Any) -> Any:
        TURNS.append("finish")
        return iter(())


def test_the_seven_turns_come_in_order(tmp_path: Path) -> None:
    TURNS.clear()
    trainer = MethodTrainer(
        model=tiny("llama"),
        args=arguments(tmp_path, max_steps=2),
        train_dataset=testing.ragged_rows(8, 1),
        method=Recorder(),
    )
    trainer.train()
    step = ["before_step(2)", "loss", "loss", "gradients", "after_step"]
    assert TURNS == ["data", "start@0", *step, *step, "finish"]


@dataclass(kw_only=True)
class Doubled(Method):
    """Doubles every gradient before clipping, and leaves the weights at twice what training found."""

    needs_safety: ClassVar[bool] = False

    def gradients(self, run: Any) -> None:
        for p in run.weights.params().values():
            p.grad *= 2

    def finish(self, weights: Any) -> Any:
        for name, tensor in weights.trained.items():
            yield name, 2 * tensor


def test_gradients_are_edited_before_clipping_and_finish_overwrites(tmp_path: Path) -> None:
    def run(method: Any, rate: float) -> dict[str, torch.Tensor]:
        trainer = MethodTrainer(
            model=tiny("llama", dtype=torch.float64),
            args=arguments(
                tmp_path, optim="sgd", learning_rate=rate, max_grad_norm=0, max_steps=1, lr_scheduler_type="constant"
            ),
            train_dataset=testing.ragged_rows(8, 1),
            method=method,
        )
        trainer.train()
        return trainer.run.weights.params()

    doubled, expected = run(Doubled(), 1e-2), run("sft", 2e-2)
    for name, tensor in doubled.items():
        torch.testing.assert_close(tensor, 2 * expected[name], rtol=0, atol=1e-12)


def test_a_nan_stops_the_run_and_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    class Break(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
            if state.global_step == 4:
                with torch.no_grad():
                    next(model.parameters()).fill_(float("nan"))

    args = arguments(tmp_path, max_steps=8, save_strategy="steps", save_steps=2, logging_steps=100)
    trainer = MethodTrainer(
        model=tiny("llama"), args=args, train_dataset=testing.ragged_rows(16, 1), callbacks=[Break()], method="sft"
    )
    with pytest.raises(TrainingError, match=r"NaN or infinite at or before step 5\. .*checkpoint-4"):
        trainer.train()
    assert sorted(p.name for p in tmp_path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]


def test_a_checkpoint_without_its_mark_is_not_resumed_from(tmp_path: Path) -> None:
    def trainer(steps: int) -> MethodTrainer:
        args = arguments(tmp_path, max_steps=steps, save_strategy="steps", save_steps=2)
        return MethodTrainer(model=tiny("llama"), args=args, train_dataset=testing.ragged_rows(16, 1), method="sft")

    trainer(4).train()
    (tmp_path / "checkpoint-4" / "unforgotten" / "complete.json").unlink()
    (tmp_path / "checkpoint-4" / "optimizer.pt").unlink()
    again = trainer(4)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 4
    assert (tmp_path / "checkpoint-4" / "optimizer.pt").exists()


def test_resuming_with_another_method_is_refused(tmp_path: Path) -> None:
    args = arguments(tmp_path, max_steps=2, save_strategy="steps", save_steps=2)
    MethodTrainer(model=tiny("llama"), args=args, train_dataset=testing.ragged_rows(16, 1), method="sft").train()
    other = MethodTrainer(
        model=tiny("llama"),
        args=arguments(tmp_path, max_steps=4),
        train_dataset=testing.ragged_rows(16, 1),
        method="safeinstr",
        safety_dataset=testing.ragged_rows(4, 2),
    )
    with pytest.raises(TrainingError, match="same"):
        other.train(resume_from_checkpoint=True)


def test_states_of_the_aligned_model_are_not_made_again_from_moved_weights(tmp_path: Path) -> None:
    def trainer(steps: int, seed: int) -> MethodTrainer:
        args = arguments(tmp_path, max_steps=steps, save_strategy="steps", save_steps=2)
        return MethodTrainer(
            model=tiny("llama"),
            args=args,
            train_dataset=testing.ragged_rows(16, 1),
            method="der",
            safety_dataset=testing.ragged_rows(8, seed),
        )

    trainer(2, 2).train()
    with pytest.raises(TrainingError, match="cannot compute it again"):
        trainer(4, 3).train(resume_from_checkpoint=True)


def test_a_kill_while_states_are_stored_loses_one_shard(tmp_path: Path) -> None:
    def trainer() -> MethodTrainer:
        return MethodTrainer(
            model=tiny("llama"),
            args=arguments(tmp_path, max_steps=1),
            train_dataset=testing.ragged_rows(8, 1),
            method="der",
            safety_dataset=testing.ragged_rows(20, 2),
        )

    trainer().train()
    shards = sorted(tmp_path.rglob("*-of-*.safetensors"))
    assert len(shards) == 3
    times = [s.stat().st_mtime_ns for s in shards]
    before = shards[2].read_bytes()
    shards[2].unlink()
    trainer().train()
    assert [s.stat().st_mtime_ns for s in shards[:2]] == times[:2]
    assert shards[2].read_bytes() == before


@pytest.mark.parametrize(
    ("more", "error", "said"),
    [
        ({"method": "dr"}, UnknownName, "Did you mean 'der'"),
        ({"method": {"name": "der", "wieght": 1}}, UnknownName, "Did you mean 'weight'"),
        ({"method": {"name": "der", "weight": -1}}, RecipeError, "greater than or equal to 0"),
        ({"method": ["der", "der"]}, RecipeError, "twice"),
        ({"method": "der"}, DataError, "safety_dataset="),
        ({"train_dataset": [{"input_ids": [1, 2]}]}, DataError, "no labels"),
        ({"train_dataset": [{"input_ids": [1, 2], "labels": [-100, -100]}]}, DataError, "no token in the loss"),
        ({"train_dataset": [{"input_ids": [1, 2], "labels": [1]}]}, DataError, "2 input_ids but 1 labels"),
        ({"train_dataset": [{"messages": []}]}, DataError, "processing_class="),
        (
            {"peft_config": LoraConfig(target_modules=["q_proj"], init_lora_weights="pissa")},
            ModelError,
            "changes the base",
        ),
        ({"peft_config": LoraConfig(target_modules=["q_proj"], bias="all")}, ModelError, "bias='none'"),
    ],
)
def test_bad_input_is_refused_at_the_door(
    tmp_path: Path, more: dict[str, Any], error: type[Exception], said: str
) -> None:
    settings: dict[str, Any] = {"train_dataset": testing.ragged_rows(4, 1), "method": "sft", **more}
    with pytest.raises(error, match=said):
        MethodTrainer(model=tiny("llama"), args=arguments(tmp_path), **settings)


@pytest.mark.parametrize("setup", ["fp16", "fsdp1", "fsdp2", "deepspeed"])
def test_setups_in_which_der_cannot_be_right_are_refused(setup: str) -> None:
    from types import SimpleNamespace

    from unforgotten.training import checks

    plugin = SimpleNamespace(fsdp_version=2 if setup == "fsdp2" else 1)
    trainer = SimpleNamespace(
        is_deepspeed_enabled=setup == "deepspeed",
        is_fsdp_enabled=setup.startswith("fsdp"),
        accelerator=SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin)),
    )
    args = SimpleNamespace(fp16=setup == "fp16")
    says = {"fp16": "bf16", "fsdp1": "under FSDP1", "fsdp2": "under FSDP2", "deepspeed": "under DeepSpeed"}
    with pytest.raises(UnsupportedError, match=says[setup]) as refused:
        checks.refuse([DER()], args, trainer)
    assert setup == "fsdp2" or "FSDP2" not in str(refused.value), "it hangs or fails there, too"
    checks.refuse([SFT()], args, trainer)  # it only chooses data, and runs anywhere


def test_the_methods_pull_is_logged_against_the_users(tmp_path: Path) -> None:
    """The logged ratio is ‖∇ term‖ / ‖∇ cross-entropy‖, here from two separate backward passes."""

    def gradients(method: Any) -> tuple[dict[str, torch.Tensor], float]:
        kept: dict[str, torch.Tensor] = {}

        class Keep(TrainerCallback):
            def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
                if state.global_step == 1:
                    kept.update({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

        trainer = MethodTrainer(
            model=tiny("llama", dtype=torch.float64),
            args=arguments(tmp_path, max_steps=2, optim="sgd", max_grad_norm=0),
            train_dataset=testing.ragged_rows(8, 1),
            safety_dataset=testing.ragged_rows(8, 2),
            method=method,
            callbacks=[Keep()],
        )
        trainer.train()
        return kept, [log.get("method/gradient_norm_ratio", 0.0) for log in trainer.state.log_history][1]

    both, ratio = gradients({"name": "der", "weight": 200.0})
    # After one step both runs stand at the same weights up to the first step's term, so take it from a faint run.
    alone, _ = gradients({"name": "der", "weight": 0.0})
    assert ratio > 0
    norm = torch.sqrt(sum(((both[n] - alone[n]) ** 2).sum() for n in both)) / torch.sqrt(
        sum((g**2).sum() for g in alone.values())
    )
    assert ratio == pytest.approx(float(norm), rel=0.05)


@dataclass(kw_only=True)
class Pull(Method):
    """A term, or a change of the gradients, of a size that is known: `times` the user's gradient at each step."""

    needs_safety: ClassVar[bool] = False
    times: float = 0.0
    by_loss: bool = False

    def loss(self, run: Any, batch: Any, out: Any) -> Any:
        if not self.by_loss:
            return None
        return self.times * sum(p.sum() for p in run.weights.params().values()), 1

    def gradients(self, run: Any) -> None:
        if not self.by_loss:
            for p in run.weights.params().values():
                p.grad += self.times * (1 + run.step) * p.grad


def test_a_gradient_beyond_ten_times_the_users_is_noted_once_with_the_largest(tmp_path: Path) -> None:
    def notes(times: float, **more: Any) -> tuple[Any, list[str]]:
        trainer = MethodTrainer(
            model=tiny("llama"),
            args=arguments(tmp_path, max_steps=3, **more),
            train_dataset=testing.ragged_rows(8, 1),
            method=["sft", Pull(times=times)],
        )
        trainer.train()
        return trainer, [note for note in trainer.run.notes if "times that of the user's loss" in note]

    trainer, [note] = notes(5.0)
    [name] = [n for n in trainer.methods if n != "sft"]
    logged = [line[f"{name}/gradient_norm_ratio"] for line in trainer.state.log_history if "loss" in line]
    assert logged == pytest.approx([5.0, 10.0, 15.0], rel=1e-4)
    assert f"{name}'s gradient was up to 15 times" in note and "(step 3)" in note
    assert notes(3.0)[1] == [], "9 times at most"
    # Steps 2 and 3 of it come after a kill; the largest is that of step 3 all the same, and is there with no step left.
    trainer, _ = notes(5.0, save_strategy="steps", save_steps=3)
    again = MethodTrainer(
        model=tiny("llama"), args=arguments(tmp_path, max_steps=3), train_dataset=testing.ragged_rows(8, 1),
        method=["sft", Pull(times=5.0)],
    )  # fmt: skip
    again.train(resume_from_checkpoint=True)
    assert [note for note in again.run.notes if "up to 15 times" in note]
    assert again.state.global_step == 3, "no step more, although the epoch has one left"
    assert testing.distance(trainer.run.weights.snapshot(), again.run.weights.snapshot()) == 0.0


def test_each_term_of_a_loss_has_its_own_ratio(tmp_path: Path) -> None:
    """The gradient of times · Σ p is `times` everywhere: its norm is known, whatever other terms there are."""
    trainer = MethodTrainer(
        model=tiny("llama"),
        args=arguments(tmp_path, max_steps=1, gradient_accumulation_steps=1),
        train_dataset=testing.ragged_rows(8, 1),
        safety_dataset=testing.ragged_rows(8, 2),
        method=["der", Pull(times=100.0, by_loss=True)],
    )
    trainer.train()
    [name] = [n for n in trainer.methods if n != "der"]
    [line] = [line for line in trainer.state.log_history if "loss" in line]
    count = sum(p.numel() for p in trainer.run.weights.params().values())
    user = 100 * count**0.5 / line[f"{name}/gradient_norm_ratio"]
    assert user == pytest.approx(line["method/gradient_norm_ratio"] ** -1 * 100 * count**0.5, rel=1e-2)
    assert line["der/gradient_norm_ratio"] < 1 < line[f"{name}/gradient_norm_ratio"]
    assert len([note for note in trainer.run.notes if "times that" in note]) == 1
