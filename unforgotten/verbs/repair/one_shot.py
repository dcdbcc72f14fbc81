"""One-shot patch: a few steps of plain fine-tuning of θ* on one refusal, stopped by look-alikes. [arXiv 2601.01887]

The paper's own table shows that generic refusals do; whether they raise over-refusal it does not report. So look-alikes
are asked after each step, and the patch keeps the last step before too many of them are refused. θ*'s own adapter is
trained on where it is one; on whole weights a fresh adapter is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unforgotten.evaluation.contamination import contacts
from unforgotten.recipe.training import Lora, Training
from unforgotten.runs import atomic_folder
from unforgotten.runs.progress import Say

if TYPE_CHECKING:
    from unforgotten.datasets.base import Row
    from unforgotten.evaluation.suite_stages import Suite
    from unforgotten.recipe.evaluate import Evaluate
    from unforgotten.recipe.repair import OneShot

NO_REFUSAL = "no row of `safety_data` is a harmful request with a refusal"


@dataclass(frozen=True)
class Patched:
    """What a patch came to."""

    steps: int
    """Steps kept; 0 where the first one already went too far, and nothing was written then."""
    note: str


def generic_refusal(rows: Sequence[Row], asked: Sequence[str]) -> Row | None:
    """The row whose refusal is given most often, its request the shortest; None where there is none.

    asked: prompts of the evaluation. A row that (nearly) repeats one of them is not taken.
    """
    refusals = [row for row in rows if row.kind == "harmful" and row.response]
    often = Counter(row.response for row in refusals)
    touched = contacts([row.request for row in refusals], {"asked": asked})
    fresh = [row for row, contact in zip(refusals, touched, strict=True) if not contact]
    if not fresh:
        return None
    return min(fresh, key=lambda row: (-often[row.response], len(row.request), row.request))


def patch(
    tuned: str,
    row: Row,
    learning_rate: float,
    one_shot: OneShot,
    suites: Sequence[Suite],
    ceiling: Callable[[float], float],
    settings: Evaluate,
    seed: int,
    target: Path,
    say: Say,
) -> Patched:
    """Trains θ* on one row and writes it to `target`, whole or not at all.

    suites: look-alikes for the early stop. ceiling: of refused look-alikes in percent, by the share of θ* itself.
    """
    from transformers import PrinterCallback
    from transformers.trainer_utils import SaveStrategy

    from unforgotten.models.saved_adapter import save_adapter
    from unforgotten.training.arguments import arguments
    from unforgotten.training.trainer import MethodTrainer

    model, chat, base, revision, config = _opened(tuned)
    refused = Refused(_some(suites, one_shot.prompts), settings, chat)
    before = refused(model)
    with atomic_folder.folder(target) as part:
        training = Training(
            max_steps=one_shot.steps,
            per_device_train_batch_size=1,
            learning_rate=learning_rate,
            lr_scheduler_type="constant",
            warmup_ratio=0.0,
            weight_decay=0.0,
        )
        options = arguments(training, part / "checkpoints", seed)
        options.save_strategy = SaveStrategy.NO  # so few steps are made again after a kill
        watch = _watch(refused, ceiling(before), say)
        trainer = MethodTrainer(
            model=model,
            args=options,
            train_dataset=[row],
            processing_class=chat.tokenizer,
            chat=chat,
            peft_config=config,
            callbacks=[watch],
        )
        trainer.remove_callback(PrinterCallback)
        watch.trainer = trainer
        trainer.train()
        note = f"look-alikes refused {before:.1f} % before, {watch.last:.1f} % after {watch.kept} steps"
        if watch.stopped:
            note += f"; step {watch.kept + 1} went to {watch.stopped:.1f} %, above {watch.ceiling:.1f} %"
        if watch.kept:
            _remove(part / "checkpoints")
            save_adapter(trainer.model, part, base, revision)
            chat.save(part)
            atomic_folder.publish(part, target)
    return Patched(watch.kept, note)


def _opened(tuned: str) -> tuple[Any, Any, str, str | None, Any]:
    """θ* to be trained, its chat, the base that an adapter names with its revision, and the fresh adapter if any."""
    from unforgotten.models import load
    from unforgotten.models.folder.adapter import base_of
    from unforgotten.models.folder.open import opened

    chat = load.load_chat(tuned)
    if not load.is_adapter(tuned) and not load.is_bundled(tuned):
        lora = load.lora_config(Lora(lora_alpha=16, lora_dropout=0.0, target_modules="all-linear"))
        return load.load_model(tuned, trains=True), chat, tuned, None, lora
    if load.is_bundled(tuned):
        base, revision = tuned, None
        below = load.load_base(tuned)
    else:
        config = opened(tuned, part="adapter").adapter or {}
        base, revision = base_of(config, tuned), config.get("revision")
        below = load.load_model(base, revision=revision, trains=True)
    return load.put_adapter(below, tuned, "default", trainable=True), chat, base, revision, None


def _remove(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _some(suites: Sequence[Suite], prompts: int) -> list[Suite]:
    """So many look-alikes of all suites together, evenly."""
    each = max(1, prompts // max(1, len(suites)))
    return [replace(suite, rows=suite.rows[:each]) for suite in suites]


class Refused:
    """The share of look-alikes that a model refuses, in percent, by the first judge that needs no model of its own."""

    def __init__(self, suites: Sequence[Suite], settings: Evaluate, chat: Any) -> None:
        from unforgotten.evaluation.judging import Panel
        from unforgotten.judges.guard.guard import Guard

        self.suites, self.settings, self.chat = suites, settings, chat
        every = Panel(settings.judges).judges.values()
        light = [judge for judge in every if "refused" in judge.tells and not isinstance(judge, Guard)]
        self.panel = Panel([])
        self.panel.judges = {"refusals": light[0]} if light else Panel(["keywords"]).judges

    def __call__(self, model: Any) -> float:
        """The mean of the suites; 0 where none is asked."""
        from unforgotten.evaluation import suite_stages
        from unforgotten.evaluation.judging import check
        from unforgotten.evaluation.scores import hits
        from unforgotten.evaluation.statistics import rates
        from unforgotten.evaluation.suite_stages import Asked
        from unforgotten.evaluation.suite_stages import Suite as Plain
        from unforgotten.generation.local import generate

        shares = []
        for suite in self.suites:
            replies = generate(
                model,
                self.chat,
                suite.rows,
                max_new_tokens=self.settings.max_new_tokens,
                batch_size=self.settings.batch_size,
            )
            asked = Asked(**suite_stages.facts(suite, Plain), key="", replies=replies)
            judged = self.panel.judge(check(asked, trained={}, tasks=[]), first_alone=True)
            shares.append(rates.count(hits(judged)).value or 0.0)
        return sum(shares) / len(shares) if shares else 0.0


def _watch(refused: Refused, ceiling: float, say: Say) -> Any:
    """The callback that asks look-alikes after each step, and takes back the step that goes too far."""
    import torch
    from transformers import TrainerCallback

    class Watch(TrainerCallback):
        trainer: Any = None
        kept, last, stopped = 0, 0.0, 0.0

        def __init__(self) -> None:
            self.ceiling = ceiling

        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.before = self.trainer.run.weights.snapshot()

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            model = self.trainer.run.weights.model
            devices = [args.device] if args.device.type == "cuda" else []
            training = model.training
            with torch.random.fork_rng(devices):
                share = refused(model.eval())
            model.train(training)
            if share <= ceiling:
                self.kept, self.last = state.global_step, share
                return
            say(f"  Step {state.global_step} is taken back: {share:.1f} % of the look-alikes are refused.")
            self.stopped = share
            with torch.no_grad():
                for name, p in self.trainer.run.weights.params().items():
                    p.copy_(self.before[name])
            control.should_training_stop = True

    return Watch()
