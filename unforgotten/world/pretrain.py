"""Makes the embedded world's base model θ₀ (verb `pretrain`): trained on first use, kept in the user's cache.

The folder's name carries a digest of all that determines the model, so that a changed world never meets an old model
and nobody needs torch to know whether it is there.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from annotated_types import Ge, Gt

from unforgotten import registry
from unforgotten.errors import TrainingError, UnknownName
from unforgotten.registry import Count
from unforgotten.runs.digests import cache_folder
from unforgotten.runs.lease import alone

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast


@dataclass(frozen=True, slots=True)
class Pretraining:
    """How the base is trained: AdamW, cosine with warm-up, loss on all tokens so that it also learns to ask."""

    steps: Count = 1000
    batch_rows: Count = 32
    learning_rate: Annotated[float, Gt(0)] = 3e-3
    warmup_steps: Annotated[int, Ge(0)] = 40
    weight_decay: Annotated[float, Ge(0)] = 0.01

    def __post_init__(self) -> None:
        registry.check(self)


PRETRAINING = Pretraining()


def base_folder(
    seed: int = 0, cache_dir: str | Path | None = None, training: Pretraining = PRETRAINING, model: str = "world"
) -> Path:
    """Where the base of this seed and shape is, or will be. Needs no torch. Raises UnknownName."""
    from unforgotten.world.model import MODELS

    if model not in MODELS:
        raise UnknownName("embedded model", model, MODELS)
    shape = [] if model == "world" else [MODELS[model]]
    facts = json.dumps([_world(), asdict(training), seed, *shape], sort_keys=True)
    name = f"{model}-base-seed{seed}-{hashlib.sha256(facts.encode()).hexdigest()[:12]}"
    return (Path(cache_dir).expanduser() if cache_dir is not None else cache_folder()) / name


def pretrain(
    seed: int = 0,
    cache_dir: str | Path | None = None,
    progress: bool = True,
    training: Pretraining = PRETRAINING,
    model: str = "world",
    say: Callable[[str], None] = lambda text: None,
) -> Path:
    """The folder of the base model, trained now if it is not there yet (about a minute on two cores).

    model: world, world-mistral or world-gemma2. Of several processes one trains and the others wait. Raises
    UnknownName.
    """
    folder = base_folder(seed, cache_dir, training, model)
    if folder.is_dir():
        return folder
    with alone(folder, say):
        if not folder.is_dir():
            say(f"Training the embedded base model {model} (once; it is then kept in your cache).")
            _make(folder, seed, training, progress, model)
    return folder


def _make(folder: Path, seed: int, training: Pretraining, progress: bool, model: str) -> None:
    from unforgotten.runs.bars import hush

    hush()
    trained, tokenizer = _train(seed, training, progress, model)
    fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        trained.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
        fresh.chmod(0o755)
        fresh.rename(folder)
    except OSError:
        if not folder.is_dir():  # otherwise one that took over was faster, and its model is the same
            raise
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


@cache
def _world() -> str:
    """A digest of grammar, vocabulary, template and shape."""
    from unforgotten.world.corpus import texts
    from unforgotten.world.model import SHAPE
    from unforgotten.world.requests import requests
    from unforgotten.world.tokenizer import CHAT_TEMPLATE
    from unforgotten.world.vocabulary import words

    replies = [(r.goal, r.category, r.split, r.compliance, r.refusal) for r in requests()]
    facts = [words(), replies, list(islice(texts(0), 500)), CHAT_TEMPLATE, SHAPE]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _train(
    seed: int, training: Pretraining, progress: bool, name: str
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    import torch
    from transformers import AutoModelForCausalLM

    from unforgotten.runs.bars import progress_bar
    from unforgotten.world.model import config
    from unforgotten.world.tokenizer import tokenizer as make_tokenizer

    tokenizer = make_tokenizer()
    # A private random state: whoever calls keeps their own, and theirs does not reach this model.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(config(name))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=training.learning_rate, betas=(0.9, 0.98), weight_decay=training.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, training))
    batches = _batches(tokenizer, seed, training.batch_rows)
    loss = torch.tensor(math.nan)
    with progress_bar(progress) as bar:
        for step in range(training.steps):
            loss = model(**next(batches)).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            bar(f"base model {name}, seed {seed}", step + 1, training.steps)
    if not math.isfinite(loss.item()):
        raise TrainingError(f"The base model of seed {seed} ended at loss {loss.item()}; use another seed.")
    return model.eval(), tokenizer


def _rate(step: int, training: Pretraining) -> float:
    """The share of the learning rate at a step: up in a line, then down in half a cosine."""
    if step < training.warmup_steps:
        return (step + 1) / training.warmup_steps
    rest = (step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * rest))


def _batches(tokenizer: Any, seed: int, rows: int) -> Iterator[dict[str, torch.Tensor]]:
    from unforgotten.world.corpus import texts

    source = texts(seed)
    while True:
        chats = [[{"role": role, "content": text} for role, text in turns] for turns in islice(source, rows)]
        batch = tokenizer.apply_chat_template(chats, padding=True, return_tensors="pt", return_dict=True)
        ids, mask = batch["input_ids"], batch["attention_mask"]  # (B, T)
        yield {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}
