"""The contract that every method owes, for methods inside and outside this package.

    import pytest
    from unforgotten import testing

    @pytest.mark.parametrize("adapter_mode", testing.ADAPTER_MODES)
    @pytest.mark.parametrize("check", testing.CHECKS)
    def test_contract(check, adapter_mode, tmp_path):
        testing.CHECKS[check]({"name": "der", "weight": 5.0}, adapter_mode, tmp_path)

A method is given as a recipe gives it: a name, or `{name: …, field: …}`; `./mine.py:Mine` works too. The checks split,
ranks and resume take a list of methods as well, and other settings of the memory.
Rows are ragged (1 to 200 response tokens, several assistant turns). Split and ranks are compared in float64 without
dropout, to 1e-9; resume (a new process after SIGKILL, mid-epoch, two micro-batches a step), the neutral and the faint
setting bit for bit, in float32 with dropout 0.1 and AdamW. Everything runs on the CPU, in seconds.
"""

# Long because a contract is read in one place: models, rows, one training run, and the checks.

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import random
import signal
import socket
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unforgotten import registry
from unforgotten.methods.base import Method
from unforgotten.models.adapters import ALIGNED, AdapterMode

ADAPTER_MODES: tuple[AdapterMode, ...] = ("merge", "stack", "continue", "full")
Spec = str | dict[str, Any]
Specs = Spec | list[Spec]

VOCABULARY = 64
USER_ROWS, SAFETY_ROWS = 20, 12
ROWS_A_STEP = 4
"""Five steps an epoch: a checkpoint after step 3 and a kill in step 5 lie in the middle of one."""
STEPS, SAVE_AT, KILL_AT = 7, 3, 5


def tiny_model(adapter_mode: AdapterMode, dropout: float = 0.0, dtype: torch.dtype = torch.float32) -> Any:
    """A random two-layer Llama, with θ_safe and what is trained laid out as `adapter_mode` says."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    from unforgotten.models import adapters

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=2,
        attention_dropout=dropout,
    )
    model: Any = LlamaForCausalLM(config)
    lora = LoraConfig(r=4, lora_alpha=8, lora_dropout=dropout, target_modules=["q_proj", "v_proj", "down_proj"])
    if adapter_mode == "merge":
        model = adapters.fresh(model, lora)
    elif adapter_mode in ("stack", "continue"):
        model = get_peft_model(model, lora, adapter_name=ALIGNED if adapter_mode == "stack" else "default")
        generator = torch.Generator().manual_seed(3)
        for name, p in model.named_parameters():
            if "lora_B" in name:  # an adapter that has been trained: θ_safe is not the base
                p.data.copy_(torch.randn(p.shape, generator=generator) * 0.02)
        if adapter_mode == "stack":
            model = adapters.stack(model, lora)
    return model.to(dtype)


def base_of(model: Any, adapter_mode: AdapterMode) -> dict[str, Tensor]:
    """θ₀ for a tiny model: θ_safe less a change of rank 2 in every matrix, by the Hub's names."""
    from unforgotten.training.finished_weights import LiveModel

    anchor = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    aligned = LiveModel(model, adapter_mode, "aligned", anchor)
    generator = torch.Generator().manual_seed(7)
    base = {}
    for name in aligned.names():
        weight = aligned[name].clone()
        if weight.ndim == 2:
            up, down = (torch.randn(n, 2, generator=generator, dtype=torch.float64) * 0.1 for n in weight.shape)
            weight -= (up @ down.T).to(weight.dtype)
        base[name] = weight
    return base


def ragged_rows(n: int, seed: int) -> list[dict[str, Any]]:
    """Encoded rows of 1 to 200 response tokens in one to three assistant turns, the first two at both extremes."""
    rng = random.Random(seed)
    rows = []
    for i in range(n):
        turns = 1 if i < 2 else rng.randint(1, 3)
        ids: list[int] = []
        labels: list[int] = []
        for _ in range(turns):
            asked = [rng.randrange(VOCABULARY) for _ in range(rng.randint(1, 12))]
            length = (1, 200)[i] if i < 2 else rng.choice((1, 3, 9, rng.randint(10, 60)))
            answered = [rng.randrange(VOCABULARY) for _ in range(length)]
            ids += asked + answered
            labels += [-100] * len(asked) + answered
        rows.append({"input_ids": ids, "labels": labels, "kind": ("harmful", "benign")[i % 2]})
    return rows


def train(
    method: Specs,
    adapter_mode: AdapterMode,
    folder: Path,
    *,
    micro_batch: int = 2,
    accumulation: int = 2,
    exact: bool = False,
    kill_at: int | None = None,
    resume: bool = False,
    loss: Any = "auto",
    memory: Mapping[str, Any] | None = None,
    measured: bool = False,
) -> dict[str, Tensor]:
    """One run on ragged rows; returns the trained tensors.

    exact: float64, SGD, no dropout (for comparisons between splits); otherwise float32, AdamW, dropout 0.1.
    loss: as MethodTrainer takes it. memory: settings of `Memory` beside the number of rows.
    measured: returns every measurement of held-out rows as well, where there are some.
    kill_at: SIGKILL to this very process in that step, between its micro-batches.
    """
    from transformers import TrainerCallback, TrainingArguments

    from unforgotten.training.replay_memory import Memory
    from unforgotten.training.trainer import MethodTrainer

    class Kill(TrainerCallback):
        def on_substep_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if kill_at is not None and state.global_step == kill_at - 1:
                os.kill(os.getpid(), signal.SIGKILL)

    logging.disable(logging.WARNING)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    args = TrainingArguments(
        str(folder),
        per_device_train_batch_size=micro_batch,
        gradient_accumulation_steps=accumulation,
        max_steps=STEPS,
        learning_rate=1e-2,
        lr_scheduler_type="constant",
        optim="sgd" if exact else "adamw_torch",
        save_strategy="no" if exact else "steps",
        save_steps=SAVE_AT,
        logging_steps=2,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=5,
        ddp_backend="gloo" if world > 1 else None,
        ddp_find_unused_parameters=False if world > 1 else None,
    )
    model = tiny_model(adapter_mode, 0.0 if exact else 0.1, torch.float64 if exact else torch.float32)
    specs = method if isinstance(method, list) else [method]
    needs_unaligned_model = any(registry.build("methods", spec).needs_unaligned_model for spec in specs)
    trainer = MethodTrainer(
        model=model,
        unaligned_model=base_of(model, adapter_mode) if needs_unaligned_model else None,
        args=args,
        train_dataset=ragged_rows(USER_ROWS, 1),
        safety_dataset=ragged_rows(SAFETY_ROWS, 2),
        memory=Memory(**{"n_rows": SAFETY_ROWS - 1, **(memory or {})}),
        method=specs,
        replies=replies(),
        loss=loss,
        callbacks=[Kill()],
    )
    assert trainer.run.adapter_mode == adapter_mode
    frozen = {n: p.detach().clone() for n, p in trainer.model.named_parameters() if not p.requires_grad}
    with open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        trainer.train(resume_from_checkpoint=resume or None)
    moved = [n for n, p in trainer.model.named_parameters() if n in frozen and not torch.equal(p, frozen[n])]
    assert not moved, f"frozen weights were changed: {moved[:5]}"
    # Where whole weights were edited there is no adapter any more.
    end = dict(trainer.model.named_parameters()) if trainer.edited else trainer.run.weights.params()
    tensors = {n: p.detach().clone().contiguous() for n, p in end.items()}
    return {**tensors, **(_measurements(trainer.run.memory.held_out) if measured else {})}


def replies() -> Any:
    """Who asks the tiny model and reads its replies: one in four, by its ids, is a published refusal."""
    from types import SimpleNamespace
    from zlib import crc32

    from unforgotten.evaluation.aligned_replies import AlignedReplies

    chat: Any = SimpleNamespace(
        end_ids=(0,), pad_id=0, decode=lambda ids: "sorry" if crc32(bytes(ids)) % 4 == 0 else "done"
    )
    return AlignedReplies(chat)


@cache
def plain(adapter_mode: AdapterMode) -> dict[str, Tensor]:
    """What SFT ends at, trained once in a process."""
    with tempfile.TemporaryDirectory() as folder:
        return train("sft", adapter_mode, Path(folder))


@cache
def whole(method: str, adapter_mode: AdapterMode, more: str = "{}") -> dict[str, Tensor]:
    """What methods end at in float64 with their four rows in one micro-batch, trained once in a process.

    method: as JSON. more: `loss` and `memory` of `train`, likewise.
    """
    with tempfile.TemporaryDirectory() as folder:
        parts = {"micro_batch": 4, "accumulation": 1, "exact": True, "measured": True, **json.loads(more)}
        return train(json.loads(method), adapter_mode, Path(folder), **parts)


def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Largest difference of any element; infinite where a tensor is missing or not finite."""
    if set(a) != set(b) or not all(t.isfinite().all() for t in (*a.values(), *b.values())):
        return float("inf")
    return max(float((a[n] - b[n]).abs().max()) for n in a)


def check_split(method: Specs, adapter_mode: AdapterMode, folder: Path, **more: Any) -> None:
    """Four rows a step in one micro-batch, in two of two, or in four of one: the same weights to 1e-9.

    Here and in the next two, what is measured on held-out rows has to agree as well. more: `loss` and `memory` of
    `train`.
    """
    expected = whole(_key(method), adapter_mode, _key(more))
    for size in (2, 1):
        options: dict[str, Any] = {"micro_batch": size, "accumulation": 4 // size, "exact": True, "measured": True}
        parts = train(method, adapter_mode, folder / f"{size}", **options, **more)
        assert distance(expected, parts) <= 1e-9, f"micro-batches of {size} differ by {distance(expected, parts):.1e}"


def check_ranks(method: Specs, adapter_mode: AdapterMode, folder: Path, **more: Any) -> None:
    """Two gloo ranks with two rows each, in one micro-batch or two, against one rank with four: to 1e-9, on both."""
    expected, port = whole(_key(method), adapter_mode, _key(more)), _free_port()
    folder.mkdir(parents=True, exist_ok=True)
    started = [_start(_ranked, rank, port, method, adapter_mode, folder, more) for rank in range(2)]
    for process in started:
        process.join()
        assert process.exitcode == 0, f"a rank ended with {process.exitcode}"
    for file in sorted(folder.glob("rank*.safetensors")):
        apart = distance(expected, load_file(file))
        assert apart <= 1e-9, f"{file.stem} differs from one rank by {apart:.1e}"


def check_resume(method: Specs, adapter_mode: AdapterMode, folder: Path, **more: Any) -> None:
    """Killed mid-epoch and resumed in a new process: bit for bit the weights of the run that was not.

    The state in its last checkpoint is equal as well: what methods remember, the rows measured, and the notes.
    """
    through, interrupted = folder / "through", folder / "killed"
    expected = train(method, adapter_mode, through, measured=True, **more)
    killed = _start(_saved, method, adapter_mode, interrupted, None, {"kill_at": KILL_AT, **more})
    killed.join()
    assert killed.exitcode == -signal.SIGKILL, f"the run to be killed ended with {killed.exitcode}"
    checkpoints = sorted(p.name for p in interrupted.glob("checkpoint-*"))
    assert checkpoints == [f"checkpoint-{SAVE_AT}"], f"before the kill there were {checkpoints}"
    goes_on = {"resume": True, "measured": True, **more}
    resumed = _start(_saved, method, adapter_mode, interrupted, folder / "resumed.safetensors", goes_on)
    resumed.join()
    assert resumed.exitcode == 0, f"the resumed run ended with {resumed.exitcode}"
    assert distance(expected, load_file(folder / "resumed.safetensors")) == 0.0
    states = [_state(run / f"checkpoint-{STEPS - STEPS % SAVE_AT}" / "unforgotten") for run in (through, interrupted)]
    differ = [name for name in states[0] | states[1] if states[0].get(name) != states[1].get(name)]
    assert not differ, f"after a resume these differ in the last checkpoint: {differ}"


def check_neutral(method: Spec, adapter_mode: AdapterMode, folder: Path) -> None:
    """At its neutral setting the method is SFT, bit for bit, dropout and all.

    An edit of whole weights may have none (MagMax): it owes a test in closed form instead.
    """
    cls = _class(method)
    if cls.neutral or not cls.dense:
        trained = train(_with(method, cls.neutral), adapter_mode, folder / "it")
        assert distance(plain(adapter_mode), trained) == 0.0


def check_faint(method: Spec, adapter_mode: AdapterMode, folder: Path) -> None:
    """With its extra work done but weighing next to nothing it still ends at SFT, bit for bit."""
    cls = _class(method)
    if cls.faint:
        trained = train(_with(method, cls.faint), adapter_mode, folder / "it")
        assert distance(plain(adapter_mode), trained) == 0.0


def check_effect(method: Spec, adapter_mode: AdapterMode, folder: Path) -> None:
    """Away from its neutral setting it is not SFT (a method that does nothing passes every other check)."""
    if _class(method).neutral:
        assert distance(plain(adapter_mode), train(method, adapter_mode, folder / "it")) > 0.0


def check_documented(method: Spec, adapter_mode: AdapterMode, folder: Path) -> None:
    """A claim in the first docstring line, and one sentence under every field."""
    cls = _class(method)
    assert (cls.__doc__ or "").strip(), f"{cls.__name__} has no docstring"
    fields = registry.fields(cls)
    bare = [name for name, schema in fields.items() if not schema.get("description")]
    assert not bare, f"fields without a sentence under them: {bare}"
    unknown = [name for name in (*cls.neutral, *cls.faint) if name not in fields]
    assert not unknown, f"`neutral` or `faint` names no field: {unknown}"


def check_state(method: Spec, adapter_mode: AdapterMode, folder: Path) -> None:
    """What it remembers is in the checkpoint, in safetensors and JSON, and nothing of ours is a pickle."""
    train(method, adapter_mode, folder)
    state = folder / f"checkpoint-{SAVE_AT}" / "unforgotten"
    files = [*state.iterdir(), *(folder / "aligned-states").rglob("*.*")]
    odd = [f.name for f in files if f.is_file() and f.suffix not in (".safetensors", ".json")]
    assert not odd, f"state in other formats: {odd}"
    saved: set[str] = set()
    for file in state.glob("*.safetensors"):
        saved |= {key.partition(":")[0] for key in load_file(file)}
    for file in state.glob("*.json"):
        saved |= set(json.loads(file.read_text()))
    missing = set(_class(method).remembers) - saved
    assert not missing, f"remembered, but not in the checkpoint: {missing}"


CHECKS: dict[str, Callable[..., None]] = {
    "split": check_split,
    "ranks": check_ranks,
    "resume": check_resume,
    "neutral": check_neutral,
    "faint": check_faint,
    "effect": check_effect,
    "documented": check_documented,
    "state": check_state,
}


def _class(method: Spec) -> type[Method]:
    return registry.load("methods", method if isinstance(method, str) else method["name"])


def _key(facts: Specs | Mapping[str, Any]) -> str:
    return json.dumps(facts, sort_keys=True)


def _with(method: Spec, fields: Mapping[str, Any]) -> Spec:
    return {**({"name": method} if isinstance(method, str) else method), **fields}


def _start(target: Callable[..., None], *args: Any) -> Any:
    """A new process from a fork server that has torch loaded but has never run it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["unforgotten.testing", "transformers", "peft", "unforgotten.training.trainer"])
    process = context.Process(target=target, args=args)
    process.start()
    return process


def _measurements(held_out: Any) -> dict[str, Tensor]:
    """Every measurement of held-out rows as one tensor, (measurements, step and units)."""
    lines = [[float(drift.step), *drift.means.values()] for drift in (*held_out.course, held_out.result) if drift]
    return {"held_out": torch.tensor(lines, dtype=torch.float64)} if lines else {}


def _state(folder: Path) -> dict[str, Any]:
    """What methods and the run have in a checkpoint, by name."""
    mark = json.loads((folder / "complete.json").read_text())
    state = {name: mark.get(name) for name in ("notes", "ratios", "held_out")}
    return state | {file.name: file.read_bytes() for file in folder.iterdir() if file.name != "complete.json"}


def _saved(method: Specs, adapter_mode: AdapterMode, folder: Path, file: Path | None, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    weights = train(method, adapter_mode, folder, **options)
    if file is not None:
        save_file(weights, file)


def _ranked(rank: int, port: int, method: Specs, adapter_mode: AdapterMode, folder: Path, more: dict[str, Any]) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    for parts in (1, 2):
        options = {"micro_batch": 2 // parts, "accumulation": parts, "exact": True, "measured": True, **more}
        _saved(method, adapter_mode, folder / f"two-{parts}", folder / f"rank{rank}-{parts}.safetensors", options)
    torch.distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])
