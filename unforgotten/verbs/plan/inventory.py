"""What is known of models, data sets and the machine without loading a weight or asking the network.

A model's shape is read from its config.json, in its folder or in the Hub's cache, and rows from local files. For the
rest, published numbers are given (catalog.py).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from unforgotten.datasets.base import bounded
from unforgotten.datasets.jsonl import Jsonl
from unforgotten.datasets.reading import files
from unforgotten.errors import DataError, ModelError, RecipeError
from unforgotten.models.folder.open import opened
from unforgotten.models.locate_aligned import unaligned
from unforgotten.recipe.data_sets import dataset
from unforgotten.verbs.plan import catalog, costs

if TYPE_CHECKING:
    from collections.abc import Callable

    from unforgotten.datasets.base import Dataset, Row
    from unforgotten.models.chat.chat import Chat
    from unforgotten.recipe.base import Spec
    from unforgotten.recipe.recipe import Recipe

CHARS_PER_TOKEN = 4
"""Mean of English and code with recent tokenizers. Used only if the model's tokenizer is not on this machine."""
TEMPLATE_TOKENS = 40
"""What a chat template adds to a row: Alpaca's text."""
ASKED_ROWS = 200
"""Number of rows that are tokenized to estimate a set's mean lengths."""
CHECKED_ROWS = 5000
"""Number of the user's rows that are rendered with the model's template, to find faulty rows."""
LARGE = 300_000_000
"""Largest number of parameters that is planned for a CPU."""


@dataclass(frozen=True)
class DatasetSize:
    """A data set, counted or known from its card."""

    name: str
    rows: int
    prompt: float
    """Mean length in tokens, the template included."""
    response: float
    longest: int | None
    """Tokens of the longest row, if known."""
    how: str
    """Source of the numbers of rows and tokens."""


def shape(model: str) -> costs.Shape | None:
    """The shape of a recipe's model or a judge's; None where it is not known here."""
    from unforgotten.world.model import MODELS, SHAPE
    from unforgotten.world.vocabulary import words

    folder = Path(model).expanduser()
    if not folder.is_dir() and model in MODELS:
        family, settings = MODELS[model]
        return costs.shape_of(
            {**SHAPE, "vocab_size": len(words()), "model_type": family, "dtype": "float32", **settings}
        )
    try:
        if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
            below = str((opened(model, part="adapter").adapter or {})["base_model_name_or_path"])
            return shape(below) if files.is_hub_id(below) and not Path(below).exists() else None
        here = folder if folder.is_dir() else cached(model)
        config = opened(folder if folder.is_dir() else here.parent, part="chat").config if here else None
    except (OSError, ValueError, KeyError, ModelError):
        config = None
    return costs.shape_of(config) if config else catalog.SHAPES.get(model)


def cached(model: str, file: str = "config.json") -> Path | None:
    """A file of a Hub model in this machine's cache."""
    if not files.is_hub_id(model):
        return None
    from huggingface_hub import try_to_load_from_cache

    path = try_to_load_from_cache(model, file)
    return Path(path) if isinstance(path, str) else None


def hub_ids(dataset: Dataset) -> list[str]:
    """The Hub ids in a data set's fields, without `base_path` (it completes a `path` on the Hub) for a local file."""
    named = {f.name: getattr(dataset, f.name) for f in fields(dataset) if isinstance(getattr(dataset, f.name), str)}
    if "path" in named:
        named["path"] = dataset.reads_from  # a file of $UNFORGOTTEN_DATA may stand in for it
    if not files.is_hub_id(str(named.get("path", ""))) or Path(named["path"]).exists():
        named.pop("base_path", None)
    return [value for value in named.values() if files.is_hub_id(value) and not Path(value).exists()]


def rows(spec: Spec, recipe: Recipe, seed: int | None) -> DatasetSize:
    """How many rows a data set has and how long they are. Raises DataError for a file that cannot be read.

    Raises RecipeError where it is on the Hub and neither its `n_rows` nor its card tells its size.
    """
    source = dataset(spec, seed)
    if not hub_ids(source):
        return _counted(source, recipe)
    settings = {f.name: getattr(source, f.name) for f in fields(source)}
    name = spec if isinstance(spec, str) else str(spec["name"])
    card = catalog.SETS.get(name)
    n_rows = settings.get("n_rows") or (card.of(settings) if card else None)
    if n_rows is None and card is None and source.most_rows is None:
        raise RecipeError(
            f"--dry-run does not know how many rows {name!r} has on the Hub. Give `n_rows`, or a local `path`."
        )
    lengths = card or catalog.Published({}, 400, 400)
    response = lengths.response / CHARS_PER_TOKEN
    how = f"not here; {'lengths of the published file' if lengths.measured else 'lengths assumed'}"
    prompt = lengths.prompt / CHARS_PER_TOKEN + TEMPLATE_TOKENS
    longest = TEMPLATE_TOKENS + lengths.longest // CHARS_PER_TOKEN if lengths.longest else None
    if source.most_rows is not None:
        n_rows = min(n_rows or source.most_rows, source.most_rows)
    return DatasetSize(source.label, n_rows or 0, prompt, response, longest, how)


def _counted(dataset: Dataset, recipe: Recipe) -> DatasetSize:
    try:
        rows = bounded(dataset)
    except DataError as error:
        if error.rows and isinstance(dataset, Jsonl) and (chat := _chat_here(recipe)):
            from unforgotten.models.chat.faults import with_rendering

            raise with_rendering(error, chat) from None
        raise
    lengths, how = _measure(recipe)
    if isinstance(dataset, Jsonl) and (chat := _chat_here(recipe)):
        _check(chat, rows)
    pairs = [lengths(row) for row in rows[:: max(1, len(rows) // ASKED_ROWS)]] or [(0, 0)]
    most = max(rows, key=lambda row: len(_prompt(row)) + len(row.response), default=None)
    prompts, responses = (sum(counts) / len(pairs) for counts in zip(*pairs, strict=True))
    return DatasetSize(
        dataset.label, len(rows), prompts, responses, sum(lengths(most)) if most else 0, f"read here; {how}"
    )


def _check(chat: Chat, rows: list[Row]) -> None:
    """Raises one error with all of the user's rows that training would refuse."""
    from unforgotten.models.chat.faults import Faults

    faults = Faults(len(rows))
    for index, row in enumerate(rows[:CHECKED_ROWS]):
        with faults.of(row, index):
            if row.messages[-1]["role"] == "assistant":
                chat.examples(row, index)
            else:
                chat.prompt(row)
    faults.refuse()


def _chat_here(recipe: Recipe) -> Chat | None:
    """The model's tokenizer and template, where they are on this machine."""
    folder = Path(unaligned(recipe)).expanduser()
    if not (folder / "tokenizer.json").is_file():
        return None
    return _chat(str(folder), recipe.template, recipe.date, json.dumps(recipe.variables, default=str))


def _prompt(row: Row) -> str:
    return "\n".join(str(turn.get("content") or "") for turn in row.prompt)


def _measure(recipe: Recipe) -> tuple[Callable[[Row], tuple[int, int]], str]:
    """Tokens of a row's prompt, template included, and of its answers.

    With the model's tokenizer they are exact; otherwise they are estimated from the number of characters.
    """
    chat = _chat_here(recipe)
    if chat is None:
        return (
            lambda row: (
                round(len(_prompt(row)) / CHARS_PER_TOKEN) + TEMPLATE_TOKENS,
                round(len(row.response) / CHARS_PER_TOKEN),
            ),
            f"{CHARS_PER_TOKEN} characters a token assumed",
        )

    def lengths(row: Row) -> tuple[int, int]:
        prompt = len(chat.prompt(row))
        if not row.response:
            return prompt, 0
        return prompt, sum(len(example.input_ids) for example in chat.examples(row)[0]) - prompt

    return lengths, "tokens by the model's tokenizer and template"


@lru_cache(4)  # each data set of a plan asks
def _chat(folder: str, template: str | None, date: str | None, variables: str) -> Chat:
    from unforgotten.models.load import load_chat

    return load_chat(folder, template=template, date=date, variables=json.loads(variables))


def machine(parameters: int) -> costs.Machine:
    """The hardware that times are estimated for: the GPU here, else the CPU, or one A100 for large models."""
    if (name := _gpu()) and (gpu := costs.gpu(name, "the GPU here")):
        return gpu
    if parameters < LARGE and not name:
        return costs.cpu(os.cpu_count() or 1)
    what = f"{name} is not in the list of known GPUs" if name else "there is no GPU here"
    gpu = costs.gpu("A100", f"{what}; estimates are for one A100")
    assert gpu is not None
    return gpu


def _gpu() -> str | None:
    """The name of the first NVIDIA GPU, from its driver's tool: importing torch would take a second."""
    if shutil.which("nvidia-smi") is None:
        return None
    asked = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        names = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return None
    return names[0].strip() if names else None


def is_here(model: str) -> bool:
    """Whether a Hub model's weights are in this machine's cache, as far as the first of their files tells."""
    return any(cached(model, f"model.safetensors{ending}") for ending in ("", ".index.json"))
