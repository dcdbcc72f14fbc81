"""Trainer callbacks that give methods their turns before and after a step, and save their state in checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from unforgotten.methods.base import turns
from unforgotten.runs import bars
from unforgotten.training import checkpoint, drift


class Turns(TrainerCallback):
    """`start` and `after_step` of each method, in their order; stops before a broken step is saved."""

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        with bars.quiet_bar() as report:
            report("before the first step", 0, 0)
            self._start(args)

    def _start(self, args: Any) -> None:
        t = self.trainer
        for name, method in t.methods.items():
            with t.run.turn(name, "start"):
                method.start(t.run)
            if (method.needs_unaligned_model or method.reads_aligned) and t.run.adapter_mode in ("continue", "full"):
                t.run.weights.anchor()  # θ_safe, while it is there
        t.anchor_distance()
        held_out = t.run.memory.held_out
        if held_out.rows:
            with t.run.turn("held_out", "start"):
                t.run.memory.store_held_out()
        if t.resumed_from is not None:
            checkpoint.load_methods(t.resumed_from, t.methods, args.device)
        elif held_out.due(0):
            t.log_drift(held_out.scheduled(0))

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        t = self.trainer
        if (held_out := t.run.memory.held_out).due(state.global_step + 1):
            held_out.scheduled(state.global_step + 1)
        for name, method in t.methods.items():
            if "after_step" in turns(type(method)):
                with t.run.turn(name, "after_step"):
                    method.after_step(t.run)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if (held_out := self.trainer.run.memory.held_out).due(state.global_step):
            wanted = control.should_log  # by the step's own line, which must come all the same
            self.trainer.log_drift(held_out.course[-1])
            control.should_log = wanted
        if control.should_log or control.should_save or control.should_training_stop or args.device.type == "cpu":
            self.trainer.stop_if_broken()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.stop_if_broken()

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        t = self.trainer
        t.accelerator.wait_for_everyone()  # each rank writes a file of its own, which the mark lists
        if args.process_index == 0:
            folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
            if args.world_size > 1 and folder.is_dir() and len(list(folder.glob("rng_state_*.pth"))) < args.world_size:
                t.run.warn(
                    "the ranks have no disk in common, so this training cannot be resumed from its checkpoints. Use "
                    "an output_dir that all ranks see"
                )
            facts = {
                "of": t.run.digest,
                "rows_a_step": t.run.user.batch_size,
                "notes": t.run.notes,
                "ratios": t.run.ratios,
                "held_out": [drift.line(each) for each in t.run.memory.held_out.course],
            }
            checkpoint.save(folder, t.methods, facts)
        t.accelerator.wait_for_everyone()
