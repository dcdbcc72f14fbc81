"""Model folders and data files made on the spot."""

from __future__ import annotations

import gc
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.training.shapes import tiny, tiny_tokenizer

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<eos>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""An instruct model's template as most are: without marks for the mask."""


@pytest.fixture(autouse=True)
def no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own folder of data files stands in for the Hub in no test that does not say so."""
    monkeypatch.delenv("UNFORGOTTEN_DATA", raising=False)


@pytest.fixture(autouse=True, scope="module")
def collect_what_this_file_makes() -> None:
    """What earlier files left is not searched again: half of a worker's time went into collections of a full heap."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def model_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a random model of a shape to disk, with a tokenizer and (by default) an instruct template."""

    def make(shape: str, template: str | None = CHATML, name: str = "model", **more: Any) -> Path:
        folder = tmp_path / name
        tokenizer = tiny_tokenizer(template)
        tiny(shape, vocabulary=len(tokenizer), **more).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return folder

    return make


@pytest.fixture
def rows_file(tmp_path: Path) -> Callable[..., Path]:
    """Writes a JSONL file of short conversations; without answers where asked."""

    def make(name: str, n: int, answered: bool = True, seed: int = 0) -> Path:
        rng = random.Random(f"{name} {seed}")
        words = "how do i kill a process tell me the answer sorry cannot help with that".split()
        lines = []
        for _ in range(n):
            turns = [{"role": "user", "content": " ".join(rng.choices(words, k=rng.randint(2, 8))) + " ?"}]
            if answered:
                turns.append({"role": "assistant", "content": " ".join(rng.choices(words, k=rng.randint(1, 9))) + " ."})
            lines.append(json.dumps({"messages": turns}))
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n")
        return path

    return make
