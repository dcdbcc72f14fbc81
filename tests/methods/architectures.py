"""One method on one family's tiny model under one adapter mode: trained, its Fisher checked, saved and read back."""

from __future__ import annotations

import contextlib
import io
import random
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import TrainingArguments

from tests.methods.plainly import row_nll
from tests.training.families import family
from unforgotten import registry
from unforgotten.errors import UnsupportedError
from unforgotten.models import adapters
from unforgotten.models import check_saved as saved
from unforgotten.models.load import load_model, put_adapter
from unforgotten.models.saved_adapter import save_adapter
from unforgotten.testing import VOCABULARY
from unforgotten.training.replay_memory import Memory
from unforgotten.training.trainer import MethodTrainer

STEPS = 3

RECURRENT = ("jamba", "mamba")
"""Families whose scan is in float32, and which use a linear layer's weight outside it, where no adapter reaches it."""

METHODS: dict[str, dict[str, Any]] = {
    "sft": {}, "safeinstr": {"ratio": 0.5}, "grsap": {"ratio": 0.5}, "der": {}, "derpp": {}, "agem": {},
    "refresh": {"rate": 1e-4}, "lisa": {}, "ewc": {}, "ewc adapter": {"space": "adapter"}, "lwf": {},
    "constrained_sft": {}, "ema": {}, "magmax": {}, "safelora": {"select": "threshold", "threshold": 1.0},
    "anchor": {}, "interpolate": {}, "kl": {}, "safegrad": {},
}  # fmt: skip


def rows(n: int, seed: int) -> list[dict[str, Any]]:
    """Short ragged rows, encoded."""
    rng = random.Random(seed)
    made = []
    for i in range(n):
        asked, said = rng.randint(2, 6), rng.randint(1, 12)
        ids = [rng.randrange(3, VOCABULARY) for _ in range(asked + said)]
        made.append({"input_ids": ids, "labels": [-100] * asked + ids[asked:], "kind": ("harmful", "benign")[i % 2]})
    return made


def attention(model: Any) -> list[str]:
    """The linear layers of a model's attention, by the last part of their names; all linear ones where it has none."""
    linear = [n for n, m in model.named_modules() if type(m).__name__ in ("Linear", "Conv1D", "FalconLinear")]
    inner = [n for n in linear if "lm_head" not in n and "embed_out" not in n]
    near = [n for n in inner if "att" in n]
    return sorted({n.rpartition(".")[2] for n in near or inner})


def laid_out(name: str, adapter_mode: str, targets: str, dtype: torch.dtype) -> Any:
    """A family's model with θ_safe and what is trained as a mode has them; adapters are not 0 where θ_safe's are."""
    model = family(name, dtype=dtype)
    if adapter_mode == "full":
        return model
    chosen = "all-linear" if targets == "all-linear" and name not in RECURRENT else attention(model)
    lora = LoraConfig(r=2, lora_alpha=4, target_modules=chosen, task_type="CAUSAL_LM")
    if adapter_mode == "merge":
        return adapters.fresh(model, lora).to(dtype)
    adapter = adapters.ALIGNED if adapter_mode == "stack" else "default"
    model = get_peft_model(model, lora, adapter_name=adapter)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for path, p in model.named_parameters():
            if "lora_B" in path:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.02)
    if adapter_mode == "stack":
        model = adapters.stack(model, LoraConfig(r=3, lora_alpha=4, target_modules=chosen, task_type="CAUSAL_LM"))
    return model.to(dtype)


def base_folder(name: str, folder: Path) -> Path:
    """θ₀ in files, near to θ_safe."""
    if not (folder / "config.json").exists():
        model = family(name)
        generator = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for p in model.parameters():
                p += torch.randn(p.shape, generator=generator) * 0.01
        model.save_pretrained(folder)
    return folder


def trainer_of(spec: dict[str, Any], model: Any, folder: Path, base: Path | None, memory_rows: int = 5) -> Any:
    args = TrainingArguments(
        str(folder), per_device_train_batch_size=2, max_steps=STEPS, learning_rate=1e-2, optim="sgd", report_to=[],
        use_cpu=True, disable_tqdm=True, save_strategy="no", logging_strategy="no", seed=5,
        lr_scheduler_type="constant",
    )  # fmt: skip
    built = registry.build("methods", spec)
    return MethodTrainer(
        model=model, args=args, train_dataset=rows(8, 1), safety_dataset=rows(6, 2), method=spec,
        memory=Memory(n_rows=memory_rows), unaligned_model=str(base) if built.needs_unaligned_model else None,
    )  # fmt: skip


def brute_fisher(trainer: Any, space: str) -> dict[str, Tensor]:
    """The mean over rows of the squared gradient of each row's own log-likelihood, a row at a time by autograd."""
    model = trainer.model.eval()
    if space == "weights" and trainer.run.adapter_mode != "full":
        owners = {n: d.layer.get_base_layer() for n, d in trainer.run.weights.deltas().items()}
        wanted = {n: layer.weight for n, layer in owners.items()}
        turned = {n for n, layer in owners.items() if not isinstance(layer, nn.Linear)}
    else:
        wanted, turned = trainer.run.weights.params(), set()
    frozen = [p for p in wanted.values() if not p.requires_grad]
    for p in frozen:
        p.requires_grad_(True)
    total = {n: torch.zeros_like(p) for n, p in wanted.items()}
    for row in trainer.run.memory.rows:
        grads = torch.autograd.grad(row_nll(model, row), list(wanted.values()), allow_unused=True)
        for n, g in zip(wanted, grads, strict=True):
            if g is not None:
                total[n] += g.detach() ** 2
    for p in frozen:
        p.requires_grad_(False)
    model.train()
    return {n: (t.T if n in turned else t) / len(trainer.run.memory.rows) for n, t in total.items()}


def tried(name: str, adapter_mode: str, targets: str, method: str, folder: Path) -> str:
    """`ok`, or why it was refused before the first step. Whatever else goes wrong is raised."""
    spec = {"name": method.partition(" ")[0], **METHODS[method]}
    base = base_folder(name, folder / "base")
    with contextlib.redirect_stdout(io.StringIO()):
        try:
            model = laid_out(name, adapter_mode, targets, torch.float64)
            trainer = trainer_of(spec, model, folder / "run", base)
        except UnsupportedError as error:
            return f"refused: {error}"
        fisher = None
        if spec["name"] in ("ewc", "refresh"):
            fisher = brute_fisher(trainer, spec.get("space", "weights") if spec["name"] == "ewc" else "adapter")
        first = {n: p.detach().clone() for n, p in trainer.run.weights.params().items()}
        trainer.train()
    if not trainer.edited:
        assert any(not torch.equal(p, first[n]) for n, p in trainer.run.weights.params().items()), "nothing was trained"
    if fisher is not None:
        actual = trainer.methods[spec["name"]]._fisher
        assert set(actual) == set(fisher), sorted(set(actual) ^ set(fisher))[:3]
        # A bias of keys has no gradient but for rounding: squares of that are no figures to compare.
        noise = 1e-20 * max(float(wanted.abs().max()) for wanted in fisher.values())
        for n, wanted in fisher.items():
            near = 1e-4 if name in RECURRENT else 1e-9
            # Norms and soft-caps of some families (Gemma 2) compute in fp32 whatever the weights are.
            torch.testing.assert_close(
                actual[n].to(wanted), wanted, rtol=1e-5, atol=noise + near * float(wanted.abs().max())
            )
    read_back(trainer, name, folder / "saved")
    return "ok"


def read_back(trainer: Any, name: str, folder: Path) -> None:
    """The saved model in float32, as files are, against the live one."""
    model = trainer.model.float()
    ids = saved.prompts(trainer.run.user.rows)
    live = saved.heard(model, ids)
    if not hasattr(model, "peft_config"):
        model.save_pretrained(folder)
        proof = saved.proved(model, live, ids, folder, lambda: load_model(str(folder)), room=True)
    else:
        adapter = save_adapter(model, folder, "somebody/base", None)
        again = lambda: put_adapter(family(name), str(folder), "default", trainable=False)  # noqa: E731
        proof = saved.proved(model, live, ids, folder, again, adapter, room=True)
    assert proof["largest_logit_deviation"] <= proof["limit"]


def neutral_is_sft(name: str, adapter_mode: str, targets: str, method: str, folder: Path) -> None:
    """At its neutral setting a method ends where SFT ends, bit for bit."""
    ends = []
    cls = registry.load("methods", method)
    for spec in ({"name": "sft"}, {"name": method, **cls.neutral}):
        with contextlib.redirect_stdout(io.StringIO()):
            trainer = trainer_of(
                spec, laid_out(name, adapter_mode, targets, torch.float64), folder / "run", folder / "base"
            )
            trainer.train()
        ends.append({n: p.detach().clone() for n, p in trainer.run.weights.params().items()})
    assert set(ends[0]) == set(ends[1]) and all(torch.equal(ends[0][n], p) for n, p in ends[1].items()), method
